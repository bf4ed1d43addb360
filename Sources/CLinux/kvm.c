#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/platform/x86.h>
#include <sys/syscall.h>
#include <unistd.h>

int clinux_has_virtualisation(void)
{
    return x86_cpu_present(x86_cpu_VMX) || x86_cpu_present(x86_cpu_SVM);
}

int clinux_kvm_run(int vcpu)
{
    return ioctl(vcpu, KVM_RUN, 0) < 0 ? -errno : 0;
}

int clinux_kvm_enable(int vm, uint32_t capability, uint64_t argument)
{
    struct kvm_enable_cap request = {.cap = capability, .args = {argument}};
    return ioctl(vm, KVM_ENABLE_CAP, &request) < 0 ? -errno : 0;
}

// Makes the structure `header` with `count` elements behind it, calls, and copies back what the
// kernel changed.
static int call_with_array(int fd, unsigned long request, size_t header_size, uint32_t *count,
                           void *elements, size_t element_size, int copies_back)
{
    size_t size = header_size + (size_t)*count * element_size;
    unsigned char *buffer = calloc(1, size);
    if (buffer == NULL)
        return -ENOMEM;
    memcpy(buffer, count, sizeof *count);
    memcpy(buffer + header_size, elements, (size_t)*count * element_size);
    int result = ioctl(fd, request, buffer);
    if (result < 0) {
        result = -errno;
    } else if (copies_back) {
        uint32_t now;
        memcpy(&now, buffer, sizeof now);
        if (now < *count)
            *count = now;
        memcpy(elements, buffer + header_size, (size_t)*count * element_size);
    }
    free(buffer);
    return result;
}

int clinux_kvm_supported_cpuid(int kvm, struct kvm_cpuid_entry2 *entries, uint32_t *count)
{
    return call_with_array(kvm, KVM_GET_SUPPORTED_CPUID, sizeof(struct kvm_cpuid2), count, entries,
                           sizeof *entries, 1);
}

int clinux_kvm_set_cpuid(int vcpu, const struct kvm_cpuid_entry2 *entries, uint32_t count)
{
    return call_with_array(vcpu, KVM_SET_CPUID2, sizeof(struct kvm_cpuid2), &count,
                           (void *)entries, sizeof *entries, 0);
}

int clinux_kvm_msr_list(int kvm, uint32_t *numbers, uint32_t *count)
{
    return call_with_array(kvm, KVM_GET_MSR_INDEX_LIST, sizeof(struct kvm_msr_list), count, numbers,
                           sizeof *numbers, 1);
}

int clinux_kvm_get_msrs(int vcpu, struct kvm_msr_entry *entries, uint32_t count)
{
    return call_with_array(vcpu, KVM_GET_MSRS, sizeof(struct kvm_msrs), &count, entries,
                           sizeof *entries, 1);
}

int clinux_kvm_set_msrs(int vcpu, const struct kvm_msr_entry *entries, uint32_t count)
{
    return call_with_array(vcpu, KVM_SET_MSRS, sizeof(struct kvm_msrs), &count, (void *)entries,
                           sizeof *entries, 0);
}

int clinux_kvm_set_routing(int vm, const struct kvm_irq_routing_entry *entries, uint32_t count)
{
    return call_with_array(vm, KVM_SET_GSI_ROUTING, sizeof(struct kvm_irq_routing), &count,
                           (void *)entries, sizeof *entries, 0);
}

int clinux_kvm_dirty_log(int vm, uint32_t slot, uint64_t *bitmap)
{
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
    return ioctl(vm, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

static void do_nothing(int signal)
{
    (void)signal;
}

// The first signal that the C library leaves to programs.
static int kick_signal(void)
{
    return SIGRTMIN;
}

int clinux_kvm_install_kick(void)
{
    struct sigaction action = {.sa_handler = do_nothing, .sa_flags = SA_RESTART};
    return sigaction(kick_signal(), &action, NULL) < 0 ? -errno : 0;
}

int clinux_kvm_accept_kicks(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return (int)syscall(SYS_gettid);
}

int clinux_kvm_kick(int thread)
{
    return syscall(SYS_tgkill, getpid(), thread, kick_signal()) < 0 ? -errno : 0;
}
