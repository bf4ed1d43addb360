import CLinux
import Core
import Glibc
import Synchronization
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
}
