internal import Accelerator
internal import Synchronization

/// PCI bus 0, up to 32 devices of one function each, and what is behind its root ports. The
/// configuration mechanisms (`PCIECAM`, `PCIConfigPorts`) end here; BARs are places on the machine's
/// memory bus, which follow what the guest programs.
///
/// The machine programs all BARs, so that guests without firmware find them in place.
package final class PCIBus: Sendable {
    private struct Slot: Sendable {
        let function: any PCIFunction
        var bars: [(bar: Int, handle: Bus.Handle, initial: UInt64, current: UInt64?)] = []
        /// What a root port passes on at first.
        var window: PCIWindow?
    }

    /// What a port passes on at first: enough for any device of ours, and what Linux gives a port.
    private static let portWindowSize: UInt64 = 2 << 20

    private let memory: Bus
    private let windows: [PCIWindow]
    private let functions = Mutex<[PCIPlace: any PCIFunction]>([:])
    private let ports = Mutex<[Int: PCIRootPort]>([:])
    /// The layout: who is where. Lock order: this, then a function's lock or the memory bus's.
    private let slots = Mutex<[PCIPlace: Slot]>([:])

    /// - Parameter windows: where BARs may be, in the order of preference. The guest must learn
    ///   of them by ACPI.
    package init(memory: Bus, windows: [PCIWindow]) {
        self.memory = memory
        self.windows = windows
    }

    /// Adds a function at device number `device` (by default the next free one), and finds
    /// addresses for its BARs.
    /// - Returns: the device number.
    @discardableResult
    package func add(_ function: any PCIFunction, device: Int? = nil) throws(PCIError) -> Int {
        try change { slots throws(PCIError) in
            let number = try Self.freeDevice(device, slots)
            try add_locked(function, .device(number), isProgrammed: true, &slots)
            return number
        }
    }

    /// Adds a root port.
    /// - Parameter make: makes the port, which passes on the given window.
    /// - Returns: its device number.
    package func addPort(_ make: (PCIWindow) -> PCIRootPort) throws(PCIError) -> Int {
        try change { slots throws(PCIError) in
            let number = try Self.freeDevice(nil, slots)
            let size = Self.portWindowSize
            guard let start = freeAddress_locked(size, is64Bit: false, slots, nil) else {
                throw PCIError(description: "no free addresses for a PCI port")
            }
            let window = PCIWindow(start: start, size: size)
            let port = make(window)
            slots[.device(number)] = Slot(function: port, window: window)
            functions.withLock { $0[.device(number)] = port }
            ports.withLock { $0[number] = port }
            return number
        }
    }

    /// Puts a card behind the port at a device number, which has none.
    /// - Parameter isProgrammed: it has addresses when the guest starts. Later the guest gives them.
    package func add(
        _ function: any PCIFunction, behind port: Int, isProgrammed: Bool
    ) throws(PCIError) {
        try change { slots throws(PCIError) in
            try add_locked(function, .behind(port), isProgrammed: isProgrammed, &slots)
        }
    }

    /// Changes the layout.
    private func change<Value>(
        _ body: (inout [PCIPlace: Slot]) throws(PCIError) -> Value
    ) throws(PCIError) -> Value {
        // The lock's closure cannot throw our error type, so it returns the outcome.
        let outcome: Result<Value, PCIError> = slots.withLock { slots in
            do throws(PCIError) {
                return .success(try body(&slots))
            } catch {
                return .failure(error)
            }
        }
        return try outcome.get()
    }

    private static func freeDevice(
        _ wanted: Int?, _ slots: [PCIPlace: Slot]
    ) throws(PCIError) -> Int {
        let free = (0..<32).first { slots[.device($0)] == nil }
        guard let number = wanted ?? free, (0..<32).contains(number), slots[.device(number)] == nil
        else { throw PCIError(description: "no free place on the PCI bus") }
        return number
    }

    private func add_locked(
        _ function: any PCIFunction, _ place: PCIPlace, isProgrammed: Bool,
        _ slots: inout [PCIPlace: Slot]
    ) throws(PCIError) {
        let window = Self.window(place, slots)
        var slot = Slot(function: function)
        for placement in function.placements {
            let region = PCIBARRegion(function, placement.bar)
            guard
                let address = freeAddress_locked(
                    placement.size, is64Bit: placement.is64Bit, slots, slot, in: window),
                let handle = memory.attach(region, start: nil, length: placement.size)
            else {
                for bar in slot.bars { memory.detach(bar.handle) }
                throw PCIError(description: "no free addresses for a PCI device")
            }
            if isProgrammed { function.setBAR(placement.bar, address: address) }
            slot.bars.append((placement.bar, handle, address, nil))
        }
        slots[place] = slot
        functions.withLock { $0[place] = function }
        place_locked(&slots)
    }

    /// Takes a function away, with everything it claims.
    package func remove(_ place: PCIPlace) {
        _ = functions.withLock { $0.removeValue(forKey: place) }
        slots.withLock { slots in
            guard let slot = slots.removeValue(forKey: place) else { return }
            for bar in slot.bars {
                slot.function.barMoved(bar.bar, to: nil)
                memory.detach(bar.handle)
            }
            place_locked(&slots)
        }
    }

    /// Puts the functions' configuration spaces and BARs back to how they started. The devices are
    /// reset by their owners, before. Called while no vCPU runs.
    package func reset() {
        for function in functions.withLock({ Array($0.values) }) { function.resetConfig() }
        slots.withLock { slots in
            for slot in slots.values {
                for bar in slot.bars { slot.function.setBAR(bar.bar, address: bar.initial) }
            }
            place_locked(&slots)
        }
    }

    // MARK: Configuration space

    /// Reads from the function `device`.`function` of bus `bus`; all ones if there is none.
    func readConfig(bus: Int, device: Int, function: Int, offset: Int, size: Int) -> UInt32 {
        guard let target = find(bus: bus, device: device, function: function) else {
            return UInt32(truncatingIfNeeded: allOnes(size))
        }
        return target.readConfig(offset, size: size)
    }

    func writeConfig(
        bus: Int, device: Int, function: Int, offset: Int, size: Int, _ value: UInt32
    ) -> MachineEffect {
        guard let target = find(bus: bus, device: device, function: function) else { return .none }
        let before = target.placements
        let effect = target.writeConfig(offset, size: size, value)
        if bus == 0, let port = ports.withLock({ $0[device] }) {
            portWritten(port, device)
        } else if target.placements != before {
            slots.withLock { place_locked(&$0) }
        }
        return effect
    }

    /// A port's window or power may have changed.
    private func portWritten(_ port: PCIRootPort, _ device: Int) {
        if port.takeReset() { functions.withLock { $0[.behind(device)] }?.resetAll() }
        slots.withLock { place_locked(&$0) }
    }

    private func find(bus: Int, device: Int, function: Int) -> (any PCIFunction)? {
        guard function == 0 else { return nil }
        if bus == 0 { return functions.withLock { $0[.device(device)] } }
        // A port passes on what is for device 0 of its bus.
        guard device == 0,
            let port = ports.withLock({ ports in
                ports.first { $0.value.isLinked && $0.value.secondaryBus == bus }?.key
            })
        else { return nil }
        return functions.withLock { $0[.behind(port)] }
    }

    // MARK: Layout

    /// Puts every BAR where its function now says. A BAR outside the windows, or on top of
    /// another one, is unreachable until either moves.
    private func place_locked(_ slots: inout [PCIPlace: Slot]) {
        var wanted: [(place: PCIPlace, index: Int, address: UInt64?)] = []
        for (place, slot) in slots.sorted(by: { $0.key.order < $1.key.order }) {
            let placements = slot.function.placements
            for (index, bar) in slot.bars.enumerated() {
                let placement = placements.first { $0.bar == bar.bar }
                let size = placement?.size ?? 0
                let address = placement?.address.flatMap { address in
                    windows.contains { $0.contains(address, size: size) }
                        && isForwarded(place, address, size: size) ? address : nil
                }
                wanted.append((place, index, address))
            }
        }
        // What leaves its place makes room for what comes.
        for (place, index, address) in wanted {
            guard let bar = slots[place]?.bars[index], bar.current != address else { continue }
            memory.move(bar.handle, to: nil)
        }
        for (place, index, address) in wanted {
            guard let slot = slots[place] else { continue }
            let bar = slot.bars[index]
            guard bar.current != address else { continue }
            let new = memory.move(bar.handle, to: address) ? address : nil
            guard new != bar.current else { continue }
            slots[place]?.bars[index].current = new
            slot.function.barMoved(bar.bar, to: new)
        }
    }

    /// Whether what is in front of a place lets an address through.
    private func isForwarded(_ place: PCIPlace, _ address: UInt64, size: UInt64) -> Bool {
        guard case .behind(let device) = place else { return true }
        return ports.withLock { $0[device] }?.forwards(address, size: size) ?? false
    }

    /// The addresses that a place is limited to at first.
    private static func window(_ place: PCIPlace, _ slots: [PCIPlace: Slot]) -> PCIWindow? {
        guard case .behind(let device) = place else { return nil }
        return slots[.device(device)]?.window
    }

    /// An address at which nothing is when the guest starts.
    /// - Parameters:
    ///   - slot: what is not among `slots` yet.
    ///   - limit: a port's window, and nothing else is in it.
    private func freeAddress_locked(
        _ size: UInt64, is64Bit: Bool, _ slots: [PCIPlace: Slot], _ slot: Slot?,
        in limit: PCIWindow? = nil
    ) -> UInt64? {
        let others = limit == nil ? Array(slots.values) : []
        let taken = (others + (slot.map { [$0] } ?? [])).flatMap(Self.claims)
        let usable = windows.filter { is64Bit || $0.start >> 32 == 0 }
        let choice: [PCIWindow] = limit.map { [$0] } ?? usable
        for window in choice {
            var address = (window.start + size - 1) & ~(size - 1)
            while window.contains(address, size: size) {
                let end = address + size
                guard
                    let obstacle = taken.first(where: {
                        $0.start < end && address < $0.start + $0.size
                    })
                else { return address }
                address = (obstacle.start + obstacle.size + size - 1) & ~(size - 1)
            }
        }
        return nil
    }

    /// The addresses that a slot takes when the guest starts.
    private static func claims(_ slot: Slot) -> [PCIWindow] {
        let placements = slot.function.placements
        let bars = slot.bars.compactMap { bar in
            placements.first { $0.bar == bar.bar }.map {
                PCIWindow(start: bar.initial, size: $0.size)
            }
        }
        return bars + (slot.window.map { [$0] } ?? [])
    }
}
