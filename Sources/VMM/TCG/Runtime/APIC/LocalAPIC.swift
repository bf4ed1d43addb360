internal import Synchronization

/// What an interrupt message asks for (SDM volume 3, section 11.6.1).
enum DeliveryMode: UInt8 {
    case fixed = 0
    case lowestPriority = 1
    case smi = 2
    case nmi = 4
    case initialise = 5
    case startUp = 6
    case external = 7
}

/// What waits for a CPU besides interrupts.
struct APICEvents {
    /// NMIs; a CPU never holds more than two, one to take at once and one latched behind it.
    var nmiCount: UInt8 = 0
    var hasINIT = false
    /// The vector of a start-up IPI.
    var startUp: UInt8?
}

/// The interrupt controller of one CPU (SDM volume 3, chapter 11). Any thread may deliver to it;
/// the rest belongs to the CPU's own thread.
final class LocalAPIC: Sendable {
    let id: UInt32
    let block: VCPUBlock
    private let registers: Mutex<APICRegisters>
    /// When the timer is due, in guest nanoseconds; for the timer thread.
    let deadline = Atomic<UInt64>(UInt64.max)
    /// What this CPU has decoded may have changed behind its back.
    let codeMayHaveChanged = Atomic<Bool>(false)
    /// Held while another CPU says so.
    let telling = Mutex(())
    /// The CPUs that this one waits for to leave a block, and those that wait for this one, by
    /// their bits (see CodePageMap.swift).
    let awaited = Atomic<UInt64>(0)
    let awaiting = Atomic<UInt64>(0)
    /// A device may have written to memory.
    let deviceMayHaveWritten = Atomic<Bool>(false)
    /// What this CPU remembers of where memory is may be wrong.
    let memoryHasMoved = Atomic<Bool>(false)

    init(id: UInt32, isBootstrap: Bool, block: VCPUBlock) {
        self.id = id
        self.block = block
        registers = Mutex(APICRegisters(id: id, isBootstrap: isBootstrap))
    }

    /// Runs `body` on the registers, and keeps the published deadline up to date.
    func with<R: Sendable>(_ body: (inout sending APICRegisters) -> sending R) -> R {
        registers.withLock { registers in
            let result = body(&registers)
            let next = registers.timer.deadline
            if deadline.load(ordering: .relaxed) != next {
                deadline.store(next, ordering: .releasing)
            }
            return result
        }
    }

    /// The CPU in a word that stands for all.
    var bit: UInt64 { 1 << UInt64(id & 63) }

    var base: UInt64 { with { $0.base } }
    /// APIC_BASE.EN.
    var isEnabled: Bool { with { $0.isEnabled } }
    var taskPriority: UInt8 { with { $0.taskPriority } }

    func setTaskPriority(_ priority: UInt8) { with { $0.taskPriority = priority } }

    /// Whether an interrupt waits that has enough priority.
    var hasDeliverable: Bool { with { $0.deliverable != nil } }

    /// Takes the interrupt with the highest priority into service.
    func acknowledge() -> UInt8? { with { $0.acknowledge() } }

    func takeEvents() -> APICEvents {
        with {
            let events = $0.events
            $0.events = APICEvents()
            return events
        }
    }

    /// Lets the timer fire if it is due.
    func advanceTimer(to now: UInt64) {
        if deadline.load(ordering: .relaxed) <= now { with { $0.fireTimer(now) } }
    }

    /// Delivers a message. Any thread.
    func deliver(_ mode: DeliveryMode, vector: UInt8, isLevel: Bool) {
        let isNews = with { $0.receive(mode, vector: vector, isLevel: isLevel) }
        if isNews { block.ring() }
    }

    /// After INIT (`isReset` false: the id and APIC_BASE survive) or a hardware reset.
    func reset(isReset: Bool) {
        with {
            let old = $0
            $0 = APICRegisters(id: id, isBootstrap: old.isBootstrap)
            if !isReset {
                $0.base = old.base
                if old.isX2 { $0.enterX2() }
                $0.events.startUp = old.events.startUp
            }
        }
    }
}
