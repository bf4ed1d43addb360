import Accelerator
import Core
import DeviceFakes
import TestSupport

@testable import Devices

/// Makes accesses of all sizes near the given ranges.
struct RegisterAttack {
    let ranges: [(start: UInt64, length: UInt64)]
    let read: (UInt64, Int) -> UInt64
    let write: (UInt64, Int, UInt64) -> MachineEffect

    /// What `access` reads for an aligned write of 1 << `sizeShift` bytes.
    static func putWrite(
        _ seed: inout FuzzSeed, range: (index: Int, count: Int, length: Int), _ offset: Int,
        sizeShift: UInt8, _ value: UInt64
    ) {
        seed.choose(range.index, of: range.count)
        seed.put(0x54 | sizeShift)
        seed.choose(offset, of: range.length + 8)
        seed.putEdge(value)
    }

    func access(_ input: inout FuzzInput) throws {
        let range = input.pick(ranges)
        let kind = input.byte()
        let size = 1 << Int(kind & 3)
        // Mostly aligned, sometimes past the end.
        var offset = UInt64(input.below(Int(range.length) + 8))
        if kind & 0x0c != 0 { offset &= ~UInt64(size - 1) }
        let address = range.start &+ offset
        if kind & 0x30 == 0 {
            let value = read(address, size)
            try require(
                size == 8 || value >> UInt64(8 * size) == 0,
                "\(size) bytes at \(String(address, radix: 16)) read as \(value)")
            return
        }
        let value = kind & 0x40 != 0 ? input.edge() : UInt64(input.byte())
        _ = write(address, size, value)
    }
}

/// A virtio device on a PCI bus.
private struct VirtioRig {
    static let window: UInt64 = 0xC000_0000
    static let ecam: UInt64 = 0xE000_0000
    let device = RecordingDevice(queueCount: 2)
    let control = InlineControlPlane()
    let memory = Bus()
    let ports = Bus()
    let bus: PCIBus
    private let function: VirtioPCI
    private let accesses: [(Bus, Bus.Handle?)]

    init(canBind: Bool) throws {
        let machine = FakeMachine(canBind: canBind)
        bus = PCIBus(memory: memory, windows: [PCIWindow(start: Self.window, size: 0x100_0000)])
        function = try VirtioPCI(
            device, memory: try ScratchMemory(size: 1 << 16).memory, machine: machine,
            control: control)
        try bus.add(PCIHostBridge())
        try bus.add(function)
        accesses = [
            (memory, memory.attach(PCIECAM(bus), start: Self.ecam, length: 1 << 20)),
            (ports, ports.attach(PCIConfigPorts(bus), start: 0xCF8, length: PCIConfigPorts.size)),
        ]
    }

    /// Takes the buses apart, which hold each other.
    func end() {
        reset()
        for device in 0..<2 { bus.remove(.device(device)) }
        for case (let bus, let handle?) in accesses { bus.detach(handle) }
        memory.reclaim()
        ports.reclaim()
    }

    private func reset() {
        function.reset()
        bus.reset()
    }

    private func write(_ offset: UInt64, _ size: Int, _ value: UInt64) {
        _ = memory.write(Self.window + offset, size: size, value)
    }

    /// Whether a driver can bring the device up after a reset.
    func checkRecovery() throws {
        reset()
        // Memory decoding, then the handshake (VIRTIO 1.3, section 3.1.1).
        _ = memory.write(Self.ecam + 0x8004, size: 2, 6)
        for status: UInt64 in [0, 1, 3] { write(20, 1, status) }
        write(8, 4, 1)
        write(12, 4, 1)
        write(20, 1, 11)
        for (offset, value) in [(22, 0), (24, 128), (28, 1)] as [(UInt64, UInt64)] {
            write(offset, 2, value)
        }
        write(20, 1, 15)
        control.poll()
        let status = memory.read(Self.window + 20, size: 1)
        try require(status == 15, "after a reset the device's status is \(status)")
    }
}

/// Configuration space by both ways, with what moves when BARs do.
struct PCIConfigTarget: FuzzTarget {
    static let name = "pci-config"
    static let about = "PCI configuration space: ports 0xCF8 and 0xCFC, ECAM, moving BARs"

    /// Decoding is enabled, BARs are sized and moved: by memory, and by ports.
    static let seeds: [[UInt8]] = [
        FuzzSeed.make { seed in
            seed.put(true)
            for (register, value) in [(4, 6), (16, ~0), (20, ~0), (16, 0xC010_000C), (20, 0)]
                as [(Int, UInt64)]
            {
                seed.choose(0, of: 4)
                RegisterAttack.putWrite(
                    &seed, range: (0, 5, 0x100), register, sizeShift: 2, value)
            }
        },
        FuzzSeed.make { seed in
            seed.put(false)
            for (register, value) in [(4, 6), (16, ~0), (16, 0xC020_0000)] as [(UInt8, UInt64)] {
                seed.choose(3, of: 4)
                seed.choose(1, of: 2)
                seed.put(register)
                RegisterAttack.putWrite(&seed, range: (0, 1, 8), 4, sizeShift: 2, value)
            }
        },
    ]

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let rig = try VirtioRig(canBind: input.flag())
        defer { rig.end() }
        let byMemory = RegisterAttack(
            ranges: [
                (VirtioRig.ecam + 0x8000, 0x100), (VirtioRig.ecam + 0x8000, 0x40),
                (VirtioRig.ecam, 0x100), (VirtioRig.ecam, 1 << 20), (VirtioRig.window, 0x8000),
            ],
            read: { rig.memory.read($0, size: $1) }, write: { rig.memory.write($0, size: $1, $2) })
        let byPort = RegisterAttack(
            ranges: [(0xCF8, 8)], read: { rig.ports.read($0, size: $1) },
            write: { rig.ports.write($0, size: $1, $2) })
        while !input.isEmpty {
            switch input.below(4) {
            case 3:
                // A whole access by ports: device 0 or 1, any register.
                let select = 0x8000_0000 | UInt64(input.below(2)) << 11 | UInt64(input.byte())
                _ = rig.ports.write(0xCF8, size: 4, select)
                try byPort.access(&input)
            case 2: try byPort.access(&input)
            default: try byMemory.access(&input)
            }
            rig.control.poll()
        }
        let identity = rig.memory.read(VirtioRig.ecam + 0x8000, size: 4)
        try require(identity == 0x1042_1AF4, "the identity is \(identity)")
        try rig.checkRecovery()
        return true
    }
}

/// The registers in a virtio device's BAR, its MSI-X table and what they do.
struct VirtioPCITarget: FuzzTarget {
    static let name = "virtio-pci"
    static let about = "virtio-pci registers, notifications, MSI-X table"

    /// A driver brings the device up, with MSI-X, is notified, and resets it.
    static let seeds: [[UInt8]] = [false, true].map { canBind in
        FuzzSeed.make { seed in
            func put(_ range: Int, _ length: Int, _ offset: Int, _ shift: UInt8, _ value: UInt64) {
                seed.choose(0, of: 8)
                RegisterAttack.putWrite(
                    &seed, range: (range, 9, length), offset, sizeShift: shift, value)
            }
            seed.put(canBind)
            // MSI-X is enabled, wherever its capability is.
            for offset in stride(from: 0x22, to: 0xe0, by: 16) { put(8, 0xe0, offset, 1, 0x8000) }
            for (offset, value) in [(0, 0xFEE0_0000), (4, 0), (8, 0x41), (12, 0)]
                as [(Int, UInt64)]
            { put(5, 64, offset, 2, value) }
            put(0, 64, 16, 1, 0)
            put(0, 64, 26, 1, 0)
            seed.choose(7, of: 8)
            put(3, 32, 0, 1, 0)
            seed.choose(6, of: 8)
            put(0, 64, 20, 0, 0)
            seed.choose(7, of: 8)
        }
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let rig = try VirtioRig(canBind: input.flag())
        defer { rig.end() }
        _ = rig.memory.write(VirtioRig.ecam + 0x8004, size: 2, 6)
        let base = VirtioRig.window
        let attack = RegisterAttack(
            ranges: [
                (base, 64), (base, 64), (base + 0x1000, 4), (base + 0x2000, 32),
                (base + 0x3000, 16), (base + 0x4000, 64), (base + 0x5000, 8), (base, 0x8000),
                (VirtioRig.ecam + 0x8020, 0xe0),
            ],
            read: { rig.memory.read($0, size: $1) }, write: { rig.memory.write($0, size: $1, $2) })
        while !input.isEmpty {
            switch input.below(8) {
            case 7:
                // What a driver would do, so that queues start.
                for (offset, size, value) in [
                    (20, 1, 3), (8, 4, 1), (12, 4, 1), (20, 1, 11), (22, 2, 0), (24, 2, 8),
                    (28, 2, 1), (20, 1, 15),
                ] as [(UInt64, Int, UInt64)] {
                    _ = rig.memory.write(base + offset, size: size, value)
                }
            case 6: for setup in rig.device.setups.values { setup.call?.signal() }
            default: try attack.access(&input)
            }
            rig.control.poll()
        }
        let hasStarted = rig.device.takeCalls().contains {
            if case .start = $0 { true } else { false }
        }
        try rig.checkRecovery()
        return hasStarted
    }
}

/// The serial port from both of its sides, and the small ports beside it.
struct SerialTarget: FuzzTarget {
    static let name = "serial"
    static let about = "the serial port from both sides; power and panic ports"

    /// The port is set up with interrupts and FIFOs, or in a loop; bytes go both ways.
    static let seeds: [[UInt8]] = [0x0B, 0x1B as UInt64].map { modem in
        FuzzSeed.make { seed in
            for (register, value) in [
                (3, 0x83), (0, 1), (3, 3), (2, 0xC7), (1, 0xF), (4, modem), (0, 0x41), (4, 0x0B),
                (0, 0x42),
            ] as [(Int, UInt64)] {
                seed.choose(0, of: 8)
                RegisterAttack.putWrite(
                    &seed, range: (0, 9, 8), register, sizeShift: 0, value)
            }
            seed.choose(7, of: 8)
            seed.choose(20, of: 32)
            seed.put([UInt8](repeating: 0x61, count: 20))
            seed.choose(6, of: 8)
            seed.choose(64, of: 80)
        }
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let machine = FakeMachine()
        let buses = MachineBuses()
        let ioapic = IOAPIC(machine: machine)
        buses.connect(ioapic)
        let serial = Serial(
            line: InterruptLine(ioapic, pin: 4), events: .init(), inputCapacity: 16,
            outputCapacity: 64)
        buses.ports.attach(serial, start: 0x3F8, length: Serial.size)
        buses.ports.attach(SleepRegisters(), start: 0x600, length: SleepRegisters.size)
        buses.ports.attach(PanicNotifier(), start: 0x505, length: PanicNotifier.size)
        buses.ports.attach(DebugExit(), start: 0x508, length: DebugExit.size)
        let test = TestDevice(ioapic)
        buses.ports.attach(test.register, start: 0xe0, length: TestDevice.Register.size)
        buses.ports.attach(test.wires, start: 0x2000, length: TestDevice.Wires.size)
        buses.ports.attach(PortSink(), start: 0x80, length: 1)
        let attack = RegisterAttack(
            ranges: [
                (0x3F8, 8), (0x3F8, 8), (0x3F8, 8), (0x600, 2), (0x505, 1), (0x508, 4), (0x80, 1),
                (0xe0, 4), (0x2000, 24),
            ],
            read: { UInt64(buses.readPort(UInt16(truncatingIfNeeded: $0), size: min($1, 4))) },
            write: { address, size, value in
                buses.writePort(
                    UInt16(truncatingIfNeeded: address), size: min(size, 4),
                    UInt32(truncatingIfNeeded: value))
            })
        var hasOutput = false
        while !input.isEmpty {
            switch input.below(8) {
            case 7:
                let bytes = input.take(input.below(32))
                let taken = serial.receive(bytes)
                try require(taken <= bytes.count, "\(taken) of \(bytes.count) bytes are taken")
            case 6:
                let count = input.below(80)
                let bytes = serial.takeOutput(maximum: count)
                try require(bytes.count <= count, "\(bytes.count) bytes instead of \(count)")
                hasOutput = hasOutput || !bytes.isEmpty
            case 5 where input.rarely(16): serial.reset()
            default: try attack.access(&input)
            }
            _ = machine.takeMessages()
        }
        return hasOutput
    }
}

/// The I/O APIC, with devices that raise and lower its pins.
struct IOAPICTarget: FuzzTarget {
    static let name = "ioapic"
    static let about = "I/O APIC registers, pins and ends of interrupts"

    /// A pin is routed, raised, acknowledged and lowered, by edge and by level.
    static let seeds: [[UInt8]] = [0x31, 0x8031, 0xA031, 0x1_0031 as UInt32].map { entry in
        FuzzSeed.make { seed in
            seed.choose(5, of: 8)
            seed.choose(8, of: 48)
            seed.put(entry)
            for isRaised in [true, false, true] {
                seed.choose(7, of: 8)
                seed.choose(4, of: 24)
                seed.put(isRaised)
                seed.choose(6, of: 8)
                seed.put(0x31 as UInt8)
            }
        }
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let machine = FakeMachine()
        let ioapic = IOAPIC(machine: machine)
        let bus = Bus()
        _ = bus.attach(ioapic, start: 0, length: IOAPIC.size)
        let lines = (0..<IOAPIC.pinCount).map { InterruptLine(ioapic, pin: $0) }
        let attack = RegisterAttack(
            ranges: [(0, 0x50), (0x10, 1), (0, 1), (0, 0x1000)],
            read: { bus.read($0, size: $1) }, write: { bus.write($0, size: $1, $2) })
        var hasSent = false
        while !input.isEmpty {
            switch input.below(8) {
            case 7:
                let line = input.pick(lines)
                if line.set(input.flag()) { line.deliver() }
            case 6: ioapic.endOfInterrupt(vector: input.byte())
            case 5:
                // A whole redirection entry's half.
                _ = ioapic.write(offset: 0, size: 4, 0x10 + UInt64(input.below(48)))
                _ = ioapic.write(offset: 0x10, size: 4, UInt64(input.number(UInt32.self)))
            case 4 where input.rarely(16): ioapic.reset()
            default: try attack.access(&input)
            }
            for message in machine.takeMessages() {
                hasSent = true
                try require(
                    message.address >> 20 == 0xFEE,
                    "a message goes to \(String(message.address, radix: 16))")
            }
        }
        return hasSent
    }
}
