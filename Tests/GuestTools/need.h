// What programs have in common that look whether files are what they must be. Include it once, behind
// what the program needs itself.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// How far the program has come: its own words.
static void print_place(void);

static void wrong(const char *what, int line)
{
    int error = errno;
    printf("wrong: ");
    print_place();
    printf(" line %d: %s: %s\n", line, what, strerror(error));
    fflush(stdout);
    exit(1);
}

#define NEED(condition) ((condition) ? (void)0 : wrong(#condition, __LINE__))

// The same bytes for the same seed.
static void fill(char *bytes, unsigned count, unsigned seed)
{
    for (unsigned i = 0; i < count; i++)
        bytes[i] = (char)((seed = seed * 1664525 + 1013904223) >> 24);
}
