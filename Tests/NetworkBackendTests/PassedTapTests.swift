import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing
import VhostUser

@testable import NetworkBackend

private let mayMakeTaps =
    unsafe getuid() == 0 && access("/dev/net/tun", R_OK | W_OK) == 0
    && access("/bin/ip", X_OK) == 0

/// Tap interfaces that somebody else has opened, with and without virtio's header before each frame.
@Suite(
    "Tap interfaces that are passed",
    .enabled(if: mayMakeTaps, "tap interfaces take root"))
struct PassedTapTests {
    private static let header: Int16 = 0x4000  // IFF_VNET_HDR

    /// Does something in a network of its own, with a tap interface that is up.
    /// - Parameter flags: besides those that it needs.
    private func withTap(_ flags: Int16, _ body: @escaping @Sendable (Int32) throws -> Void) throws
    {
        let failure = Mutex<String?>(nil)
        let thread = try Thread(name: "apart") {
            do {
                let tap = try Self.open(flags)
                try Self.ip("link", "set", "wire", "up")
                try Self.ip("addr", "add", "10.9.0.1/24", "dev", "wire")
                try body(tap.rawValue)
            } catch {
                failure.withLock { $0 = "\(error)" }
            }
        }
        thread.join()
        #expect(failure.withLock { $0 } == nil)
    }

    private static func open(_ flags: Int16) throws -> SharedFD {
        // Glibc's module does not have it.
        typealias Unshare = @convention(c) (Int32) -> Int32
        // SAFETY: that is the function's type.
        let unshare = unsafe dlsym(nil, "unshare").map {
            unsafe unsafeBitCast($0, to: Unshare.self)
        }
        guard unshare?(0x4000_0000) == 0 else {  // CLONE_NEWNET
            throw SystemError("unshare", errno: errno)
        }
        let tap = try SharedFD(
            owning: checking("open", unsafe Glibc.open("/dev/net/tun", O_RDWR | O_NONBLOCK)))
        // A name, and flags after sixteen bytes: `struct ifreq`.
        var request = [UInt8]("wire".utf8) + [UInt8](repeating: 0, count: 36)
        let all = 0x2 | 0x1000 | flags  // IFF_TAP, IFF_NO_PI
        request[16] = UInt8(truncatingIfNeeded: all)
        request[17] = UInt8(truncatingIfNeeded: all >> 8)
        // SAFETY: the request lives for the call.
        let code = unsafe request.withUnsafeMutableBytes { bytes in
            clinux_ioctl(tap.rawValue, 0x4004_54ca, UInt(bitPattern: bytes.baseAddress))
        }
        _ = try checking("TUNSETIFF", code)
        return tap
    }

    private static func ip(_ arguments: String...) throws {
        let child = try ChildProcess(
            path: "/bin/ip", arguments: ["ip"] + arguments, environment: [])
        while true {
            guard let status = child.wait(milliseconds: 100) else { continue }
            guard status == .exited(0) else { throw SystemError("ip", errno: EINVAL) }
            return
        }
    }

    @Test("frames come and go, with virtio's header and without", arguments: [true, false])
    func frames(_ hasHeader: Bool) throws {
        try withTap(hasHeader ? Self.header : 0) { tap in
            let rig = try NetworkRig("tap,fds=[\(tap)],vnet-header=\(hasHeader ? "on" : "off")")
            // What the driver leaves to it is made by the host, or by the device.
            #expect(rig.device.features & NetworkFeature.hostTSO4 != 0)
            #expect((rig.device.features & NetworkFeature.guestTSO4 != 0) == hasHeader)
            try rig.start()
            for _ in 0..<32 { rig.offer([2048]) }
            // Who has 10.9.0.1?
            let ours: [UInt8] = [2, 0, 0, 0, 0, 7]
            let request =
                [UInt8](repeating: 255, count: 6) + ours + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + ours
                + [10, 9, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1]
            try rig.send(request)
            #expect(try rig.awaitSent() != nil)
            // The host has more to say.
            var answer: [UInt8] = []
            while answer.dropFirst(12).prefix(2) != [8, 6] {
                guard let next = try rig.awaitFrame() else { break }
                answer = next.frame
            }
            #expect(answer.prefix(6) == ours[...])
            #expect(answer.dropFirst(28).prefix(4) == [10, 9, 0, 1])
        }
    }

    @Test("one that is not as it is said to be is refused, and why is said")
    func refused() throws {
        let cases: [(flags: Int16, option: String, word: String)] = [
            (Self.header, "off", "leave vnet-header=off away"), (0, "on", "say vnet-header=off"),
        ]
        for (flags, option, word) in cases {
            try withTap(flags) { tap in
                let text = "tap,fds=[\(tap)],vnet-header=\(option)"
                let options = try NetworkOptions(NetworkOptions.schema.parse(text))
                do {
                    _ = try LinkFiles(options)
                    throw OptionError("\(text) is taken, flags \(flags)")
                } catch let error as BackendError {
                    #expect(error.description.contains(word), "\(error)")
                }
            }
        }
        let options = try NetworkOptions(NetworkOptions.schema.parse("tap,fds=[0]"))
        #expect(throws: BackendError.self) { try LinkFiles(options) }
    }
}
