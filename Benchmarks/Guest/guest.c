// Small loads, each dominated by one kind of instruction or system call; the same static program runs
// natively and as the only process (/init) of a guest. Each is done TURNS times; the best time counts.
// Output: "NAME MICROSECONDS CHECKSUM" a load, then "end". Arguments: names of loads, or none for all.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t u64;
typedef uint32_t u32;
#define KEEP(x) __asm__ volatile("" : "+r"(x))
#ifndef TURNS
#define TURNS 3
#endif
#define CLOBBER() __asm__ volatile("" ::: "memory")

static unsigned char *bytes;  // 64 MiB
static u64 seed = 88172645463325252u;

static u64 next(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed;
}

static u64 alu(void) {
    u64 x = 88172645463325252u;
    for (u32 i = 0; i < 60000000; i++) x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}

static u64 collatz(void) {
    u64 steps = 0;
    for (u32 i = 1; i < 300000; i++)
        for (u64 n = i; n != 1; steps++) {
            KEEP(n);
            if (n & 1) n = 3 * n + 1;
            else n >>= 1;
        }
    return steps;
}

static __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) u32 fib_of(u32 n) {
    KEEP(n);
    if (n < 2) return n;
    u32 one = fib_of(n - 1);
    KEEP(one);
    return one + fib_of(n - 2);
}
static u64 fib(void) { return fib_of(36); }

static u64 memcpy_4k(void) {
    for (u32 i = 0; i < 2000000; i++) {
        size_t n = 4096;
        KEEP(n);
        memcpy(bytes + 8192, bytes, n);
        CLOBBER();
    }
    return bytes[8192 + 77];
}

static u64 memcpy_small(void) {
    u64 sum = 0;
    for (u32 i = 0; i < 50000000; i++) {
        size_t n = 33 + (i & 31);
        KEEP(n);
        memcpy(bytes + 8192, bytes + (i & 63), n);
        CLOBBER();
        sum += bytes[8192 + 5];
    }
    return sum;
}

static u64 rep_movsb(void) {
    for (u32 i = 0; i < 2000000; i++) {
        void *to = bytes + 8192, *from = bytes;
        size_t n = 4096;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    }
    return bytes[8192 + 99];
}

static u64 load_stream(void) {
    u64 *p = (u64 *)bytes, sum = 0;
    for (u32 round = 0; round < 80000; round++)
        for (u32 i = 0; i < 4096; i++) {
            sum += p[i];
            KEEP(sum);
        }
    return sum;
}

static u64 store_stream(void) {
    volatile u64 *p = (u64 *)(bytes + 65536);
    for (u32 round = 0; round < 80000; round++)
        for (u32 i = 0; i < 4096; i++) p[i] = round;
    return p[123];
}

static u64 rmw_stream(void) {
    volatile u64 *p = (u64 *)(bytes + 65536);
    for (u32 i = 0; i < 4096; i++) p[i] = i;
    for (u32 round = 0; round < 60000; round++)
        for (u32 i = 0; i < 4096; i++) p[i] += round;
    return p[123];
}

static u32 primes[64];
static u32 root_bits(u32 p, int cube) {  // 32 bits of the fraction of a prime's root
    u64 low = 0, high = (u64)1 << 36;
    while (high - low > 1) {
        u64 middle = (low + high) / 2;
        unsigned __int128 square = (unsigned __int128)middle * middle;
        int over;
        if (cube) over = square > ((unsigned __int128)p << 96) / middle;
        else over = square > (unsigned __int128)p << 64;
        if (over) high = middle;
        else low = middle;
    }
    return (u32)low;
}
static u32 ror(u32 x, int n) { return x >> n | x << (32 - n); }
static u64 sha256(void) {
    u32 k[64], h[8], count = 0;
    for (u32 n = 2; count < 64; n++) {
        u32 d = 2;
        while (d * d <= n && n % d) d++;
        if (d * d > n) primes[count++] = n;
    }
    for (int i = 0; i < 64; i++) k[i] = root_bits(primes[i], 1);
    for (int i = 0; i < 8; i++) h[i] = root_bits(primes[i], 0);
    for (u32 block = 0; block < 600000; block++) {
        u32 w[64], v[8];
        memcpy(w, bytes + (block & 1023) * 64, 64);
        for (int i = 16; i < 64; i++)
            w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
                   (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
        memcpy(v, h, 32);
        for (int i = 0; i < 64; i++) {
            u32 one = v[7] + (ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25)) +
                      ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
            u32 two = (ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22)) +
                      ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            v[7] = v[6], v[6] = v[5], v[5] = v[4], v[4] = v[3] + one;
            v[3] = v[2], v[2] = v[1], v[1] = v[0], v[0] = one + two;
        }
        for (int i = 0; i < 8; i++) h[i] += v[i];
    }
    return (u64)h[0] << 32 | h[7];
}

static int by_value(const void *a, const void *b) {
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return x < y ? -1 : x > y;
}
static u64 sort(void) {
    u32 *p = (u32 *)(bytes + (1 << 20)), count = 1000000;
    seed = 1234567;
    for (u32 i = 0; i < count; i++) p[i] = (u32)next();
    qsort(p, count, sizeof *p, by_value);
    return p[count / 2];
}

// A random cycle through all 64-byte lines of the first SIZE bytes.
static u64 chase(size_t size, u32 steps) {
    u32 count = size / 64, *lines = (u32 *)bytes;
    for (u32 i = 0; i < count; i++) lines[i * 16] = i;
    seed = 7654321;
    for (u32 i = count - 1; i > 0; i--) {
        u32 j = next() % i, other = lines[j * 16];
        lines[j * 16] = lines[i * 16], lines[i * 16] = other;
    }
    u32 at = 0;
    while (steps--) at = lines[at * 16];
    return at;
}
static u64 chase_16k(void) { return chase(16 << 10, 99999999); }
static u64 chase_512k(void) { return chase(512 << 10, 40000000); }
static u64 chase_64m(void) { return chase(64 << 20, 2000000); }

static float fa[128][128], fb[128][128], fc[128][128];
static __attribute__((optimize("O3"))) u64 float_matrix(void) {
    for (int i = 0; i < 128; i++)
        for (int j = 0; j < 128; j++) fa[i][j] = i + j, fb[i][j] = i - j, fc[i][j] = 0;
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 128; i++)
            for (int k = 0; k < 128; k++)
                for (int j = 0; j < 128; j++) fc[i][j] += fa[i][k] * fb[k][j];
        CLOBBER();
    }
    return (u64)(int64_t)fc[5][7];
}

static double da[128][128], db[128][128];
static u64 double_matrix(void) {
    double sum = 0;
    for (int i = 0; i < 128; i++)
        for (int j = 0; j < 128; j++) da[i][j] = i + j, db[i][j] = i - j * 0.5;
    for (int round = 0; round < 60; round++)
        for (int i = 0; i < 128; i++)
            for (int j = 0; j < 128; j++) {
                double cell = 0;
                for (int k = 0; k < 128; k++) cell += da[i][k] * db[k][j];
                sum += cell * round;
            }
    return (u64)(int64_t)sum;
}

static u64 x87(void) {
    long double x = 1, sum = 0;
    for (u32 i = 0; i < 25000000; i++) x = x * 1.0000001L + 0.5L / (i + 1), sum += x;
    return (u64)sum;
}

static u64 lock_xadd(void) {
    u64 sum = 0;
    for (u32 i = 0; i < 30000000; i++) __atomic_fetch_add(&sum, i, __ATOMIC_SEQ_CST);
    return sum;
}

// Registers a, b, c: c = b; b = a + c; a ^= ... until the counter is zero.
static u64 bytecode(void) {
    static const unsigned char program[] = {0, 1, 2, 3, 1, 4, 2, 5};
    u64 a = 1, b = 2, c = 3, count = 6000000;
    for (u32 pc = 0;;) {
        unsigned char code = program[pc++];
        KEEP(pc);
        switch (code) {
        case 0: a += b; break;
        case 1: b ^= a << 3; break;
        case 2: c = c * 5 + a; break;
        case 3: a = a >> 1 | a << 63; break;
        case 4: b -= c; break;
        default:
            if (--count == 0) return a ^ b ^ c;
            pc = 0;
        }
    }
}

static u64 f0(u64 x) { return x + 1; }
static u64 f1(u64 x) { return x * 3; }
static u64 f2(u64 x) { return x ^ 0x55; }
static u64 f3(u64 x) { return x - 7; }
static u64 (*volatile table[])(u64) = {f0, f1, f2, f3};
static u64 indirect(void) {
    u64 x = 1;
    for (u32 i = 0; i < 30000000; i++) x = table[i & 3](x);
    return x;
}

static u64 lengths(void) {
    char *text = (char *)bytes + (2 << 20);
    u64 sum = 0;
    memset(text, 'x', 4095), text[4095] = 0;
    for (u32 i = 0; i < 2000000; i++) {
        CLOBBER();
        sum += strlen(text + (i & 1023));
    }
    return sum;
}

static u64 hash(void) {
    u32 *p = (u32 *)bytes;
    memset(p, 0, 4 << 20);
    u64 x = 1, sum = 0;
    for (u32 i = 0; i < 20000000; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        sum += ++p[x >> 44];
    }
    return sum;
}

static u64 divide(void) {
    u64 sum = 0, x = 0xfedcba9876543210u;
    for (u32 i = 1; i < 20000000; i++) sum += (x ^ sum) / ((u64)i << 8 | 1);
    return sum;
}

static u64 getppid_loop(void) {
    u64 sum = 0;
    for (u32 i = 0; i < 1000000; i++) sum += syscall(SYS_getppid) >= 0;
    return sum;
}

static u64 faults(void) {
    u64 sum = 0;
    for (u32 round = 0; round < 100; round++) {
        unsigned char *p = mmap(0, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) exit(1);
        madvise(p, 2 << 20, MADV_NOHUGEPAGE);
        for (u32 at = 0; at < 2 << 20; at += 4096) sum += p[at]++ + 1;
        munmap(p, 2 << 20);
    }
    return sum;
}

// Without the big area, whose page tables would be most of the work.
static u64 forks(void) {
    madvise(bytes, 64 << 20, MADV_DONTNEED);
    u64 sum = 0;
    for (u32 i = 0; i < 200; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) _exit(i & 63);
        if (child < 0 || waitpid(child, &status, 0) != child) exit(1);
        sum += WEXITSTATUS(status);
    }
    return sum;
}

static u64 pipes(void) {
    int there[2], back[2];
    unsigned char byte = 0;
    u64 sum = 0;
    if (pipe(there) || pipe(back)) exit(1);
    pid_t child = fork();
    if (child < 0) exit(1);
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1) {
            byte += 3;
            if (write(back[1], &byte, 1) != 1) break;
        }
        _exit(0);
    }
    for (u32 i = 0; i < 30000; i++) {
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) exit(1);
        sum += byte;
    }
    close(there[0]), close(there[1]), close(back[0]), close(back[1]);
    waitpid(child, 0, 0);
    return sum;
}

static const struct {
    const char *name;
    u64 (*run)(void);
} loads[] = {
    {"alu", alu}, {"collatz", collatz}, {"fib", fib}, {"memcpy-4k", memcpy_4k},
    {"memcpy-33-64", memcpy_small}, {"rep-movsb-4k", rep_movsb}, {"load-32k", load_stream},
    {"store-32k", store_stream}, {"rmw-32k", rmw_stream}, {"sha256", sha256}, {"qsort", sort},
    {"chase-16k", chase_16k}, {"chase-512k", chase_512k}, {"chase-64m", chase_64m},
    {"float-matrix", float_matrix}, {"double-matrix", double_matrix}, {"x87", x87},
    {"lock-xadd", lock_xadd}, {"bytecode", bytecode}, {"indirect-calls", indirect},
    {"strlen", lengths}, {"hash-4m", hash}, {"div-64", divide}, {"getppid", getppid_loop},
    {"page-faults", faults}, {"fork-wait", forks}, {"pipe-ping-pong", pipes},
};

static u64 now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 0);
    printf("begin\n");
    // "restart" is for machines that cannot power off.
    int restarts = argc > 1 && !strcmp(argv[1], "restart");
    bytes = mmap(0, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) return 1;
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
        int wanted = argc < 2 + restarts;
        for (int a = 1 + restarts; a < argc; a++) wanted |= !strcmp(argv[a], loads[i].name);
        if (!wanted) continue;
        u64 best = ~0ull, sum = 0;
        for (int turn = 0; turn < TURNS; turn++) {
            for (u32 b = 0; b < 1 << 20; b++) bytes[b] = b * 7 + 1;
            u64 start = now();
            u64 found = loads[i].run(), time = now() - start;
            if (turn && found != sum) printf("%s differs between turns\n", loads[i].name);
            sum = found;
            if (time < best) best = time;
        }
        printf("%s %llu %llx\n", loads[i].name, (unsigned long long)best / 1000, (unsigned long long)sum);
    }
    printf("end\n");
    if (getpid() == 1) reboot(restarts ? RB_AUTOBOOT : RB_POWER_OFF);
    return 0;
}
