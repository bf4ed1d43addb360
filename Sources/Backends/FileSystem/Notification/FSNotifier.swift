internal import CLinux
internal import Core
internal import Glibc

/// Serves the notification queue on its thread: tells the driver what the host's own programs have
/// changed (VIRTIO 1.3, section 5.11.6; FUSE_NOTIFY_INVAL_INODE and FUSE_NOTIFY_INVAL_ENTRY). The
/// driver's buffers are filled as changes come; without buffers they wait in the kernel, which says
/// when it has lost some.
final class FSNotifier {
    /// The most that a message takes: its header, what it says, and a name.
    static let messageSize = FUSELimit.replyHeader + 16 + FUSELimit.name + 1

    private let fileSystem: FileSystem
    private let watch: FolderWatch
    private let queue: Virtqueue
    private let kick: EventFD
    private let stop: StopSignal
    private let chain = DescriptorChain(capacity: 4)
    private let message: FUSEReply

    init(
        _ queue: Virtqueue, _ fileSystem: FileSystem, _ watch: FolderWatch, kick: EventFD,
        stop: StopSignal
    ) {
        self.queue = queue
        self.fileSystem = fileSystem
        self.watch = watch
        message = FUSEReply(users: fileSystem.options.users, groups: fileSystem.options.groups)
        self.kick = kick
        self.stop = stop
    }

    /// - Parameter isBehind: what the driver knows may have changed while nobody watched.
    func run(isBehind: Bool) {
        defer { watch.isActive = false }
        if isBehind {
            watchAll()
            guard tellAll() else { return watch.fallBehind() }
        }
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 8192, alignment: 8)
        defer { unsafe room.deallocate() }
        while wait(for: watch.inotify.rawValue) {
            // SAFETY: the kernel writes whole events, at most as many bytes as there are.
            guard let start = room.baseAddress else { return }
            let count = unsafe read(watch.inotify.rawValue, start, room.count)
            guard count > 0 else { continue }
            guard unsafe tell(UnsafeRawBufferPointer(rebasing: room[..<count])) else { return }
        }
    }

    /// - Returns: whether there is something to read; `false`: the queue stops.
    private func wait(for fd: Int32) -> Bool {
        clinux_poll_two(fd, Int16(POLLIN), stop.event.rawValue, Int16(POLLIN), -1) & 2 == 0
    }

    /// - Parameter events: whole ones (`inotify_event`).
    /// - Returns: `false`: the queue stops.
    private func tell(_ events: UnsafeRawBufferPointer) -> Bool {
        var rest = unsafe events[...]
        while unsafe rest.count >= Event.headerSize {
            let event = unsafe Event(UnsafeRawBufferPointer(rebasing: rest))
            unsafe rest = unsafe rest.dropFirst(event.size)
            guard tell(event) else { return false }
        }
        return true
    }

    private struct Event {
        static let headerSize = 16

        let watch: Int32
        let mask: UInt32
        let name: [UInt8]
        let size: Int

        /// - Parameter bytes: begin with a whole one, as the kernel has written it.
        init(_ bytes: UnsafeRawBufferPointer) {
            unsafe watch = bytes.loadUnaligned(as: Int32.self)
            unsafe mask = bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
            size =
                Self.headerSize
                + Int(unsafe bytes.loadUnaligned(fromByteOffset: 12, as: UInt32.self))
            unsafe name = Array(bytes[Self.headerSize..<size].prefix { $0 != 0 })
        }

        var changesName: Bool { mask & CLINUX_INOTIFY_NAMES != 0 }
        var changesData: Bool { mask & CLINUX_INOTIFY_DATA != 0 }
        var isLoss: Bool { mask & CLINUX_INOTIFY_LOSS != 0 }
        var isEnd: Bool { mask & CLINUX_INOTIFY_END != 0 }
    }

    private func tell(_ event: Event) -> Bool {
        if event.isLoss {
            return tellAll()
        }
        if event.isEnd {
            watch.end(event.watch)
            return true
        }
        return watch.folders(of: event.watch).allSatisfy { tell(event, in: $0) }
    }

    private func tell(_ event: Event, in folder: UInt64) -> Bool {
        guard let node = try? fileSystem.nodes.node(folder) else {
            watch.end(folder)
            return true
        }
        if event.changesName {
            return watch.isOwn(folder, event.name) || send(entry: event.name, in: folder)
        }
        guard let id = event.name.isEmpty ? folder : find(event.name, in: node) else { return true }
        return watch.isOwn(id) || send(inode: id, withData: event.changesData)
    }

    /// Watches the folders that the driver knew before this process did.
    private func watchAll() {
        fileSystem.nodes.forEachOpen { id, node, _ in
            guard node.isFolder else { return }
            watch.watch(id, node, isKnown: fileSystem.nodes.isKnown)
        }
    }

    /// Changes were lost: all that the driver knows may be different, and names may stand for
    /// something else. By which name it knows what was moved since nobody can say; it asks again when
    /// the time is over for which it believes that.
    /// - Returns: `false`: the queue stops.
    private func tellAll() -> Bool {
        var names: [(folder: UInt64, name: [UInt8])] = []
        fileSystem.nodes.forEachOpen { _, node, parent in
            if parent != 0 { names += Self.names(of: node).map { (parent, $0) } }
        }
        return fileSystem.nodes.ids.allSatisfy { send(inode: $0, withData: true) }
            && names.allSatisfy { send(entry: $0.name, in: $0.folder) }
    }

    /// What a file is or was called, as the kernel says it of one that may be removed.
    private static func names(of node: Node) -> [[UInt8]] {
        let suffix = Array(" (deleted)".utf8)
        // SAFETY: the kernel writes to the array at most as many bytes as it is told, and a NUL.
        var text = [CChar](repeating: 0, count: FUSELimit.name + suffix.count + 1)
        let length = unsafe clinux_last_name(node.fd, &text, text.count)
        guard length > 0 else { return [] }
        let name = text.prefix(Int(length)).map(UInt8.init(bitPattern:))
        let isMarked = name.count > suffix.count && name.suffix(suffix.count) == suffix[...]
        return [name, isMarked ? Array(name.dropLast(suffix.count)) : []].filter {
            !$0.isEmpty && $0.count <= FUSELimit.name
        }
    }

    /// The number of what a name stands for, if the driver knows it.
    private func find(_ name: [UInt8], in folder: Node) -> UInt64? {
        unsafe (name + [0]).withUnsafeBytes { bytes -> UInt64? in
            guard let start = bytes.baseAddress else { return nil }
            let text = unsafe FUSEText(pointer: start.assumingMemoryBound(to: CChar.self))
            guard let status = try? FileStatus.of(folder.fd, text) else { return nil }
            return fileSystem.nodes.id(of: Node.Key(status))
        }
    }

    // MARK: Messages

    private func send(inode id: UInt64, withData: Bool) -> Bool {
        message.clear()
        message.put(id)
        message.put(withData ? 0 : -1 as Int64)  // from where on data is to be read again
        message.put(0 as Int64)  // to the end
        return send(FUSENotification.inode)
    }

    private func send(entry name: [UInt8], in folder: UInt64) -> Bool {
        message.clear()
        message.put(folder)
        message.put(UInt32(name.count))
        message.put(0 as UInt32)
        for byte in name { message.put(byte) }
        message.put(0 as UInt8)
        return send(FUSENotification.entry)
    }

    /// - Returns: `false`: the queue stops.
    private func send(_ kind: Int32) -> Bool {
        guard takeBuffer() else { return false }
        queue.push(chain, written: message.writeNotification(kind, to: chain))
        if queue.publish() { queue.setup.call?.signal() }
        return true
    }

    /// Waits for a buffer.
    /// - Returns: `false`: the queue stops.
    private func takeBuffer() -> Bool {
        while true {
            do throws(QueueError) {
                if try queue.pop(into: chain) { return true }
            } catch {
                fsLog.guest("queue stopped: \(error)")
            }
            if queue.enableNotifications() { continue }
            guard wait(for: kick.rawValue) else { return false }
            kick.drain()
        }
    }
}
