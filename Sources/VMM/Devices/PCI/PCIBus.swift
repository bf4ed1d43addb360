internal import Accelerator
internal import Synchronization

/// A range of addresses that BARs may be in.
package struct PCIWindow: Equatable, Sendable {
    package var start: UInt64
    package var size: UInt64

    package init(start: UInt64, size: UInt64) {
        self.start = start
        self.size = size
    }

    func contains(_ address: UInt64, size count: UInt64) -> Bool {
        address >= start && address - start < size && count <= size - (address - start)
    }
}

/// Adding a function to the bus failed: all places or all addresses are taken.
package struct PCIError: Error, Sendable, CustomStringConvertible {
    package let description: String
}

/// PCI bus 0: up to 32 devices of one function each. The configuration mechanisms (`PCIECAM`,
/// `PCIConfigPorts`) end here; BARs are places on the machine's memory bus, which follow what the
/// guest programs.
///
/// The machine programs all BARs, so that guests without firmware find them in place.
package final class PCIBus: Sendable {
    private struct Slot: Sendable {
        let function: any PCIFunction
        var bars: [(bar: Int, handle: Bus.Handle, initial: UInt64, current: UInt64?)]
    }

    private let memory: Bus
    private let windows: [PCIWindow]
    private let functions = Mutex<[Int: any PCIFunction]>([:])
    /// The layout: who is where. Lock order: this, then a function's lock or the memory bus's.
    private let slots = Mutex<[Int: Slot]>([:])

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
        // The lock's closure cannot throw our error type, so it returns the outcome.
        let outcome: Result<Int, PCIError> = slots.withLock { slots in
            do throws(PCIError) {
                return .success(try add_locked(function, device, &slots))
            } catch {
                return .failure(error)
            }
        }
        return try outcome.get()
    }

    private func add_locked(
        _ function: any PCIFunction, _ device: Int?, _ slots: inout [Int: Slot]
    ) throws(PCIError) -> Int {
        let free = (0..<32).first { slots[$0] == nil }
        guard let number = device ?? free, (0..<32).contains(number), slots[number] == nil else {
            throw PCIError(description: "no free place on the PCI bus")
        }
        var slot = Slot(function: function, bars: [])
        for placement in function.placements {
            let region = PCIBARRegion(function, placement.bar)
            guard let address = freeAddress_locked(placement, slots, slot),
                let handle = memory.attach(region, start: nil, length: placement.size)
            else {
                for bar in slot.bars { memory.detach(bar.handle) }
                throw PCIError(description: "no free addresses for a PCI device")
            }
            function.setBAR(placement.bar, address: address)
            slot.bars.append((placement.bar, handle, address, nil))
        }
        slots[number] = slot
        functions.withLock { $0[number] = function }
        place_locked(&slots)
        return number
    }

    /// Takes a function away, with everything it claims.
    package func remove(device: Int) {
        functions.withLock { $0[device] = nil }
        slots.withLock { slots in
            guard let slot = slots.removeValue(forKey: device) else { return }
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
        if target.placements != before { slots.withLock { place_locked(&$0) } }
        return effect
    }

    private func find(bus: Int, device: Int, function: Int) -> (any PCIFunction)? {
        guard bus == 0, function == 0 else { return nil }
        return functions.withLock { $0[device] }
    }

    // MARK: Layout

    /// Puts every BAR where its function now says. A BAR outside the windows, or on top of
    /// another one, is unreachable until either moves.
    private func place_locked(_ slots: inout [Int: Slot]) {
        var wanted: [(device: Int, index: Int, address: UInt64?)] = []
        for (device, slot) in slots.sorted(by: { $0.key < $1.key }) {
            let placements = slot.function.placements
            for (index, bar) in slot.bars.enumerated() {
                let placement = placements.first { $0.bar == bar.bar }
                let address = placement?.address.flatMap { address in
                    windows.contains { $0.contains(address, size: placement?.size ?? 0) }
                        ? address : nil
                }
                wanted.append((device, index, address))
            }
        }
        // What leaves its place makes room for what comes.
        for (device, index, address) in wanted {
            guard let bar = slots[device]?.bars[index], bar.current != address else { continue }
            memory.move(bar.handle, to: nil)
        }
        for (device, index, address) in wanted {
            guard let slot = slots[device] else { continue }
            let bar = slot.bars[index]
            guard bar.current != address else { continue }
            let place = memory.move(bar.handle, to: address) ? address : nil
            guard place != bar.current else { continue }
            slots[device]?.bars[index].current = place
            slot.function.barMoved(bar.bar, to: place)
        }
    }

    /// An address that no BAR starts with.
    private func freeAddress_locked(
        _ placement: PCIBARPlacement, _ slots: [Int: Slot], _ slot: Slot
    ) -> UInt64? {
        var taken: [(start: UInt64, size: UInt64)] = []
        for slot in slots.values + [slot] {
            let placements = slot.function.placements
            for bar in slot.bars {
                guard let size = placements.first(where: { $0.bar == bar.bar })?.size else {
                    continue
                }
                taken.append((bar.initial, size))
            }
        }
        for window in windows where placement.is64Bit || window.start >> 32 == 0 {
            var address = (window.start + placement.size - 1) & ~(placement.size - 1)
            while window.contains(address, size: placement.size) {
                let end = address + placement.size
                guard
                    let obstacle = taken.first(where: {
                        $0.start < end && address < $0.start + $0.size
                    })
                else { return address }
                address =
                    (obstacle.start + obstacle.size + placement.size - 1)
                    & ~(placement.size - 1)
            }
        }
        return nil
    }
}

/// A BAR as a place on the memory bus.
private final class PCIBARRegion: BusDevice {
    private let function: any PCIFunction
    private let bar: Int

    init(_ function: any PCIFunction, _ bar: Int) {
        self.function = function
        self.bar = bar
    }

    func read(offset: UInt64, size: Int) -> UInt64 {
        function.readBAR(bar, offset: offset, size: size)
    }

    func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        function.writeBAR(bar, offset: offset, size: size, value)
    }
}
