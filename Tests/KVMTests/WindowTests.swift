import Accelerator
import Core
import Glibc
import Synchronization
import TCG
import TestSupport
import Testing

/// Memory that is not RAM: what it does, the same under both providers.
@Suite("A window of shared memory in a bare guest")
struct GuestWindowTests {
    private static let base: UInt64 = 0x8000_0000
    private static let other: UInt64 = 0xA000_0000
    static let providers: [Provider] = Provider.hasKVM ? [.kvm, .tcg] : [.tcg]

    private let folder: TestFolder
    private let window: SharedWindow
    private let file: SharedFD

    /// A window with a file of four pages at 0x1000, which begin with 0x11, 0x22, 0x33 and 0x44.
    init() throws {
        folder = try TestFolder()
        window = try SharedWindow(size: 4 << 20)
        var bytes = [UInt8](repeating: 0, count: 0x4000)
        for page in 0..<4 { bytes[page * 0x1000] = UInt8(page + 1) * 0x11 }
        let path = try folder.file("file", bytes)
        // SAFETY: the path lives for the call.
        file = try SharedFD(owning: checking("open", unsafe open(path, O_RDWR)))
        try window.map(file.rawValue, from: 0, at: 0x1000, size: 0x4000, isWritable: true)
    }

    private func run(
        _ provider: Provider, _ code: GuestCode, prepare: (GuestMachine) throws -> Void = { _ in }
    ) throws -> [UInt32] {
        let guest = try GuestMachine(provider)
        #expect(guest.machine.place(window, at: GuestAddress(Self.base)))
        try guest.put(code)
        try prepare(guest)
        #expect(try guest.run() == .powerOff)
        return guest.surface.results
    }

    @Test("files are read and written, and what is not there is zero", arguments: providers)
    func memory(provider: Provider) throws {
        var code = GuestCode()
        code.loadEAX(Self.base + 0x1000)
        code.out(TestSurface.resultPort)
        code.set(.rax, 0x77)
        code.storeEAX(Self.base + 0x2004)
        code.loadEAX(Self.base + 0x20_0000)
        code.out(TestSurface.resultPort)
        code.storeEAX(Self.base + 0x20_0004)
        code.end()
        #expect(try run(provider, code) == [0x11, 0])
        #expect(try readFile(folder["file"])[0x1004] == 0x77)
    }

    @Test("a file that has become shorter does not end the machine", arguments: providers)
    func lostPages(provider: Provider) throws {
        #expect(ftruncate(file.rawValue, 0x2000) == 0)
        var code = GuestCode()
        code.loadEAX(Self.base + 0x3000)
        code.out(TestSurface.resultPort)
        code.set(.rax, 0x55)
        code.storeEAX(Self.base + 0x4000)
        code.loadEAX(Self.base + 0x4000)
        code.out(TestSurface.resultPort)
        code.loadEAX(Self.base + 0x2000)
        code.out(TestSurface.resultPort)
        code.end()
        #expect(try run(provider, code) == [0, 0x55, 0x22])
        #expect(window.lossEvent.drain())
        #expect(try readFile(folder["file"]).count == 0x2000)
    }

    @Test("code there can change, by the guest's hand and by others", arguments: providers)
    func code(provider: Provider) throws {
        // mov eax, 1; out; ret
        let function: [UInt8] = [0xB8, 1, 0, 0, 0, 0xE7, TestSurface.resultPort, 0xC3]
        let written = unsafe function.withUnsafeBytes {
            unsafe pwrite(file.rawValue, $0.baseAddress, $0.count, 0x3800)
        }
        #expect(written == function.count)
        var code = GuestCode()
        func call() {
            code.set(.rbx, Self.base + 0x4800)
            code.raw(0xFF, 0xD3)
        }
        call()
        code.set(.rax, 0x0000_02B8)
        code.storeEAX(Self.base + 0x4800)
        call()
        call()
        code.end()
        #expect(try run(provider, code) == [1, 2, 2])
    }

    @Test("it is where it was moved to, and nowhere else", arguments: providers)
    func moves(provider: Provider) throws {
        var code = GuestCode()
        code.loadEAX(Self.base + 0x1000)
        code.out(TestSurface.resultPort)
        code.set(.rax, 0)
        code.out(TestSurface.actionPort)
        code.loadEAX(Self.other + 0x1000)
        code.out(TestSurface.resultPort)
        code.loadEAX(Self.base + 0x1000)
        code.raw(0x3C, 0x11, 0x0F, 0x94, 0xC0, 0x0F, 0xB6, 0xC0)  // al = al == 0x11
        code.out(TestSurface.resultPort)
        code.end()
        let window = window
        let results = try run(provider, code) { guest in
            let machine = guest.machine
            guest.surface.action.withLock { action in
                action = { [weak machine] _ in
                    _ = machine?.place(window, at: GuestAddress(Self.other))
                }
            }
        }
        #expect(results == [0x11, 0x11, 0])
    }

    @Test("a page that is lost again and again does not end the machine", arguments: providers)
    func lostAgain(provider: Provider) throws {
        #expect(ftruncate(file.rawValue, 0x2000) == 0)
        var code = GuestCode()
        for _ in 0..<40 {
            code.loadEAX(Self.base + 0x3000)
            code.out(TestSurface.actionPort)
        }
        code.out(TestSurface.resultPort)
        code.end()
        let (window, file) = (window, file)
        let results = try run(provider, code) { guest in
            guest.surface.action.withLock { action in
                action = { _ in
                    #expect(throws: Never.self) {
                        try window.map(
                            file.rawValue, from: 0, at: 0x1000, size: 0x4000, isWritable: true)
                    }
                }
            }
        }
        #expect(results == [0])
    }

    /// Remembers where windows are, and may have no room.
    private final class Recorder: InstructionFallback {
        let other: TCGFallback
        let places = Mutex<[ObjectIdentifier: UInt64]>([:])
        let isFull = Atomic<Bool>(false)

        init(_ other: TCGFallback) { self.other = other }

        func execute(cpu: Int, _ state: inout CPUState) -> FallbackResult {
            other.execute(cpu: cpu, &state)
        }

        func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool {
            guard address == nil || !isFull.load(ordering: .relaxed) else { return false }
            places.withLock { $0[ObjectIdentifier(window)] = address?.rawValue }
            return other.place(window, at: address)
        }
    }

    @Test(
        "KVM and the fallback have it at one place, or nowhere",
        .enabled(if: Provider.hasKVM, "there is no KVM"))
    func places() throws {
        var made: Recorder?
        let guest = try GuestMachine(
            .kvm,
            fallback: {
                made = Recorder($0)
                return made
            })
        let recorder = try #require(made)
        let machine = guest.machine
        let second = try SharedWindow(size: 4 << 20)
        func place() -> UInt64? { recorder.places.withLock { $0[ObjectIdentifier(second)] } }
        #expect(machine.place(window, at: GuestAddress(Self.base)))
        #expect(machine.place(second, at: GuestAddress(Self.other)))
        #expect(place() == Self.other)
        // KVM takes no memory where there is some.
        for _ in 0..<2 {
            #expect(!machine.place(second, at: GuestAddress(Self.base + (2 << 20))))
            #expect(place() == nil)
        }
        #expect(machine.place(second, at: GuestAddress(Self.other)))
        #expect(place() == Self.other)
        #expect(machine.place(second, at: nil as GuestAddress?))
        recorder.isFull.store(true, ordering: .relaxed)
        #expect(!machine.place(second, at: GuestAddress(Self.other)))
        var code = GuestCode()
        code.loadEAX(Self.other + 0x1000)
        code.out(TestSurface.resultPort)
        code.end()
        try guest.put(code)
        #expect(try guest.run() == .powerOff)
        // What a device says that has no registers there.
        #expect(guest.surface.results == [0x0302_0100])
    }
}
