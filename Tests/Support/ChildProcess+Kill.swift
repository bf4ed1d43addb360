package import Core
import Glibc

extension ChildProcess {
    /// Ends the process with no chance to clean up, and takes its status: a zombie would keep Swift
    /// Testing's exit tests waiting.
    package func kill() {
        signal(SIGKILL)
        _ = wait()
    }
}
