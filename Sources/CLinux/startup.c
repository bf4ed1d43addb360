#define _GNU_SOURCE
#include "CLinux.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

// The linker's: where the executable's file is mapped.
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

void clinux_release_startup_memory(void)
{
    malloc_trim(0);
    uintptr_t base = (uintptr_t)&__ehdr_start;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
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
