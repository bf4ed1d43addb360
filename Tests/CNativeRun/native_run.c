#define _GNU_SOURCE
#include "native_run.h"

#include <asm/ldt.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

// Where the handler puts the guest's state and finds the way back.
static struct native_state *volatile current;
uint64_t native_host_rsp;
uint64_t native_guest_rip;

void native_enter(struct native_state *state);
extern char native_resume[];

__asm__(".text\n"
        ".globl native_enter\n"
        "native_enter:\n"
        "    push %rbx\n    push %rbp\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    mov %rsp, native_host_rsp(%rip)\n"
        "    fxrstor64 (%rdi)\n"
        "    cmpq $0, 512+176(%rdi)\n"
        "    je 1f\n"
        "    vinsertf128 $1, 512+184+0(%rdi), %ymm0, %ymm0\n"
        "    vinsertf128 $1, 512+184+16(%rdi), %ymm1, %ymm1\n"
        "    vinsertf128 $1, 512+184+32(%rdi), %ymm2, %ymm2\n"
        "    vinsertf128 $1, 512+184+48(%rdi), %ymm3, %ymm3\n"
        "    vinsertf128 $1, 512+184+64(%rdi), %ymm4, %ymm4\n"
        "    vinsertf128 $1, 512+184+80(%rdi), %ymm5, %ymm5\n"
        "    vinsertf128 $1, 512+184+96(%rdi), %ymm6, %ymm6\n"
        "    vinsertf128 $1, 512+184+112(%rdi), %ymm7, %ymm7\n"
        "    vinsertf128 $1, 512+184+128(%rdi), %ymm8, %ymm8\n"
        "    vinsertf128 $1, 512+184+144(%rdi), %ymm9, %ymm9\n"
        "    vinsertf128 $1, 512+184+160(%rdi), %ymm10, %ymm10\n"
        "    vinsertf128 $1, 512+184+176(%rdi), %ymm11, %ymm11\n"
        "    vinsertf128 $1, 512+184+192(%rdi), %ymm12, %ymm12\n"
        "    vinsertf128 $1, 512+184+208(%rdi), %ymm13, %ymm13\n"
        "    vinsertf128 $1, 512+184+224(%rdi), %ymm14, %ymm14\n"
        "    vinsertf128 $1, 512+184+240(%rdi), %ymm15, %ymm15\n"
        "1:\n"
        "    mov 512+128(%rdi), %rax\n"
        "    mov %rax, native_guest_rip(%rip)\n"
        "    push 512+136(%rdi)\n"
        "    popf\n"
        "    mov 512+0(%rdi), %rax\n    mov 512+8(%rdi), %rcx\n    mov 512+16(%rdi), %rdx\n"
        "    mov 512+24(%rdi), %rbx\n    mov 512+32(%rdi), %rsp\n    mov 512+40(%rdi), %rbp\n"
        "    mov 512+48(%rdi), %rsi\n    mov 512+64(%rdi), %r8\n    mov 512+72(%rdi), %r9\n"
        "    mov 512+80(%rdi), %r10\n    mov 512+88(%rdi), %r11\n    mov 512+96(%rdi), %r12\n"
        "    mov 512+104(%rdi), %r13\n    mov 512+112(%rdi), %r14\n    mov 512+120(%rdi), %r15\n"
        "    mov 512+56(%rdi), %rdi\n"
        "    jmp *native_guest_rip(%rip)\n"
        ".globl native_resume\n"
        "native_resume:\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbp\n    pop %rbx\n"
        "    ret\n");

// The same through a far jump, with the state's segment registers.
uint64_t native_far_pointer;
void native_enter_far(struct native_state *state);
__asm__(".text\n"
        ".globl native_enter_far\n"
        "native_enter_far:\n"
        "    push %rbx\n    push %rbp\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    mov %rsp, native_host_rsp(%rip)\n"
        "    fxrstor64 (%rdi)\n"
        "    mov 512+128(%rdi), %eax\n"
        "    mov %eax, native_far_pointer(%rip)\n"
        "    movzwl 512+168(%rdi), %eax\n"
        "    mov %eax, 4+native_far_pointer(%rip)\n"
        "    push 512+136(%rdi)\n"
        "    mov 512+174(%rdi), %es\n"
        "    mov 512+172(%rdi), %ds\n"
        "    popf\n"
        "    mov 512+0(%rdi), %rax\n    mov 512+8(%rdi), %rcx\n    mov 512+16(%rdi), %rdx\n"
        "    mov 512+24(%rdi), %rbx\n    mov 512+40(%rdi), %rbp\n"
        "    mov 512+48(%rdi), %rsi\n    mov 512+64(%rdi), %r8\n    mov 512+72(%rdi), %r9\n"
        "    mov 512+80(%rdi), %r10\n    mov 512+88(%rdi), %r11\n    mov 512+96(%rdi), %r12\n"
        "    mov 512+104(%rdi), %r13\n    mov 512+112(%rdi), %r14\n    mov 512+120(%rdi), %r15\n"
        "    mov 512+170(%rdi), %ss\n"
        "    mov 512+32(%rdi), %rsp\n"
        "    mov 512+56(%rdi), %rdi\n"
        "    ljmp *native_far_pointer(%rip)\n");

_Static_assert(offsetof(struct native_state, cs) == 512 + 168, "layout");
_Static_assert(offsetof(struct native_state, registers) == 512, "layout");
_Static_assert(offsetof(struct native_state, has_upper) == 512 + 176, "layout");
_Static_assert(offsetof(struct native_state, upper) == 512 + 184, "layout");
_Static_assert(offsetof(struct native_state, rip) == 512 + 128, "layout");
_Static_assert(offsetof(struct native_state, rflags) == 512 + 136, "layout");

static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                              REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                              REG_R12, REG_R13, REG_R14, REG_R15};

// The thread's run, as long as it lasts.
static _Thread_local volatile uint64_t own_run;
// What was there for SIGBUS.
static struct sigaction bus_error_before;

// Another thread's, or none of a run: whoever it is for, or the end, as without a handler.
static void pass_on(int number, siginfo_t *info, void *context)
{
    if (number == SIGBUS && (bus_error_before.sa_flags & SA_SIGINFO))
        bus_error_before.sa_sigaction(number, info, context);
    else
        signal(number, SIG_DFL);
}

// Linux enters handlers with the flag AC of what they interrupt, and the library's code is not aligned.
static inline void clear_alignment_check(void)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushf\n\tandl $~0x40000, (%%rsp)\n\tpopf\n\tlea 128(%%rsp), %%rsp"
                     :
                     :
                     : "memory", "cc");
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    clear_alignment_check();
    ucontext_t *frame = context;
    greg_t *registers = frame->uc_mcontext.gregs;
    struct native_state *state = current;
    if (state == NULL || own_run == 0) {
        pass_on(number, info, context);
        return;
    }
    current = NULL;
    for (int i = 0; i < 16; i++)
        state->registers[i] = (uint64_t)registers[order[i]];
    state->rip = (uint64_t)registers[REG_RIP];
    state->rflags = (uint64_t)registers[REG_EFL];
    state->vector = (uint64_t)registers[REG_TRAPNO];
    state->error = (uint64_t)registers[REG_ERR];
    state->cr2 = (uint64_t)registers[REG_CR2];
    uint8_t *fp = (uint8_t *)frame->uc_mcontext.fpregs;
    memcpy(state->fx, fp, 512);
    memset(state->fx + 464, 0, 48); // software bytes

    // Back to the host's code with a clean floating-point state.
    static const uint16_t control = 0x37F;
    static const uint32_t mxcsr = 0x1F80;
    memset(fp, 0, 24);
    memcpy(fp, &control, 2);
    memcpy(fp + 24, &mxcsr, 4);
    uint64_t features;
    memcpy(&features, fp + 512, 8);
    // AVX's component is at 576 in all processors.
    memset(state->upper, 0, sizeof state->upper);
    if (state->has_upper && (features & 4))
        memcpy(state->upper, fp + 576, sizeof state->upper);
    if (state->has_upper)
        features &= ~4ULL; // zeroes for the host
    features |= 3;
    memcpy(fp + 512, &features, 8);
    registers[REG_RIP] = (greg_t)native_resume;
    registers[REG_RSP] = (greg_t)native_host_rsp;
    registers[REG_EFL] = 0x202;
    // 64-bit code and its stack segment, as Linux has them.
    uint64_t segments = (uint64_t)registers[REG_CSGSFS];
    registers[REG_CSGSFS] = (greg_t)((segments & 0x0000FFFFFFFF0000) | 0x33 | 0x2BULL << 48);
}

static _Alignas(16) char handler_stack[65536];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t run_number;
// The thread's timer.
static _Thread_local timer_t timer;
// Ticks come in the guest's code as well, where RSP leads to no stack.
static _Thread_local char tick_stack[65536];

// A run that was under way at the last tick as well is in a loop.
static void on_tick(int number, siginfo_t *info, void *context)
{
    static _Thread_local uint64_t seen;
    clear_alignment_check();
    struct native_state *state = current;
    if (own_run != 0 && state != NULL && seen == own_run) {
        on_trap(number, info, context);
        state->vector = NATIVE_NO_END;
    }
    seen = own_run;
}

// Of CLinux, where the program has it.
int clinux_guard_add(void *base, size_t size, int event) __attribute__((weak));
void clinux_guard_remove(int guard) __attribute__((weak));

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int prepared;

static void prepare(void)
{
    // Guarded memory wants SIGBUS too. Its handler comes first, so that ours knows it: the other one
    // would go at the first signal that is not for it.
    static _Alignas(4096) char page[4096];
    if (clinux_guard_add) {
        int guard = clinux_guard_add(page, sizeof page, -1);
        if (guard >= 0)
            clinux_guard_remove(guard);
    }
    struct sigaction action = {.sa_sigaction = on_trap,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    static const int signals[] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP};
    sigaddset(&action.sa_mask, SIGVTALRM);
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction *before = signals[i] == SIGBUS ? &bus_error_before : NULL;
        if (sigaction(signals[i], &action, before) < 0)
            prepared = -1;
    }
}

int native_prepare(void)
{
    pthread_once(&once, prepare);
    return prepared;
}

int native_limit(void)
{
    struct sigaction action = {.sa_sigaction = on_tick,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGVTALRM};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    stack_t alternate = {.ss_sp = tick_stack, .ss_size = sizeof tick_stack};
    struct itimerspec interval = {{0, 5000000}, {0, 5000000}};
    if (sigaltstack(&alternate, NULL) < 0 || sigaction(SIGVTALRM, &action, NULL) < 0 ||
        timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) < 0)
        return -1;
    return timer_settime(timer, 0, &interval, NULL);
}

void native_lift_limit(void)
{
    stack_t none = {.ss_flags = SS_DISABLE};
    timer_delete(timer);
    sigaltstack(&none, NULL);
}

void native_run(struct native_state *state)
{
    // Tests run in parallel, and there is one guest state and one stack for the handler.
    pthread_mutex_lock(&lock);
    stack_t alternate = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    stack_t usual;
    if (sigaltstack(&alternate, &usual) == 0) {
        own_run = ++run_number;
        current = state;
        if (state->cs == 0)
            native_enter(state);
        else
            native_enter_far(state);
        own_run = 0;
        sigaltstack(&usual, NULL);
    }
    pthread_mutex_unlock(&lock);
}

void *native_map(uint64_t address, uint64_t size, int executable)
{
    int protection = PROT_READ | PROT_WRITE | (executable ? PROT_EXEC : 0);
    void *result = mmap((void *)address, size, protection,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return result == MAP_FAILED ? NULL : result;
}

int native_map_again(void *mapping, uint64_t size, uint64_t address)
{
    void *place = mmap((void *)address, size, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (place == MAP_FAILED)
        return -1;
    // Of a shared mapping, a length of 0 makes a second one.
    void *result = mremap(mapping, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    return result == MAP_FAILED ? -1 : 0;
}

int native_set_segment(unsigned entry, uint32_t base, uint32_t limit, unsigned attributes)
{
    struct user_desc descriptor;
    memset(&descriptor, 0, sizeof descriptor);
    descriptor.entry_number = entry;
    descriptor.base_addr = base;
    descriptor.limit = limit;
    descriptor.seg_32bit = (attributes & 0x4000) != 0;
    // Bit 3 of the type: code; 2: expand-down; 1: readable or writable.
    descriptor.contents = (attributes >> 2) & 3;
    descriptor.read_exec_only = (attributes & 2) == 0;
    descriptor.useable = 1;
    if (syscall(SYS_modify_ldt, 0x11, &descriptor, sizeof descriptor) != 0)
        return -1;
    return (int)(entry << 3 | 7);
}
