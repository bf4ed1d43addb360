internal import CLinux
internal import Core
internal import Synchronization

/// What a driver knows and has open, noted in memory that outlives this process, for the next one.
///
/// This process reads only once what others have noted; after that it writes. A note counts from
/// the store of one word on: whatever instruction the process dies at, a slot holds one thing as a
/// whole, or none. Whatever else must not be noted too late or too early is stored in order as well.
// SAFETY: the mapping has the size of a ledger and lives as long as this object; indices are below
// the limits. A slot is written under the lock of the table that it belongs to, a task by the
// thread of its queue.
@safe final class Ledger: Sendable {
    private static let version: UInt64 = 5
    static let nodeLimit = Int(CLINUX_LEDGER_NODES)
    static let handleLimit = Int(CLINUX_LEDGER_HANDLES)

    private let mapping: MemoryMapping

    /// Memory for a ledger; it takes room only as far as it is used.
    static func makeFile() throws(SystemError) -> SharedFD {
        let file = try MemFD(name: "apus-ledger", size: UInt64(CLINUX_LEDGER_SIZE))
        return SharedFD(try file.fd.duplicate())
    }

    init(_ file: SharedFD) throws(SystemError) {
        mapping = try MemoryMapping(sharing: file.rawValue, size: Int(CLINUX_LEDGER_SIZE))
    }

    var header: UnsafeMutablePointer<clinux_ledger> {
        unsafe mapping.base.assumingMemoryBound(to: clinux_ledger.self)
    }

    /// Whether another process has noted something.
    var hasHistory: Bool { unsafe header.pointee.version == Self.version }

    /// The first process begins.
    func begin() { unsafe storeInOrder(Self.version, &header.pointee.version) }

    /// What driver and device have agreed on.
    var abilities: UInt64 {
        get { unsafe header.pointee.abilities }
        set { unsafe storeInOrder(newValue, &header.pointee.abilities) }
    }

    /// Which of a thing's two numbers of descriptors counts.
    var column: Int {
        get { unsafe Int(header.pointee.column & 1) }
        set { unsafe storeInOrder(UInt32(newValue), &header.pointee.column) }
    }

    /// Notes the process that keeps the descriptors of a column.
    func setKeeper(_ process: Int32, in column: Int) {
        if column == 0 {
            unsafe header.pointee.keepers.0 = process
        } else {
            unsafe header.pointee.keepers.1 = process
        }
    }

    private static func index(_ id: UInt64) -> Int { Int(id & 0xffff_ffff) }

    // MARK: Nodes

    private func node(_ index: Int) -> UnsafeMutablePointer<clinux_kept_node> {
        precondition(index < Self.nodeLimit, "there is no such slot")
        return unsafe clinux_ledger_nodes(header) + index
    }

    /// The number of slots that have ever held a node.
    var nodeSlots: Int { unsafe min(Int(header.pointee.node_slots), Self.nodeLimit) }

    func note(_ id: UInt64, _ node: Node, lookups: UInt64, parent: UInt64) {
        let index = Self.index(id)
        let slot = unsafe self.node(index)
        unsafe slot.pointee.lookups = lookups
        unsafe slot.pointee.parent = parent
        unsafe slot.pointee.inode = node.key.inode
        unsafe slot.pointee.device = node.key.device
        unsafe slot.pointee.mount = node.key.mount
        unsafe slot.pointee.type = node.type
        unsafe begin(&slot.pointee.kept, id, node.fd)
        if unsafe header.pointee.node_slots <= index {
            unsafe storeInOrder(UInt32(index + 1), &header.pointee.node_slots)
        }
    }

    func note(_ id: UInt64, lookups: UInt64) {
        unsafe storeInOrder(lookups, &node(Self.index(id)).pointee.lookups)
    }

    func note(_ id: UInt64, parent: UInt64) {
        unsafe storeInOrder(parent, &node(Self.index(id)).pointee.parent)
    }

    /// A node has been opened again.
    func note(_ id: UInt64, descriptor: Int32) {
        unsafe storeNumber(descriptor, &node(Self.index(id)).pointee.kept)
    }

    /// A node is about to be closed, but is still known.
    func noteClosed(_ id: UInt64, _ closed: ClosedNode) {
        let index = Self.index(id)
        let place = unsafe self.place(at: index)
        unsafe place.pointee.seconds = closed.seconds
        unsafe place.pointee.nanoseconds = closed.nanoseconds
        switch closed.place {
        case .handle(let handle):
            unsafe place.pointee.has_handle = 1
            unsafe place.pointee.handle = handle
        case .name(let name):
            unsafe place.pointee.has_handle = 0
            unsafe withUnsafeMutableBytes(of: &place.pointee.name) { room in
                unsafe name.withUnsafeBytes { text in
                    unsafe room.copyBytes(from: text.prefix(room.count))
                }
            }
        // Only of what comes from a process without a ledger.
        case .path, .nowhere:
            unsafe place.pointee.has_handle = 0
            unsafe place.pointee.name.0 = 0
        }
        unsafe storeNumber(-1, &node(index).pointee.kept)
    }

    private func place(at index: Int) -> UnsafeMutablePointer<clinux_kept_place> {
        precondition(index < Self.nodeLimit, "there is no such slot")
        return unsafe clinux_ledger_places(header) + index
    }

    /// How what a slot for nodes holds is found again, if it is closed.
    func place(_ index: Int) -> clinux_kept_place { unsafe place(at: index).pointee }

    func forgetNode(_ id: UInt64) { unsafe end(&node(Self.index(id)).pointee.kept) }

    /// What a slot for nodes holds.
    func keptNode(_ index: Int) -> clinux_kept_node { unsafe node(index).pointee }

    // MARK: Open files

    private func handle(_ index: Int) -> UnsafeMutablePointer<clinux_kept_handle> {
        precondition(index < Self.handleLimit, "there is no such slot")
        return unsafe clinux_ledger_handles(header) + index
    }

    /// The number of slots that have ever held an open file.
    var handleSlots: Int { unsafe min(Int(header.pointee.handle_slots), Self.handleLimit) }

    func note(_ id: UInt64, _ file: OpenFile) {
        let index = Self.index(id)
        let slot = unsafe handle(index)
        unsafe slot.pointee.node = file.nodeID
        unsafe slot.pointee.kind = file.kind.rawValue
        unsafe slot.pointee.owner = file.lockOwner.id
        unsafe slot.pointee.by = file.lockOwner.handle
        unsafe slot.pointee.process = file.lockOwner.process
        unsafe slot.pointee.appends = file.appends ? 1 : 0
        unsafe begin(&slot.pointee.kept, id, file.fd)
        if unsafe header.pointee.handle_slots <= index {
            unsafe storeInOrder(UInt32(index + 1), &header.pointee.handle_slots)
        }
    }

    func forgetHandle(_ id: UInt64) { unsafe end(&handle(Self.index(id)).pointee.kept) }

    /// What a slot for open files holds.
    func keptHandle(_ index: Int) -> clinux_kept_handle { unsafe handle(index).pointee }

    // MARK: Tasks

    /// What a queue is doing.
    func task(_ queue: Int) -> UnsafeMutablePointer<clinux_task> {
        precondition(queue < Int(CLINUX_LEDGER_TASKS), "there is no such queue")
        return unsafe clinux_ledger_tasks(header) + queue
    }

    /// No queue is doing anything that is asked for again.
    func forgetTasks() {
        for queue in 0..<Int(CLINUX_LEDGER_TASKS) {
            unsafe storeInOrder(0, &task(queue).pointee.unique)
        }
    }

    /// Finds out whether the process that died did forget the nodes that it was about to forget,
    /// before they are counted again.
    func settleTasks() {
        for queue in 0..<Int(CLINUX_LEDGER_TASKS) {
            let task = unsafe task(queue)
            guard unsafe task.pointee.forgotten != 0 else { continue }
            let id = unsafe task.pointee.forgotten
            if unsafe task.pointee.before == lookups(of: id) {
                unsafe storeInOrder(Int64(task.pointee.entry) + 1, &task.pointee.result)
            }
            unsafe storeInOrder(0, &task.pointee.forgotten)
        }
    }

    private func lookups(of id: UInt64) -> UInt64 {
        guard Self.index(id) < nodeSlots else { return 0 }
        let node = keptNode(Self.index(id))
        return node.kept.state == id & ~0xffff_ffff | 1 ? node.lookups : 0
    }

    // MARK: Slots

    private func begin(
        _ kept: UnsafeMutablePointer<clinux_kept>, _ id: UInt64, _ descriptor: Int32
    ) {
        unsafe kept.pointee.setNumber(descriptor, in: column)
        unsafe storeInOrder(id & ~0xffff_ffff | 1, &kept.pointee.state)
    }

    private func storeNumber(_ number: Int32, _ kept: UnsafeMutablePointer<clinux_kept>) {
        // Behind the state.
        let numbers = unsafe (UnsafeMutableRawPointer(kept) + MemoryLayout<UInt64>.size)
            .assumingMemoryBound(to: UInt32.self)
        unsafe storeInOrder(UInt32(bitPattern: number), numbers + column)
    }

    private func end(_ kept: UnsafeMutablePointer<clinux_kept>) {
        unsafe storeInOrder(kept.pointee.state & ~1, &kept.pointee.state)
    }

    private func kept(_ body: (UnsafeMutablePointer<clinux_kept>) -> Void) {
        func visit(_ kept: UnsafeMutablePointer<clinux_kept>) {
            if unsafe kept.pointee.isUsed { unsafe body(kept) }
        }
        for index in 0..<nodeSlots { unsafe visit(&node(index).pointee.kept) }
        for index in 0..<handleSlots { unsafe visit(&handle(index).pointee.kept) }
    }

    /// The numbers of all descriptors, as they are in the column that counts.
    var descriptors: [Int32] {
        var numbers: [Int32] = []
        let column = column
        unsafe kept {
            let number = unsafe $0.pointee.number(in: column)
            if number >= 0 { numbers.append(number) }
        }
        return numbers
    }

    /// Notes what `descriptors` has become, in the column that does not count.
    func renumber(_ numbers: [Int32]) {
        var rest = numbers[...]
        let column = column
        unsafe kept {
            let isOpen = unsafe $0.pointee.number(in: column) >= 0
            let number = isOpen ? rest.popFirst() ?? -1 : -1
            unsafe $0.pointee.setNumber(number, in: 1 - column)
        }
    }

    /// The driver is to know nothing any more.
    func forgetAll() {
        unsafe kept { unsafe end($0) }
        forgetMappings()
    }
}

/// Stores a word for whoever looks when this process is dead: after all that comes before it in the
/// program, and before the next word that is stored like this.
// SAFETY: the place is aligned and outlives the call; an atomic integer is laid out as a plain one.
@inline(__always)
func storeInOrder<Word: AtomicRepresentable>(_ value: Word, _ place: UnsafeMutablePointer<Word>)
where Word.AtomicRepresentation == UInt64.AtomicRepresentation {
    unsafe UnsafeMutableRawPointer(place).assumingMemoryBound(to: Atomic<Word>.self)
        .pointee.store(value, ordering: .releasing)
}

@inline(__always)
func storeInOrder(_ value: UInt32, _ place: UnsafeMutablePointer<UInt32>) {
    // SAFETY: as above.
    unsafe UnsafeMutableRawPointer(place).assumingMemoryBound(to: Atomic<UInt32>.self)
        .pointee.store(value, ordering: .releasing)
}

extension clinux_kept {
    var isUsed: Bool { state & 1 != 0 }
    /// The number of items that have been in the slot.
    var generation: UInt32 { UInt32(truncatingIfNeeded: state >> 32) }

    /// The number of the descriptor.
    func number(in column: Int) -> Int32 { column == 0 ? numbers.0 : numbers.1 }

    mutating func setNumber(_ number: Int32, in column: Int) {
        if column == 0 { numbers.0 = number } else { numbers.1 = number }
    }
}

extension clinux_kept_place {
    /// The name, with its NUL.
    var text: [CChar] {
        unsafe withUnsafeBytes(of: name) { bytes in
            unsafe bytes.prefix { $0 != 0 }.prefix(FUSELimit.name).map { CChar(bitPattern: $0) } + [
                0
            ]
        }
    }
}
