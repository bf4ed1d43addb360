internal import CLinux

/// Memory that only the start of a process needs.
///
/// Starting runs through a good part of the executable: options, sandbox, negotiation. The kernel
/// would keep all of it in the process's page tables, although what goes on running is a fraction.
package enum StartupMemory {
    /// Gives it back: free pages of the heap and the stack, and code and constants, of which what
    /// is still needed comes back from the page cache. Call it on any thread when a stage of the
    /// start is over; it costs some tens of microseconds, and as much again for those who go on.
    package static func release() { clinux_release_startup_memory() }

    /// Gives it back a while after a stage is over, on the loop's thread: not while somebody waits
    /// for the first instructions or requests that follow.
    /// - Returns: what keeps this going.
    package static func release(after milliseconds: UInt32 = 500, on loop: EventLoop)
        -> EventRegistration
    { loop.after(milliseconds: milliseconds, release) }

    /// Gives back only free pages of the heap: before what stays is made, so that it does not come
    /// to lie in large pieces that were used and are free.
    package static func trimHeap() { clinux_trim_heap() }
}
