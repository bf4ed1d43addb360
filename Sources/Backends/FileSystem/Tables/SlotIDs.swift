/// Things that the driver knows by number. A number is never given twice, so one that has been
/// given back stands for nothing, and never for something newer.
struct SlotIDs<Item: Sendable>: Sendable {
    private struct Slot {
        var item: Item?
        /// Counts the items that have been in this slot; the upper half of their numbers.
        var generation: UInt32 = 0
    }

    private var slots: [Slot] = []
    private var free: [UInt32] = []
    private let limit: Int

    /// - Parameter limit: the most items at a time.
    init(limit: Int) { self.limit = limit }

    /// Slots that are in use.
    var count: Int { slots.count - free.count }

    /// Slots that were ever in use.
    var slotCount: Int { slots.count }

    subscript(slot index: Int) -> (id: UInt64, item: Item)? {
        guard let item = slots[index].item else { return nil }
        return (UInt64(slots[index].generation) << 32 | UInt64(index), item)
    }

    /// The number of items that have been in a slot.
    func generation(slot index: Int) -> UInt32 { slots[index].generation }

    private func index(of id: UInt64) -> Int? {
        let index = Int(id & 0xffff_ffff)
        guard index < slots.count, UInt64(slots[index].generation) == id >> 32 else { return nil }
        return index
    }

    subscript(id: UInt64) -> Item? {
        get { index(of: id).flatMap { slots[$0].item } }
        set {
            guard let index = index(of: id), slots[index].item != nil, newValue != nil else {
                return
            }
            slots[index].item = newValue
        }
    }

    /// - Returns: the item's number, which is never 0; `nil` if there is no room.
    mutating func insert(_ item: Item) -> UInt64? {
        let index: Int
        if let last = free.popLast() {
            index = Int(last)
        } else {
            guard slots.count < limit else { return nil }
            index = slots.count
            slots.append(Slot())
        }
        slots[index].generation &+= 1
        slots[index].item = item
        return UInt64(slots[index].generation) << 32 | UInt64(index)
    }

    /// Adds a slot as another process has left it.
    /// - Returns: the item's number.
    @discardableResult
    mutating func restore(_ item: Item?, generation: UInt32) -> UInt64 {
        let index = slots.count
        slots.append(Slot(item: item, generation: generation))
        if item == nil, generation < .max { free.append(UInt32(index)) }
        return UInt64(generation) << 32 | UInt64(index)
    }

    /// Takes an item out.
    @discardableResult
    mutating func remove(_ id: UInt64) -> Item? {
        guard let index = index(of: id), let item = slots[index].item else { return nil }
        slots[index].item = nil
        // A slot whose numbers are used up stays empty.
        if slots[index].generation < .max { free.append(UInt32(index)) }
        return item
    }

    func forEach(_ body: (UInt64, Item) -> Void) {
        for index in slots.indices {
            guard let item = slots[index].item else { continue }
            body(UInt64(slots[index].generation) << 32 | UInt64(index), item)
        }
    }

    /// - Parameter body: is told the number of each item.
    mutating func removeAll(_ body: (UInt64) -> Void) {
        for index in slots.indices where slots[index].item != nil {
            let id = UInt64(slots[index].generation) << 32 | UInt64(index)
            body(id)
            remove(id)
        }
    }
}
