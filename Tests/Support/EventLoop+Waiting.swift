package import Core

extension EventLoop {
    /// Waits up to `timeoutMilliseconds` for events and serves those that are there.
    package func runOnce(timeoutMilliseconds: UInt32) {
        let timer = after(milliseconds: timeoutMilliseconds) {}
        enter { iterate() }
        timer.cancel()
    }

    /// Serves events until `condition` holds.
    /// - Returns: false after `timeoutMilliseconds`.
    package func run(
        timeoutMilliseconds: UInt32 = 10_000, until condition: () -> Bool
    ) -> Bool {
        var isOver = false
        let timer = after(milliseconds: timeoutMilliseconds) { isOver = true }
        defer { timer.cancel() }
        return enter {
            while !condition() {
                if isOver { return false }
                iterate()
            }
            return true
        }
    }
}
