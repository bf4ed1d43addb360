internal import Accelerator
internal import Core
internal import Synchronization

/// What the CPUs of one machine share.
final class MachineCore: Sendable {
    let options: TCGOptions
    let files: TCGFiles
    let model: CPUModel
    let memory: GuestMemory
    let ram: RAMTable
    let windows: WindowTable
    let surface: any ExitSurface
    /// Host time at the machine's start.
    let start = Clock.monotonic()
    let timers: TimerThread

    /// The time of day at the machine's start, in nanoseconds since 1970.
    let wallClockAtStart: UInt64

    /// For LOCKed accesses across cache lines.
    let busLock = BusLock()
    private let codePageMap = Mutex<CodePageMap?>(nil)
    /// Held while a CPU marks a page that has code from now on.
    let marking = Mutex(())

    /// The interrupt controllers of all CPUs, by CPU index.
    private let apics = Mutex<[LocalAPIC]>([])

    init(
        options: TCGOptions, memory: GuestMemory, surface: any ExitSurface,
        windows: WindowTable = WindowTable(), files: TCGFiles = TCGFiles()
    ) {
        self.files = files
        self.windows = windows
        self.options = options
        model = CPUModel(options.model)
        self.memory = memory
        ram = RAMTable(memory)
        wallClockAtStart = options.startTime ?? Clock.realtime()
        self.surface = surface
        timers = TimerThread(start: start)
    }

    /// Nanoseconds since the machine's start, on the host's clock.
    func hostTime() -> UInt64 { Clock.monotonic() &- start }

    /// Which CPUs have decoded code where; made for the first CPU.
    func codePages() throws(SystemError) -> CodePageMap {
        try codePageMap.withLock { map throws(SystemError) in
            if let map { return map }
            let new = try CodePageMap(pageCount: ram.pageCount)
            map = new
            return new
        }
    }

    func add(_ apic: LocalAPIC) {
        apics.withLock { $0.append(apic) }
        timers.add(apic)
    }

    var allAPICs: [LocalAPIC] { apics.withLock { $0 } }
}
