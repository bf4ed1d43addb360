import CLinux
import Testing

@testable import KVM

@Suite("Events that KVM is about to deliver when it gives up on an instruction")
struct PendingEventTests {
    private func events(_ change: (inout kvm_vcpu_events) -> Void) -> Bool {
        var events = kvm_vcpu_events()
        change(&events)
        return KVMVCPU.hasOtherEvent(events)
    }

    @Test("come before what becomes of the instruction")
    func others() {
        #expect(events { $0.interrupt.injected = 1 })
        #expect(events { $0.nmi.injected = 1 })
        #expect(events { ($0.exception.injected, $0.exception.nr) = (1, 14) })
        #expect(events { ($0.exception.pending, $0.exception.nr) = (1, 14) })
    }

    @Test("are not the #UD that it has queued because of the instruction, or what is long over")
    func own() {
        #expect(!events { _ in })
        #expect(!events { $0.exception.nr = 14 })
        #expect(!events { ($0.exception.injected, $0.exception.nr) = (1, 6) })
        #expect(!events { ($0.exception.pending, $0.exception.nr) = (1, 6) })
    }
}
