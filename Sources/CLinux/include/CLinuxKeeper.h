// What a process knows and has open, kept for the next one if it is killed: a ledger in shared
// memory, and a keeper, a small process that shares the table of descriptors.
#ifndef CLINUX_KEEPER_H
#define CLINUX_KEEPER_H

#include <stdint.h>

#include "CLinuxFiles.h"

#pragma clang assume_nonnull begin

// A thing with a descriptor.
struct clinux_kept {
    uint64_t state; // bits 63-32: how many things this slot has held; bit 0: it holds one
    int32_t numbers[2]; // of the descriptor, in each of the ledger's columns
};

struct clinux_kept_node {
    struct clinux_kept kept;
    uint64_t lookups, inode, device, mount;
    uint64_t parent; // a folder in which it was found, or 0
    uint32_t type, spare;
};

// How a node is found again that is known and not open: its descriptor is -1.
struct clinux_kept_place {
    int64_t seconds; // when it was made
    uint32_t nanoseconds;
    uint32_t has_handle; // there is a handle in place of the name
    union {
        char name[256];
        struct clinux_file_handle handle;
    };
};

enum clinux_handle_kind { CLINUX_HANDLE_FILE, CLINUX_HANDLE_FOLDER, CLINUX_HANDLE_LOCKS };

struct clinux_kept_handle {
    struct clinux_kept kept;
    uint64_t node;
    uint32_t kind, appends; // kind: an enum clinux_handle_kind
    uint64_t owner; // of locks
    uint64_t by;    // the open file by which they were made first
    uint32_t process, spare; // its number among the driver's
};

// How far a request has got that must not be done twice.
enum clinux_task_stage { CLINUX_TASK_NONE, CLINUX_TASK_BEGUN, CLINUX_TASK_DONE };

// What a queue was last asked to do.
struct clinux_task {
    uint64_t unique; // of the request; 0: of none
    uint32_t opcode;
    uint32_t stage;  // an enum clinux_task_stage
    int64_t result;  // once done: what the system call returned, or -errno
    int64_t seconds; // when it was begun
    uint32_t nanoseconds;
    uint32_t entry;  // of `forgotten`, among those of the request
    uint64_t before; // what was looked up before it was begun
    uint64_t node;   // whose look-ups it has counted, by one
    uint64_t handle; // which it has made
    uint64_t forgotten; // the node that it is about to forget; `before` is what will be left of it
};

// A part of a file that is mapped into the driver's window.
struct clinux_kept_mapping {
    uint64_t size; // 0: there is none
    uint64_t start, file_offset, node;
    uint32_t writable, spare;
};

// The beginning of a ledger; tasks, handles, nodes, the nodes' places and mappings follow.
struct clinux_ledger {
    uint64_t version;   // 0: nothing was noted
    uint64_t abilities; // what was agreed on with the driver
    int32_t keepers[2]; // the processes' numbers
    uint32_t column;    // which of the two counts
    uint32_t node_slots, handle_slots, mapping_slots; // how many have ever been used
};

enum { CLINUX_LEDGER_NODES = 1 << 20, CLINUX_LEDGER_HANDLES = 1 << 17, CLINUX_LEDGER_TASKS = 66 };

enum { CLINUX_LEDGER_MAPPINGS = 1 << 14 };

static inline struct clinux_task *clinux_ledger_tasks(struct clinux_ledger *ledger)
{
    return (struct clinux_task *)(ledger + 1);
}

static inline struct clinux_kept_handle *clinux_ledger_handles(struct clinux_ledger *ledger)
{
    return (struct clinux_kept_handle *)(clinux_ledger_tasks(ledger) + CLINUX_LEDGER_TASKS);
}

static inline struct clinux_kept_node *clinux_ledger_nodes(struct clinux_ledger *ledger)
{
    return (struct clinux_kept_node *)(clinux_ledger_handles(ledger) + CLINUX_LEDGER_HANDLES);
}

static inline struct clinux_kept_place *clinux_ledger_places(struct clinux_ledger *ledger)
{
    return (struct clinux_kept_place *)(clinux_ledger_nodes(ledger) + CLINUX_LEDGER_NODES);
}

static inline struct clinux_kept_mapping *clinux_ledger_mappings(struct clinux_ledger *ledger)
{
    return (struct clinux_kept_mapping *)(clinux_ledger_places(ledger) + CLINUX_LEDGER_NODES);
}

static const unsigned long CLINUX_LEDGER_SIZE =
    sizeof(struct clinux_ledger) + CLINUX_LEDGER_TASKS * sizeof(struct clinux_task) +
    CLINUX_LEDGER_HANDLES * sizeof(struct clinux_kept_handle) +
    CLINUX_LEDGER_NODES * (sizeof(struct clinux_kept_node) + sizeof(struct clinux_kept_place)) +
    CLINUX_LEDGER_MAPPINGS * sizeof(struct clinux_kept_mapping);

// How many descriptors a keeper is asked for at once, and the size of a request: how many, and
// their numbers. It answers with a byte and the descriptors. A request for none ends it.
enum { CLINUX_KEEPER_BATCH = 60, CLINUX_KEEPER_REQUEST = 4 * (CLINUX_KEEPER_BATCH + 1) };

// Starts a keeper for the calling process, whose every descriptor it holds as well. When the
// process has ended, it closes those that the ledger's column does not name. It ends when nobody
// holds the other end of `socket`, or if it is not the column's keeper by then.
// Returns the keeper's number, or -errno; *pidfd can be read from when it has ended.
int clinux_keeper_start(struct clinux_ledger *ledger, unsigned column, int socket, int *pidfd);

#pragma clang assume_nonnull end

#endif
