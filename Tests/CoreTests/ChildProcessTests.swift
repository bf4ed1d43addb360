import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite struct ChildProcessTests {
    @Test("a program that cannot be started is an error and leaves no process behind")
    func failedStart() throws {
        let result = Mutex<(error: SystemError?, children: String?)>((nil, nil))
        // Children belong to the thread that made them, and other tests have some, too.
        let thread = try Thread(name: "test-spawn") {
            do throws(SystemError) {
                _ = try ChildProcess(path: "/nonexistent/program", arguments: [], environment: [])
            } catch {
                result.withLock { $0.error = error }
            }
            let fd = unsafe clinux_open("/proc/thread-self/children", O_RDONLY, 0)
            guard fd >= 0 else { return }
            var bytes = [UInt8](repeating: 0, count: 64)
            let count = unsafe read(fd, &bytes, bytes.count)
            close(fd)
            let text = String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
            result.withLock { $0.children = text }
        }
        thread.join()
        result.withLock {
            #expect($0.error == SystemError("exec", errno: ENOENT))
            #expect($0.children == "")
        }
    }

    private func start(_ script: String) throws -> ChildProcess {
        try ChildProcess(path: "/bin/sh", arguments: ["sh", "-c", script], environment: [])
    }

    @Test("waiting ends with the process, whose status is told once")
    func end() throws {
        let child = try start("exec sleep 60")
        #expect(child.wait(milliseconds: 0) == nil)
        let other = try start("exit 0")
        #expect(other.wait() == .exited(0))
        child.signal(SIGTERM)
        #expect(child.wait(milliseconds: 20_000) == .killed(signal: SIGTERM))
        #expect(child.wait() == nil)
    }

    @Test("waiting ends after the given time, whatever signals come")
    func patience() throws {
        let child = try start("exec sleep 60")
        let waiting = Mutex<pthread_t?>(nil)
        let waited = Mutex<UInt64?>(nil)
        _ = Glibc.signal(SIGUSR2) { _ in }
        let thread = try Thread(name: "test-wait") {
            waiting.withLock { $0 = pthread_self() }
            let start = Clock.monotonic()
            let status = child.wait(milliseconds: 200)
            waited.withLock { $0 = status == nil ? Clock.monotonic() - start : nil }
        }
        for _ in 0..<10 {
            Clock.sleep(milliseconds: 10)
            if let id = waiting.withLock({ $0 }) { pthread_kill(id, SIGUSR2) }
        }
        thread.join()
        let nanoseconds = try #require(waited.withLock { $0 })
        #expect(nanoseconds >= 199_000_000)
        child.kill()
        #expect(child.reap() == nil)
    }
}
