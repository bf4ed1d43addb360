// A program for gcc's own test in the guest (see work): what it prints must be the same everywhere.
#include <complex.h>
#include <fenv.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 88172645463325252ull;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t sum = 14695981039346656037ull;

static void add(const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) sum = (sum ^ ((const unsigned char *)bytes)[i]) * 1099511628211ull;
}

static void report(const char *what) { printf("%s %016" PRIx64 "\n", what, sum); }

static int order(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static sigjmp_buf place;
static volatile sig_atomic_t last;

static void caught(int number) {
    last = number;
    siglongjmp(place, 1);
}

static void integers(void) {
    for (int i = 0; i < 200000; i++) {
        uint64_t a = next(), b = next() | 1;
        __int128 wide = (__int128)(int64_t)a * (int64_t)b;
        uint64_t values[] = {a / b, a % b, (uint64_t)((int64_t)a >> (b & 63)), (uint64_t)(wide >> 64), (uint64_t)(wide / 1000003),
                             (uint64_t)__builtin_popcountll(a), (uint64_t)__builtin_clzll(b), (uint64_t)__builtin_ctzll(a | 1ull << 63),
                             __builtin_bswap64(a), a << 7 | a >> 57, (uint32_t)a * (uint32_t)b, (uint16_t)a % (uint16_t)b,
                             (uint64_t)((int8_t)a / (int8_t)(b | 2)), (a > b) ^ ((int32_t)a < (int32_t)b) ^ ((int8_t)a <= (int8_t)b)};
        add(values, sizeof values);
    }
    report("integers");
}

static void numbers(void) {
    float matrix[64][64], other[64][64], product[64][64];
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) matrix[i][j] = (float)(next() % 16), other[i][j] = (float)(next() % 16) - 8;
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) {
            float dot = 0;
            for (int k = 0; k < 64; k++) dot += matrix[i][k] * other[k][j];
            product[i][j] = dot;
        }
    add(product, sizeof product);
    for (int i = 0; i < 20000; i++) {
        double x = ldexp((double)(int64_t)next(), (int)(next() % 40) - 60);
        double values[] = {sin(x), cos(x), exp(-fabs(x)), log(fabs(x) + 1), pow(fabs(x), 0.3), tgamma(fmod(fabs(x), 20) + 1), floor(x),
                           nearbyint(x), fma(x, 3, 7), hypot(x, 2), (double)(float)x, (double)(int32_t)fmod(x, 1e9), cbrt(x)};
        add(values, sizeof values);
        long double y = (long double)x * 3;
        long double wide[] = {sinl(y), sqrtl(fabsl(y)), y / 7, fmodl(y, 3), rintl(y), expl(-fabsl(y)), logl(fabsl(y) + 1)};
        for (size_t k = 0; k < sizeof wide / sizeof *wide; k++) add(&wide[k], 10);
    }
    double complex z = cpow(1.5 + 2 * I, 0.5 - I);
    printf("%.15g %.15g %.20Lg %a\n", creal(z), cimag(z), acosl(-1), 0.1);
    report("numbers");
}

static void memory(void) {
    static unsigned char from[70000], to[70000];
    for (size_t i = 0; i < sizeof from; i++) from[i] = (unsigned char)next();
    for (int i = 0; i < 20000; i++) {
        size_t a = next() % 4096, b = next() % 4096, size = next() % (i % 100 ? 300 : 60000);
        memcpy(to + a, from + b, size);
        memmove(from + a, from + b, size);
        memset(to + b, i, size / 3);
        int compared = memcmp(to + a, from + b, size);
        compared = (compared > 0) - (compared < 0);
        add(&compared, sizeof compared);
        const unsigned char *found = memchr(from + a, i & 255, size);
        ptrdiff_t at = found ? found - from : -1;
        add(&at, sizeof at);
    }
    add(from, sizeof from);
    add(to, sizeof to);
    char text[400];
    for (int i = 0; i < 300; i++) text[i] = "abcdefgh"[next() % 8];
    text[300] = 0;
    printf("%zu %zu %s\n", strspn(text, "abcde"), strcspn(text, "hx"), strstr(text, "abc") ? "found" : "none");
    static uint64_t values[100000];
    for (size_t i = 0; i < 100000; i++) values[i] = next();
    qsort(values, 100000, sizeof *values, order);
    add(values, sizeof values);
    report("memory");
}

static void signals(void) {
    static const int numbers[] = {SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSEGV, SIGBUS};
    volatile int zero = 0;
    for (volatile int i = 0; i < 5; i++) {
        signal(numbers[i], caught);
        signal(SIGBUS, caught);
        last = 0;
        if (sigsetjmp(place, 1) == 0) switch (i) {
            case 0: *(volatile int *)8 = 1; break;
            case 1: zero = 7 / zero; break;
            case 2: __asm__ volatile("ud2"); break;
            case 3: __asm__ volatile("int3"); break;
            case 4: *(volatile int *)0x8000000000000000ull = 1; break;
            }
        printf("signal %d\n", (int)last);
    }
}

int main(void) {
    integers();
    memory();
    signals();
    feclearexcept(FE_ALL_EXCEPT);
    volatile double third = 1.0 / 3.0, huge = 1e308;
    huge = huge * 10 + third;
    printf("%d %d %.17g\n", !!fetestexcept(FE_OVERFLOW), !!fetestexcept(FE_DIVBYZERO), third);
    for (int mode = 0; mode < 4; mode++) {
        static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
        fesetround(modes[mode]);
        volatile double ten = 10, tenth = ten / 3;
        volatile long double wide = (long double)ten / 3;
        printf("%a %La %ld\n", tenth, wide, lrint(tenth * 1000));
    }
    fesetround(FE_TONEAREST);
    numbers();
    return 0;
}
