public import Core
internal import Glibc
internal import Synchronization

/// A file that is told what Apus's own CPUs translate. It has been opened before the process locks
/// itself in, for appending: several CPUs write to it.
public final class CodeFile: Sendable {
    private static let log = Log("tcg")

    private let fd: SharedFD
    private let path: String
    private let hasFailed = Atomic<Bool>(false)

    /// - Parameter path: for a message.
    public init(_ fd: SharedFD, path: String) {
        self.fd = fd
        self.path = path
    }

    /// Adds whole lines. The guest goes on without them where that fails.
    func append(_ text: String) {
        if hasFailed.load(ordering: .relaxed) { return }
        var text = text
        guard let error = text.withUTF8({ unsafe write($0) }),
            !hasFailed.exchange(true, ordering: .relaxed)
        else { return }
        Self.log(
            .warning, "'\(path)' cannot be written (\(error.reason)); nothing more is added to it")
    }

    private func write(_ bytes: UnsafeBufferPointer<UInt8>) -> SystemError? {
        var start = 0
        do throws(SystemError) {
            while start < bytes.count {
                // SAFETY: what is left of the bytes, which live for the call.
                let rest = unsafe UnsafeRawBufferPointer(
                    rebasing: UnsafeRawBufferPointer(bytes)[start...])
                start += try retrying("write") {
                    unsafe Glibc.write(fd.rawValue, rest.baseAddress, rest.count)
                }
            }
            return nil
        } catch {
            return error
        }
    }
}

/// What is told of translated code. Nothing, unless files are given.
public struct TCGFiles: Sendable {
    /// Names for `perf report`.
    public var perfMap: CodeFile?
    /// The guest's code and the host's (CodeListing.swift).
    public var listing: CodeFile?

    public init(perfMap: CodeFile? = nil, listing: CodeFile? = nil) {
        self.perfMap = perfMap
        self.listing = listing
    }
}
