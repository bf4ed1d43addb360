#define _GNU_SOURCE
#include "CLinux.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

// The linker's: where the executable's file is mapped.
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

// How far below the present frame a start may have reached.
#define STACK_DEPTH (128 << 10)

// What the first thread's stack has grown by. Nothing else is mapped there: the kernel keeps a gap.
static void release_stack(uintptr_t page)
{
    if (gettid() != getpid())
        return;
    uintptr_t end = ((uintptr_t)__builtin_frame_address(0) & ~page) - page - 1;
    madvise((void *)(end - STACK_DEPTH), STACK_DEPTH, MADV_DONTNEED);
}

void clinux_trim_heap(void)
{
    malloc_trim(0);
}

void clinux_release_startup_memory(void)
{
    clinux_trim_heap();
    uintptr_t base = (uintptr_t)&__ehdr_start;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
    release_stack(page);
    const ElfW(Phdr) *segment = (const void *)(base + __ehdr_start.e_phoff);
    for (int left = __ehdr_start.e_phnum; left > 0; left--, segment++) {
        // What can be written may differ from the file.
        if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) != 0)
            continue;
        uintptr_t start = (base + segment->p_vaddr) & ~page;
        uintptr_t end = (base + segment->p_vaddr + segment->p_memsz + page) & ~page;
        madvise((void *)start, end - start, MADV_DONTNEED);
    }
}
