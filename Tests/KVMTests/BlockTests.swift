import CLinux
import Core
import Glibc
import KVM
import Synchronization
import TestSupport
import Testing
import VhostUser

/// A guest that drives a virtqueue by itself, with the real back end in a process of its own.
@Suite("A bare guest and apus-block", .enabled(if: BuiltExecutable.path != nil))
struct BlockTests {
    private static let requests: UInt32 = 20
    private static let layout = QueueLayout(
        size: 16, descriptors: GuestAddress(0x20_0000), driver: GuestAddress(0x20_1000),
        device: GuestAddress(0x20_2000))
    private static let header: UInt64 = 0x20_3000
    private static let data: UInt64 = 0x20_4000
    private static let status: UInt64 = 0x20_5000

    /// One chain, used for every request: read a sector.
    private func buildQueue(_ guest: GuestMachine) throws {
        let parts: [(address: UInt64, length: UInt32, flags: UInt16)] = [
            (Self.header, 16, 1), (Self.data, 512, 3), (Self.status, 1, 2),
        ]
        for (index, part) in parts.enumerated() {
            let place = Self.layout.descriptors.rawValue + 16 * UInt64(index)
            try guest.put(place, part.address)
            try guest.put(place + 8, part.length)
            try guest.put(place + 12, part.flags)
            try guest.put(place + 14, UInt16(index + 1))
        }
        // Type 0 is a read; the sector is 0, and so are all entries of the available ring.
        try guest.put(Self.status, 0xFF as UInt8)
    }

    /// RSI counts requests, RBX their interrupts.
    private func buildDriver(_ guest: GuestMachine) throws {
        var code = GuestCode()
        code.loadIDT()
        code.enableAPIC()
        code.set(.rbx, 0)
        code.set(.rsi, 0)
        code.out(TestSurface.actionPort)
        let top = code.position
        code.raw(0x48, 0xFF, 0xC6)  // inc rsi
        code.set(.rdi, Self.layout.driver.rawValue + 2)
        code.raw(0x66, 0x89, 0x37)  // mov [rdi], si: the index
        code.raw(0x0F, 0xAE, 0xF0)  // mfence
        code.set(.rdi, VirtioDriver.notify)
        code.raw(0x66, 0xC7, 0x07, 0x00, 0x00)  // mov word [rdi], 0
        let wait = code.position
        code.raw(0xFA, 0x48, 0x39, 0xF3)  // cli; cmp rbx, rsi
        code.raw(0x73, 0x07)  // jae over the next two lines
        code.raw(0xFB, 0xF4)  // sti; hlt
        code.jump(to: wait)
        code.raw(0x48, 0x81, 0xFE, UInt8(Self.requests), 0, 0, 0)  // cmp rsi, requests
        code.jump(.below, to: top)
        code.out(TestSurface.actionPort)
        code.set(.rdi, Self.layout.device.rawValue + 2)
        code.raw(0x0F, 0xB7, 0x07)  // movzx eax, word [rdi]: the used index
        code.report(.rax)
        code.set(.rdi, Self.status)
        code.raw(0x0F, 0xB6, 0x07)  // movzx eax, byte [rdi]
        code.report(.rax)
        code.loadEAX(Self.data)
        code.report(.rax)
        code.end()
        try guest.put(code)
        try guest.countInterrupts(vector: 0x44)
    }

    private func run(_ provider: Provider) throws {
        let folder = try TestFolder()
        let magic: [UInt8] = [0x5C, 0xD1, 0x05, 0xA9]
        let image = try folder.file("image", magic + [UInt8](repeating: 0, count: 4092))
        let guest = try GuestMachine(provider)
        let (near, far) = try UnixSocket.pair()
        let process = try ChildProcess(
            path: BuiltExecutable.path ?? "",
            arguments: ["apus-block", "--fd=3", "--disk", "path=\(image)"],
            environment: [], descriptors: [(far.fd, 3)])
        defer { process.kill() }
        let loop = try EventLoop()
        let frontend = Frontend(FrontendOptions(.supervised, deviceID: .block), on: loop)
        defer { frontend.close() }
        try frontend.attach(near)
        try buildQueue(guest)
        try buildDriver(guest)
        let driver = try VirtioDriver(frontend, of: guest)
        driver.start(Self.layout, vector: 0x44)
        defer { driver.stop() }
        let marks = Mutex<[Mark]>([])
        let cpu = guest.kvmCPU
        let control = driver.control
        guest.surface.action.withLock { action in
            // On the CPU's own thread.
            action = { [weak cpu] _ in
                let mark = Mark(
                    exits: cpu?.counters.exits ?? 0,
                    work: control.workCount.load(ordering: .relaxed))
                marks.withLock { $0.append(mark) }
            }
        }
        #expect(control.watchCount == (provider == .kvm ? 0 : 1))
        #expect(try guest.run() == .powerOff)
        #expect(guest.surface.results == [Self.requests, 0, 0xA905_D15C])
        let found = marks.withLock { $0 }
        try #require(found.count == 2)
        // The CPU's thread was woken once: for the second mark itself. The control thread was not,
        // and under KVM it does not even wait for anything.
        if cpu != nil { #expect(found[1].exits - found[0].exits == 1) }
        #expect(found[1].work == found[0].work)
    }

    /// What the machine's threads have done so far.
    private struct Mark {
        var exits: UInt64
        var work: Int
    }

    @Test(
        "requests wake no thread of the machine, under KVM",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func kvm() throws { try run(.kvm) }

    @Test("requests are served, under TCG")
    func tcg() throws { try run(.tcg) }
}
