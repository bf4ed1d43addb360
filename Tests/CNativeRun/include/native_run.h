// Runs user-mode code on the host CPU from a given register state until it traps, and gives the
// state back: the oracle of the differential test. Threads take turns.
#ifndef NATIVE_RUN_H
#define NATIVE_RUN_H

#include <stdint.h>

#pragma clang assume_nonnull begin

struct native_state {
    _Alignas(16) uint8_t fx[512]; // FXSAVE format
    uint64_t registers[16];       // RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8...
    uint64_t rip;
    uint64_t rflags;
    // How it ended: the exception's vector, error code and CR2 as the kernel reports them.
    uint64_t vector;
    uint64_t error;
    uint64_t cr2;
    // Selectors for code outside 64-bit mode; 0 in `cs` for 64-bit code.
    uint16_t cs;
    uint16_t ss;
    uint16_t ds;
    uint16_t es;
    // Whether the upper halves of YMM registers are loaded before the run; they are always given
    // back (as zeroes, where the host has none).
    uint64_t has_upper;
    uint8_t upper[256];
};

// Installs the signal handlers and maps `size` bytes at `address` (which must be free), readable,
// writable and, if asked for, executable. Returns NULL on failure.
void *_Nullable native_map(uint64_t address, uint64_t size, int executable);
int native_prepare(void);
void native_run(struct native_state *state);

// Until the limit is lifted, a run of this thread that takes more than 10 ms of the processor ends
// with this vector.
#define NATIVE_NO_END 255
int native_limit(void);
void native_lift_limit(void);

// Maps what native_map has mapped at another address (which must be free) as well. Returns 0, or -1.
int native_map_again(void *mapping, uint64_t size, uint64_t address);

// Makes a segment in the process's local descriptor table, `limit` in bytes and `attributes` as
// bits 40-55 of a descriptor has them. Returns its selector, or -1 where the kernel has no LDT.
int native_set_segment(unsigned entry, uint32_t base, uint32_t limit, unsigned attributes);

#pragma clang assume_nonnull end

#endif
