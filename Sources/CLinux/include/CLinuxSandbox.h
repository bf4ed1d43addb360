// What a process needs to lock itself in: namespaces, an empty root, Landlock, seccomp filters and
// the report of system calls that they stop. Wrappers return -errno on failure.
#ifndef CLINUX_SANDBOX_H
#define CLINUX_SANDBOX_H

#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

// What a process exits with after a forbidden system call.
static const int CLINUX_EXIT_FORBIDDEN_CALL = 7;

// Loads a filter, an array of struct sock_filter, for the calling thread and those that it starts.
int clinux_load_filter(const void *filter, size_t bytes);

// From now on a system call that a filter traps is reported on standard error as
// "PROGRAM: system call NAME (number N) is not allowed in thread THREAD", and the process exits.
// Nothing is allocated, so it works wherever the call came from. At most 31 bytes of `program` are
// kept.
int clinux_report_forbidden_calls(const char *program);

// The name of a system call of x86-64, NULL if it is not known. Safe in signal handlers.
const char *_Nullable clinux_system_call_name(int number);

// The process and its children can gain no privileges any more (PR_SET_NO_NEW_PRIVS).
int clinux_forbid_new_privileges(void);

// Takes all capabilities that the kernel knows out of the bounding set but those of the mask, as far
// as that is allowed. A user namespace has all of them there, and programs could come by them.
void clinux_limit_bounding_set(uint64_t kept);

// Processes of the same user cannot look into this one (PR_SET_DUMPABLE).
int clinux_hide_process(void);

// Gives malloc one arena: each has memory that is free. Else the C library also opens a file to
// count the CPUs when there are many threads.
void clinux_limit_arenas(void);

// Sets the soft and the hard limit, which never grows.
int clinux_limit(int resource, uint64_t value);

// Enters a new user namespace, in which the user keeps its number and has all capabilities. The
// process must have one thread.
int clinux_enter_user_namespace(void);

// The same, with all users and groups of the old one, which keep their numbers. Needs CAP_SETUID and
// CAP_SETGID, and /proc.
int clinux_enter_user_namespace_of_all(void);

// The capabilities that the thread may use, as a mask.
uint64_t clinux_permitted_capabilities(void);

// Enters new mount, network and IPC namespaces. Needs CAP_SYS_ADMIN.
int clinux_enter_other_namespaces(void);

// The kinds of namespaces that the two functions above make.
enum { CLINUX_NAMESPACE_COUNT = 4 };

// Opens the process's namespaces of these kinds, for `clinux_join_namespaces`. Needs /proc.
int clinux_open_namespaces(int *fds);

// Enters the namespaces that another process has opened, and has as its root what is the mount
// namespace's. Needs to be who made the user namespace, or its CAP_SYS_ADMIN, and one thread.
int clinux_join_namespaces(const int *fds);

// Makes an empty, read-only file system the root of this mount namespace, and lets go of all
// others. `folders` stay where they are: absolute paths without links, none of them inside another
// or the root. On failure *step says which call failed.
int clinux_empty_root(char *const _Nullable *_Nonnull folders, size_t count,
                      const char *_Nullable *_Nonnull step);

// Makes an open folder, or with -1 one that has nothing but what /proc says of this process's
// descriptors, the process's root. Needs CAP_SYS_CHROOT.
int clinux_change_root(int folder);

enum clinux_landlock_signals {
    CLINUX_LANDLOCK_SIGNALS_FREE, // signals may be sent to processes outside
    CLINUX_LANDLOCK_SIGNALS_KEPT, // only to those that are as restricted
};

// Takes away every right to files, TCP and abstract sockets that Landlock knows of, except those to
// what lies in `folders`. Returns the version of Landlock, 0 if the kernel has none.
int clinux_landlock(const int *folders, size_t count, enum clinux_landlock_signals signals);

// fork(2), for a process with one thread.
int clinux_fork(void);

// Arguments as the C library got them; Swift's own way reads /proc, which a sandbox hides.
int clinux_argument_count(void);
const char *_Nullable clinux_argument(int index);
// Shows `text`, arguments with zeros between them, as this process's command line, as far as there is
// room. The arguments are lost.
void clinux_set_command_line(const void *_Nullable text, size_t length);

#pragma clang assume_nonnull end

#endif
