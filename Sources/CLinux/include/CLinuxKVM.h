// KVM's interface (Linux, Documentation/virt/kvm/api.rst): request numbers, and wrappers for the
// calls whose structures end in arrays. Wrappers return -errno on failure.
#ifndef CLINUX_KVM_H
#define CLINUX_KVM_H

#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>

#pragma clang assume_nonnull begin

// On /dev/kvm.
static const unsigned long CLINUX_KVM_GET_API_VERSION = KVM_GET_API_VERSION;
static const unsigned long CLINUX_KVM_CREATE_VM = KVM_CREATE_VM;
static const unsigned long CLINUX_KVM_CHECK_EXTENSION = KVM_CHECK_EXTENSION;
static const unsigned long CLINUX_KVM_GET_VCPU_MMAP_SIZE = KVM_GET_VCPU_MMAP_SIZE;
// On a virtual machine.
static const unsigned long CLINUX_KVM_CREATE_VCPU = KVM_CREATE_VCPU;
static const unsigned long CLINUX_KVM_SET_USER_MEMORY_REGION = KVM_SET_USER_MEMORY_REGION;
static const unsigned long CLINUX_KVM_SET_TSS_ADDR = KVM_SET_TSS_ADDR;
static const unsigned long CLINUX_KVM_ENABLE_CAP = KVM_ENABLE_CAP;
static const unsigned long CLINUX_KVM_SIGNAL_MSI = KVM_SIGNAL_MSI;
static const unsigned long CLINUX_KVM_IRQFD = KVM_IRQFD;
static const unsigned long CLINUX_KVM_SET_GSI_ROUTING = KVM_SET_GSI_ROUTING;
static const unsigned long CLINUX_KVM_IOEVENTFD = KVM_IOEVENTFD;
static const unsigned long CLINUX_KVM_GET_CLOCK = KVM_GET_CLOCK;
static const unsigned long CLINUX_KVM_SET_CLOCK = KVM_SET_CLOCK;
static const unsigned long CLINUX_KVM_GET_DIRTY_LOG = KVM_GET_DIRTY_LOG;
static const uint32_t CLINUX_KVM_IOEVENTFD_DEASSIGN = KVM_IOEVENTFD_FLAG_DEASSIGN;
// On a vCPU.
static const unsigned long CLINUX_KVM_GET_REGS = KVM_GET_REGS;
static const unsigned long CLINUX_KVM_SET_REGS = KVM_SET_REGS;
static const unsigned long CLINUX_KVM_GET_SREGS = KVM_GET_SREGS;
static const unsigned long CLINUX_KVM_SET_SREGS = KVM_SET_SREGS;
static const unsigned long CLINUX_KVM_GET_XSAVE = KVM_GET_XSAVE;
static const unsigned long CLINUX_KVM_GET_XSAVE2 = KVM_GET_XSAVE2;
static const unsigned long CLINUX_KVM_SET_XSAVE = KVM_SET_XSAVE;
static const unsigned long CLINUX_KVM_GET_XCRS = KVM_GET_XCRS;
static const unsigned long CLINUX_KVM_SET_XCRS = KVM_SET_XCRS;
static const unsigned long CLINUX_KVM_GET_LAPIC = KVM_GET_LAPIC;
static const unsigned long CLINUX_KVM_SET_LAPIC = KVM_SET_LAPIC;
static const unsigned long CLINUX_KVM_GET_VCPU_EVENTS = KVM_GET_VCPU_EVENTS;
static const unsigned long CLINUX_KVM_SET_VCPU_EVENTS = KVM_SET_VCPU_EVENTS;
static const unsigned long CLINUX_KVM_GET_DEBUGREGS = KVM_GET_DEBUGREGS;
static const unsigned long CLINUX_KVM_SET_DEBUGREGS = KVM_SET_DEBUGREGS;
static const unsigned long CLINUX_KVM_GET_MP_STATE = KVM_GET_MP_STATE;
static const unsigned long CLINUX_KVM_SET_MP_STATE = KVM_SET_MP_STATE;
static const unsigned long CLINUX_KVM_GET_TSC_KHZ = KVM_GET_TSC_KHZ;

// The index counts in a CPUID entry.
static const uint32_t CLINUX_KVM_CPUID_SIGNIFICANT_INDEX = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

// Runs a vCPU until the next exit. Not repeated on -EINTR: that is how a kick gets out.
int clinux_kvm_run(int vcpu);

int clinux_kvm_enable(int vm, uint32_t capability, uint64_t argument);

// `*count`: places in `entries`, and on return how many there are. -E2BIG: too few places.
int clinux_kvm_supported_cpuid(int kvm, struct kvm_cpuid_entry2 *entries, uint32_t *count);
int clinux_kvm_set_cpuid(int vcpu, const struct kvm_cpuid_entry2 *entries, uint32_t count);
// The numbers of the MSRs that are a vCPU's state.
int clinux_kvm_msr_list(int kvm, uint32_t *numbers, uint32_t *count);
// How many were read or written; the next one was refused.
int clinux_kvm_get_msrs(int vcpu, struct kvm_msr_entry *entries, uint32_t count);
int clinux_kvm_set_msrs(int vcpu, const struct kvm_msr_entry *entries, uint32_t count);
int clinux_kvm_set_routing(int vm, const struct kvm_irq_routing_entry *entries, uint32_t count);
// One bit per page of the slot into `bitmap`: written since the last call.
int clinux_kvm_dirty_log(int vm, uint32_t slot, uint64_t *bitmap);

// Whether the processor shows VMX or SVM. Asks the C library, which has asked the processor.
int clinux_has_virtualisation(void);

// The signal that gets a vCPU's thread out of KVM_RUN: its handler does nothing. Install it once
// before the first use.
int clinux_kvm_install_kick(void);
// Lets the calling thread be kicked, and returns its number.
int clinux_kvm_accept_kicks(void);
// Sends it to a thread of this process.
int clinux_kvm_kick(int thread);

// The bytes of an MMIO exit as a number.
static inline uint64_t clinux_kvm_mmio_value(const struct kvm_run *run)
{
    uint64_t value;
    memcpy(&value, run->mmio.data, sizeof value);
    return value;
}

static inline void clinux_kvm_set_mmio_value(struct kvm_run *run, uint64_t value)
{
    memcpy(run->mmio.data, &value, sizeof value);
}

// Where memory was missing when KVM_RUN has failed with -EFAULT; all ones: the kernel does not say.
// KVM_EXIT_MEMORY_FAULT (39) is newer than Debian 12's headers: its address follows flags of 64 bits.
static inline uint64_t clinux_kvm_fault_address(const struct kvm_run *run)
{
    uint64_t address;
    if (run->exit_reason != 39)
        return UINT64_MAX;
    memcpy(&address, (const char *)&run->hw + 8, sizeof address);
    return address;
}

// The instruction on which KVM gave up: its bytes, and how many there are (0: not known).
static inline uint32_t clinux_kvm_failed_instruction(const struct kvm_run *run,
                                                     uint8_t bytes[_Nonnull 15])
{
    if (run->emulation_failure.ndata < 3 ||
        !(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
        return 0;
    memcpy(bytes, run->emulation_failure.insn_bytes, 15);
    uint32_t size = run->emulation_failure.insn_size;
    return size > 15 ? 15 : size;
}

#pragma clang assume_nonnull end

#endif
