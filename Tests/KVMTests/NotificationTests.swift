import Accelerator
import Core
import Glibc
import KVM
import Synchronization
import Testing

/// Requests that reach other processes, and come back, without a thread of the machine.
@Suite("Notifications and interrupts")
struct NotificationTests {
    private static let register: UInt64 = 0xD000_1000

    private func notifies(_ provider: Provider) throws {
        let guest = try GuestMachine(provider)
        let event = try EventFD()
        guest.bindNotify(event, at: Self.register)
        defer { guest.machine.unbindNotify(event, address: GuestAddress(Self.register)) }
        var code = GuestCode()
        code.set(.rbx, 100)
        code.set(.rdi, Self.register)
        let top = code.position
        code.raw(0x66, 0xC7, 0x07, 0x00, 0x00)  // mov word [rdi], 0
        code.raw(0xC7, 0x07, 0x01, 0x00, 0x00, 0x00)  // mov dword [rdi], 1
        code.raw(0xFF, 0xCB)  // dec ebx
        code.jump(.notEqual, to: top)
        code.end()
        try guest.put(code)
        #expect(try guest.run() == .powerOff)
        #expect(eventCount(event) == 200)
        #expect(guest.surface.record.withLock { $0.writes } == [])
        // The power-off is the only thing that our thread was woken for.
        if let counters = guest.kvmCPU?.counters { #expect(counters.exits == 1) }
    }

    private func eventCount(_ event: EventFD) -> UInt64 {
        var count: UInt64 = 0
        return unsafe read(event.rawValue, &count, 8) == 8 ? count : 0
    }

    @Test(
        "writes to a bound register of any size signal its event, under KVM",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func notifiesKVM() throws { try notifies(.kvm) }

    @Test("writes to a bound register of any size signal its event, under TCG")
    func notifiesTCG() throws { try notifies(.tcg) }

    /// A guest that waits for `count` interrupts; each is asked for by a write to the action port.
    private func interrupts(_ provider: Provider) throws {
        let guest = try GuestMachine(provider)
        let events = [try EventFD(), try EventFD()]
        try guest.bindInterrupt(events[0], vector: 0x44)
        try guest.bindInterrupt(events[1], vector: 0x45)
        guest.surface.action.withLock { action in
            action = { events[Int($0)].signal() }
        }
        var code = GuestCode()
        code.loadIDT()
        code.enableAPIC()
        code.set(.rbx, 0)
        for (index, count) in [(0, 1), (1, 11), (0, 12)] as [(UInt64, UInt32)] {
            code.set(.rax, index)
            code.out(TestSurface.actionPort)
            code.waitForRBX(count)
            code.report(.rbx)
        }
        code.end()
        try guest.put(code)
        try guest.countInterrupts(vector: 0x44)
        var other = GuestCode(at: 0x6100)
        other.raw(0x83, 0xC3, 0x09)  // add ebx, 9
        GuestProgram.count(&other)
        try guest.put(other)
        try guest.setGate(0x45, other.start)
        #expect(try guest.run() == .powerOff)
        #expect(guest.surface.results == [1, 11, 12])
        for event in events { guest.machine.unbindInterrupt(event) }
    }

    @Test(
        "bound events interrupt, under KVM", .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func interruptsKVM() throws { try interrupts(.kvm) }

    @Test("bound events interrupt, under TCG")
    func interruptsTCG() throws { try interrupts(.tcg) }

    @Test(
        "an event that was taken back does not interrupt, and its place is used again",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func unbinding() throws {
        let guest = try GuestMachine(.kvm)
        for _ in 0..<100 {
            let event = try EventFD()
            #expect(guest.machine.bindInterrupt(event, address: 0xFEE0_0000, data: 0x44))
            #expect(!guest.machine.bindInterrupt(event, address: 0xFEE0_0000, data: 0x45))
            guest.machine.unbindInterrupt(event)
            event.signal()
            #expect(event.drain())
        }
    }
}
