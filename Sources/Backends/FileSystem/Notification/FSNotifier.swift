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
    private let stop: EventFD
    private let chain = DescriptorChain(capacity: 4)
    private let message: FUSEReply

    init(
        _ queue: Virtqueue, _ fileSystem: FileSystem, _ watch: FolderWatch, kick: EventFD,
        stop: EventFD
    ) {
        self.queue = queue
        self.fileSystem = fileSystem
        self.watch = watch
        message = FUSEReply(users: fileSystem.options.users, groups: fileSystem.options.groups)
        self.kick = kick
        self.stop = stop
    }

    func run() {
        defer { watch.isActive = false }
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
        clinux_poll_two(fd, Int16(POLLIN), stop.rawValue, Int16(POLLIN), -1) & 2 == 0
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
            return fileSystem.nodes.ids.allSatisfy { send(inode: $0, withData: true) }
        }
        guard let folder = watch.folder(of: event.watch) else { return true }
        guard !event.isEnd, let node = try? fileSystem.nodes.node(folder) else {
            watch.end(event.watch)
            return true
        }
        if event.changesName {
            return watch.isOwn(folder, event.name) || send(entry: event.name, in: folder)
        }
        guard let id = event.name.isEmpty ? folder : find(event.name, in: node) else { return true }
        return watch.isOwn(id) || send(inode: id, withData: event.changesData)
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
