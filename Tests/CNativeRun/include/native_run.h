// Runs user-mode code on the host CPU from a given register state until it traps, and gives the
// state back: the oracle of the differential test. One thread at a time.
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
};

// Installs the signal handlers and maps `size` bytes at `address` (which must be free), readable,
// writable and, if asked for, executable. Returns NULL on failure.
void *_Nullable native_map(uint64_t address, uint64_t size, int executable);
int native_prepare(void);
void native_run(struct native_state *state);

#pragma clang assume_nonnull end

#endif
