public import Core

/// A provider of virtual CPUs: hardware virtualisation or Apus's own processor.
public protocol Accelerator {
    /// As on the command line: `kvm`, `tcg`.
    static var name: String { get }

    /// Makes the processors' side of a machine.
    func makeVirtualMachine(
        memory: GuestMemory, surface: any ExitSurface
    ) throws(AcceleratorError) -> any VirtualMachine
}

/// A provider cannot do what was asked; one sentence for the user.
public struct AcceleratorError: Error, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }
}

/// The processors' side of one machine.
public protocol VirtualMachine: AnyObject, Sendable {
    /// Makes virtual CPU `index`, in the state after reset; all but the first wait for INIT and
    /// SIPI. Call it for 0, 1, 2...
    func makeVCPU(index: Int) throws(AcceleratorError) -> any VirtualCPU

    /// Delivers a message-signalled interrupt (SDM volume 3, section 11.11): `address` is
    /// 0xFEEx_xxxx. Any thread may call it.
    func signalMSI(address: UInt64, data: UInt32)

    /// Interrupts a vCPU receives from a file descriptor, without a thread of the machine where
    /// the provider can (irqfd). Returns `false` if the caller must watch `event` itself and call
    /// `signalMSI`.
    func bindInterrupt(_ event: EventFD, address: UInt64, data: UInt32) -> Bool
    /// Takes such a binding back.
    func unbindInterrupt(_ event: EventFD)

    /// Makes guest writes of any size to `address` signal `event` without an exit (ioeventfd).
    /// Returns `false` if the caller must do it on the exit.
    func bindNotify(_ event: EventFD, address: GuestAddress) -> Bool
    func unbindNotify(_ event: EventFD, address: GuestAddress)

    /// Makes a window's memory the guest's at `address`, and no longer where it was before; `nil`: it
    /// cannot be reached. The window is kept as long as the machine. Returns `false` if that is not
    /// possible.
    func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool

    /// Something outside wrote to guest memory which the guest may now execute: decoded code must
    /// be checked again. Nothing to do for hardware.
    func memoryChangedOutside()
}

/// One virtual CPU. All but `kick` belong to the thread that runs it.
public protocol VirtualCPU: AnyObject, Sendable {
    /// Sets the registers with which the CPU starts.
    func setInitialState(_ state: InitialCPUState)

    /// Runs guest code until something happens that the machine must see to. A halted CPU waits
    /// inside.
    func run() -> VCPUExit

    /// Makes `run` return soon (`kicked`). Any thread may call it, at any time; a kick that comes
    /// while the CPU is not running makes the next `run` return at once.
    func kick()

    /// Instructions retired so far, as far as the provider counts them.
    var retiredInstructions: UInt64 { get }

    /// What the user is to be told when the machine has ended.
    var summary: String? { get }
}

extension VirtualCPU {
    public var summary: String? { nil }
}

/// Why `VirtualCPU.run` returned.
public enum VCPUExit: Sendable {
    case kicked
    /// A device access of this CPU asked for it.
    case effect(MachineEffect)
    /// A fault in the handler of a double fault: the machine resets.
    case tripleFault
    /// The provider cannot go on; one sentence for the user, with the state it found.
    case internalError(String)
}

/// What must happen to the machine after a register access. Devices return it instead of doing it,
/// and the vCPU's loop does it when no lock is held.
public enum MachineEffect: UInt8, Sendable {
    case none
    case powerOff
    case reset
    /// The guest reported a panic (pvpanic).
    case panicked
    /// The guest reported that its crash kernel takes over (pvpanic).
    case crashLoaded
    /// The guest has ended the machine with a status of its own, which its device knows.
    case debugExit
    /// Devices have been told something, and guest time stands still until they have done it: the
    /// CPU goes on then.
    case awaitDevices
}

/// What a CPU's accesses reach outside memory: the machine's buses. Called on vCPU threads.
/// `size` is 1, 2, 4 or 8 (ports: 1, 2 or 4); an unclaimed read gives all ones.
public protocol ExitSurface: AnyObject, Sendable {
    func readPort(_ port: UInt16, size: Int) -> UInt32
    func writePort(_ port: UInt16, size: Int, _ value: UInt32) -> MachineEffect
    func readMMIO(_ address: GuestAddress, size: Int) -> UInt64
    func writeMMIO(_ address: GuestAddress, size: Int, _ value: UInt64) -> MachineEffect
    /// A CPU has ended a level-triggered interrupt: the I/O APIC must know.
    func endOfInterrupt(vector: UInt8)
}
