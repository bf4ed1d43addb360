internal import CGLib

/// What an event loop calls, for as long as this object lives and is not cancelled. Cancelling (or
/// dropping) it belongs to the loop's thread; a handler may cancel its own registration.
// SAFETY: the source is valid while this object lives, because it holds a reference to it.
@safe package final class EventRegistration {
    private let source: UnsafeMutablePointer<GSource>
    private let handler: Handler

    /// The closure, as the C side sees it. GLib's source owns one reference (released by the
    /// destroy callback), the registration another.
    private final class Handler {
        let call: (IOEvents) -> Void
        /// Whether the source ends after a call.
        let isOver: () -> Bool
        var isCancelled = false

        init(isOver: @escaping () -> Bool, call: @escaping (IOEvents) -> Void) {
            self.isOver = isOver
            self.call = call
        }

        /// - Returns: whether the source stays.
        func run(_ events: IOEvents) -> Bool {
            if isCancelled { return false }
            call(events)
            return !isCancelled && !isOver()
        }
    }

    init(
        fd: Int32, events: IOEvents, context: OpaquePointer,
        endsWhen isOver: @escaping () -> Bool, _ handler: @escaping (IOEvents) -> Void
    ) {
        self.handler = Handler(isOver: isOver, call: handler)
        let source = unsafe g_unix_fd_source_new(fd, events.condition)
        // SAFETY: sources never are NULL: GLib ends the process when there is no memory. The
        // function has the type that a descriptor source calls; GLib wants it cast.
        unsafe self.source = source.unsafelyUnwrapped
        let function: GUnixFDSourceFunc = { _, condition, data in
            guard let data = unsafe data else { return 0 }
            let handler = unsafe Unmanaged<Handler>.fromOpaque(data).takeUnretainedValue()
            return handler.run(IOEvents(condition)) ? 1 : 0
        }
        unsafe attach(unsafeBitCast(function, to: GSourceFunc.self), context)
    }

    init(
        milliseconds: UInt32, repeats: Bool, context: OpaquePointer,
        _ handler: @escaping () -> Void
    ) {
        self.handler = Handler(isOver: { !repeats }, call: { _ in handler() })
        // SAFETY: as above.
        unsafe self.source = g_timeout_source_new(milliseconds).unsafelyUnwrapped
        let function: GSourceFunc = { data in
            guard let data = unsafe data else { return 0 }
            let handler = unsafe Unmanaged<Handler>.fromOpaque(data).takeUnretainedValue()
            return handler.run([]) ? 1 : 0
        }
        unsafe attach(function, context)
    }

    private func attach(_ function: GSourceFunc, _ context: OpaquePointer) {
        // SAFETY: the reference that is retained here is released by the destroy callback, which
        // GLib calls exactly once, after the last call of the function.
        let data = unsafe Unmanaged.passRetained(handler).toOpaque()
        unsafe g_source_set_callback(source, function, data) { data in
            guard let data = unsafe data else { return }
            unsafe Unmanaged<Handler>.fromOpaque(data).release()
        }
        unsafe g_source_attach(source, context)
    }

    deinit {
        cancel()
        // SAFETY: this is the reference from creation.
        unsafe g_source_unref(source)
    }

    /// Ends the registration; the handler is not called again.
    package func cancel() {
        if handler.isCancelled { return }
        handler.isCancelled = true
        // SAFETY: the source is valid; GLib releases the handler.
        unsafe g_source_destroy(source)
    }
}

extension IOEvents {
    /// What to ask GLib for. Hangups and errors are always reported.
    fileprivate var condition: GIOCondition {
        var raw = G_IO_HUP.rawValue | G_IO_ERR.rawValue
        if contains(.readable) { raw |= G_IO_IN.rawValue }
        if contains(.writable) { raw |= G_IO_OUT.rawValue }
        return GIOCondition(rawValue: raw)
    }

    fileprivate init(_ condition: GIOCondition) {
        var events: IOEvents = []
        if condition.rawValue & G_IO_IN.rawValue != 0 { events.insert(.readable) }
        if condition.rawValue & G_IO_OUT.rawValue != 0 { events.insert(.writable) }
        let gone = G_IO_HUP.rawValue | G_IO_ERR.rawValue | G_IO_NVAL.rawValue
        if condition.rawValue & gone != 0 { events.insert(.hangup) }
        self = events
    }
}
