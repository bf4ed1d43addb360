// Computes with AVX2, FMA, F16C, BMI, LZCNT and MOVBE, in several processes that take turns with
// processes that use SSE only, and prints a number. It is the same wherever the instructions do what
// they should; a register that a switch between processes lost ends the program with status 1.
#include <immintrin.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEVEL3 __attribute__((target("avx2,fma,f16c,bmi,bmi2,lzcnt,movbe"), noinline))

static uint64_t mix(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * 0x9E3779B97F4A7C15;
    return sum ^ sum >> 29;
}

static uint64_t mix_bytes(uint64_t sum, const void *bytes, size_t count)
{
    for (size_t i = 0; i + 8 <= count; i += 8) {
        uint64_t word;
        memcpy(&word, (const char *)bytes + i, 8);
        sum = mix(sum, word);
    }
    return sum;
}

LEVEL3 static uint64_t integers(uint64_t seed)
{
    static int32_t table[256];
    uint64_t sum = seed;
    for (int i = 0; i < 256; i++)
        table[i] = (int32_t)(i * 2654435761u + seed);
    __m256i a = _mm256_set1_epi64x((long long)seed);
    for (int i = 0; i < 2000; i++) {
        __m256i indices = _mm256_and_si256(a, _mm256_set1_epi32(255));
        __m256i gathered = _mm256_i32gather_epi32(table, indices, 4);
        a = _mm256_add_epi32(_mm256_shuffle_epi8(a, _mm256_set1_epi32(0x01020300)), gathered);
        a = _mm256_permutevar8x32_epi32(a, _mm256_set_epi32(3, 1, 4, 7, 5, 0, 2, 6));
        a = _mm256_xor_si256(a, _mm256_mul_epu32(a, _mm256_srli_epi64(a, 7)));
        int32_t out[8] = {0};
        _mm256_maskstore_epi32(out, a, gathered);
        sum = mix_bytes(sum, out, sizeof out);
        sum = mix(sum, (uint32_t)_mm256_movemask_epi8(a));
    }
    return mix_bytes(sum, &a, sizeof a);
}

LEVEL3 static uint64_t reals(uint64_t seed)
{
    __m256d a = _mm256_set_pd(1.5, -0.25, 3e10, (double)(seed & 0xFFFF));
    __m256 b = _mm256_set1_ps(0.75f);
    uint64_t sum = seed;
    for (int i = 1; i < 2000; i++) {
        a = _mm256_fmadd_pd(a, _mm256_set1_pd(0.999), _mm256_set1_pd(1.0 / i));
        a = _mm256_blendv_pd(a, _mm256_sqrt_pd(_mm256_andnot_pd(_mm256_set1_pd(-0.0), a)), a);
        b = _mm256_add_ps(b, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_div_ps(b, b + (float)i), 0)));
        b = _mm256_permute2f128_ps(_mm256_hadd_ps(b, b) * 0.5f, b, 0x21);
        sum = mix_bytes(sum, &a, sizeof a);
        sum = mix_bytes(sum, &b, sizeof b);
    }
    return sum;
}

LEVEL3 static uint64_t bits(uint64_t seed)
{
    uint64_t sum = seed;
    for (uint64_t i = 0; i < 3000; i++) {
        unsigned long long high;
        uint64_t low = _mulx_u64(sum, i * 0x123456789, &high);
        sum = mix(sum, _pdep_u64(low, sum) ^ _pext_u64(high, sum ^ i));
        sum = mix(sum, _bextr_u64(sum, 5, 40) + _blsr_u64(low) + _blsi_u64(high) + _blsmsk_u64(i));
        sum = mix(sum, _lzcnt_u64(low) + _tzcnt_u32((uint32_t)high) + _bzhi_u64(low, i & 63));
        sum += __builtin_bswap64(sum) + (~low & high) + (sum >> (i & 63));
    }
    return sum;
}

static uint64_t strings(uint64_t seed)
{
    static char a[5000], b[5000];
    uint64_t sum = seed;
    for (int i = 0; i < 4000; i++)
        a[i] = (char)(1 + (i * 7 + (int)seed) % 250);
    for (int i = 0; i < 400; i++) {
        memcpy(b + i, a + i * 3, (size_t)(4000 - i * 4));
        memmove(b + 5, b, (size_t)i * 9);
        b[4000 + i] = 0;
        sum = mix(sum, strlen(b + i) + (uint64_t)(strchr(a, 200) - a));
        sum = mix(sum, (uint64_t)(memcmp(a + i, b, 300) > 0) + (memchr(b, 9, 4000) != NULL));
        memset(a + i, i & 0x7F ? i : 1, (size_t)i);
    }
    return mix_bytes(sum, b, sizeof b);
}

// All registers hold something of this process's own while others run.
LEVEL3 static int keeps_registers(uint64_t seed)
{
    __m256i own = _mm256_set1_epi64x((long long)(seed * 0x0123456789ABCDEF));
    for (int i = 0; i < 50; i++) {
        unsigned different;
        register long number __asm__("rax") = 24; // sched_yield
        __asm__ volatile(
            "vmovdqa %[own], %%ymm0\n vpaddq %%ymm0, %%ymm0, %%ymm1\n vpaddq %%ymm1, %%ymm0, %%ymm7\n"
            "vpaddq %%ymm7, %%ymm0, %%ymm15\n syscall\n"
            "vpaddq %%ymm0, %%ymm0, %%ymm2\n vpcmpeqq %%ymm1, %%ymm2, %%ymm2\n"
            "vpaddq %%ymm1, %%ymm0, %%ymm3\n vpcmpeqq %%ymm7, %%ymm3, %%ymm3\n"
            "vpaddq %%ymm7, %%ymm0, %%ymm4\n vpcmpeqq %%ymm15, %%ymm4, %%ymm4\n"
            "vpand %%ymm2, %%ymm3, %%ymm3\n vpand %%ymm3, %%ymm4, %%ymm4\n"
            "vpcmpeqq %[own], %%ymm0, %%ymm0\n vpand %%ymm0, %%ymm4, %%ymm4\n"
            "vpmovmskb %%ymm4, %[different]\n not %[different]\n"
            : [different] "=&r"(different), "+r"(number)
            : [own] "m"(own)
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm7", "xmm15", "rcx", "r11", "memory");
        if (different)
            return 1;
    }
    return 0;
}

static uint64_t with_sse(uint64_t seed)
{
    __m128d a = _mm_set_pd(1.0, (double)seed);
    for (int i = 0; i < 3000; i++) {
        a = _mm_add_pd(_mm_mul_pd(a, _mm_set1_pd(0.9999)), _mm_set1_pd(0.5));
        if (i % 60 == 0)
            sched_yield();
    }
    return mix_bytes(seed, &a, sizeof a);
}

int main(void)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")
        || !__builtin_cpu_supports("bmi2")) {
        puts("no AVX2");
        return 2;
    }
    uint64_t *results = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (uint64_t child = 0; child < 8; child++) {
        if (fork() != 0)
            continue;
        if (child & 1) {
            results[child] = with_sse(child);
            _exit(0);
        }
        uint64_t sum = child + 1;
        for (int round = 0; round < 5; round++) {
            if (keeps_registers(sum | 1))
                _exit(1);
            sum = strings(bits(reals(integers(sum))));
        }
        results[child] = sum;
        _exit(0);
    }
    int status, failed = 0;
    while (wait(&status) > 0)
        failed |= status;
    if (failed) {
        puts("a register was lost");
        return 1;
    }
    printf("%016lx\n", (unsigned long)mix_bytes(0, results, 64));
    return 0;
}
