internal import CLinux
internal import Core
internal import VhostUser

/// Lets the next process go on with the files of one that is killed. Descriptors are kept by a
/// small process that shares the table of them (`clinux_keeper_start`), what they stand for by a
/// `Ledger`. Both are reached by files that whoever starts the processes holds for all of them.
///
/// All of it is the control thread's, but for the ledger.
final class Keeper {
    /// How long a keeper may take to answer.
    private static let patienceMilliseconds: Int32 = 1000

    let ledger: Ledger
    /// Keepers take turns in two places. What is asked at one end...
    private let askers: [UnixSocket]
    /// ...is answered at the other.
    private let answerers: [UnixSocket]
    private let loop: EventLoop
    /// Waits for the end of the keeper, which somebody may kill as well.
    private var endWatch: EventRegistration?
    private var pidfd: SharedFD?

    /// What `init` takes.
    static func makeFiles() throws(SystemError) -> [SharedFD] {
        let pairs = [try UnixSocket.pair(), try UnixSocket.pair()]
        return [try Ledger.makeFile()] + pairs.map(\.0.fd) + pairs.map(\.1.fd)
    }

    static let fileCount = 5

    init(_ files: [SharedFD], on loop: EventLoop) throws(SystemError) {
        self.loop = loop
        precondition(files.count == Self.fileCount, "a keeper has a ledger and four sockets")
        ledger = try Ledger(files[0])
        askers = [try UnixSocket(adopting: files[1]), try UnixSocket(adopting: files[2])]
        answerers = [try UnixSocket(adopting: files[3]), try UnixSocket(adopting: files[4])]
    }

    /// Takes over from an earlier process, if there was one: the ledger then says which of this
    /// process's descriptors stand for what. Starts a keeper for this process.
    func takeOver() {
        let old = ledger.column
        if ledger.hasHistory {
            do {
                try fetchAll()
                ledger.settleTasks()
            } catch {
                fsLog(
                    .warning,
                    "what the guest has open is lost, so that the folder must be mounted again: "
                        + "\(error)")
                ledger.forgetAll()
                ledger.forgetTasks()
            }
        } else {
            ledger.begin()
        }
        start(1 - old)
        // The old one ends.
        try? askers[old].send(Self.request([]), timeoutMilliseconds: 0)
    }

    private func start(_ column: Int) {
        // Nobody has taken what was meant for one that was killed.
        for socket in [askers[column], answerers[column]] {
            while let left = try? socket.receive(upTo: 4096), !left.bytes.isEmpty {}
        }
        // SAFETY: the ledger is mapped as long as the keeper's copy of this process's memory is.
        var new: Int32 = -1
        let number = unsafe clinux_keeper_start(
            ledger.header, UInt32(column), answerers[column].fd.rawValue, &new)
        if number >= 0 {
            let pidfd = SharedFD(owning: new)
            endWatch = loop.watch(new, for: .readable) { [unowned self] _ in
                var ending: (code: Int32, signal: Int32) = (0, 0)
                // SAFETY: the results live for the call; nobody asks how it has ended.
                _ = unsafe clinux_reap(new, &ending.code, &ending.signal)
                // It may have been told to end, by a process that has taken over from this one.
                if ledger.column == column { start(column) } else { endWatch = nil }
            }
            self.pidfd = pidfd
        } else {
            endWatch = nil
            let reason = SystemError("", errno: -number).reason
            fsLog(
                .warning,
                "what the guest has open is lost if this process is killed: no other can keep it: "
                    + reason)
        }
        ledger.setKeeper(max(number, 0), in: column)
        ledger.column = column
    }

    private static func request(_ numbers: [Int32]) -> [UInt8] {
        let padding = [Int32](repeating: -1, count: Int(CLINUX_KEEPER_BATCH) - numbers.count)
        return ([Int32(numbers.count)] + numbers + padding).flatMap { value in
            (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
        }
    }

    /// Gets all descriptors that the ledger names.
    private func fetchAll() throws(BackendError) {
        let numbers = ledger.descriptors
        var new: [Int32] = []
        do throws(BackendError) {
            for start in stride(from: 0, to: numbers.count, by: Int(CLINUX_KEEPER_BATCH)) {
                let end = min(start + Int(CLINUX_KEEPER_BATCH), numbers.count)
                new += try fetch(Array(numbers[start..<end]))
            }
        } catch {
            for number in new { _ = OwnedFD(owning: number) }
            throw error
        }
        ledger.renumber(new)
    }

    private func fetch(_ numbers: [Int32]) throws(BackendError) -> [Int32] {
        let socket = askers[ledger.column]
        do throws(SystemError) {
            try socket.send(Self.request(numbers), timeoutMilliseconds: 100)
        } catch {
            throw BackendError("the process that keeps it cannot be asked: \(error)")
        }
        guard socket.waitReadable(timeoutMilliseconds: Self.patienceMilliseconds) else {
            throw BackendError("the process that keeps it does not answer")
        }
        var byte: UInt8 = 0
        var new = [Int32](repeating: -1, count: Int(CLINUX_KEEPER_BATCH))
        var count = new.count
        var truncated: Int32 = 0
        // SAFETY: the results live for the call and are as long as is said.
        _ = unsafe clinux_receive_with_fds(
            socket.fd.rawValue, &byte, 1, &new, &count, &truncated, 0)
        guard count == numbers.count else {
            for number in new.prefix(count) { _ = OwnedFD(owning: number) }
            throw BackendError("the process that keeps it has lost a file")
        }
        return new
    }
}
