/// Why a machine ends or begins again, as QEMU's monitor calls it (ShutdownCause).
enum EndCause: String {
    case guestShutdown = "guest-shutdown"
    case guestReset = "guest-reset"
    case guestPanic = "guest-panic"
    case hostError = "host-error"
    case hostSignal = "host-signal"
    /// The user's keys.
    case hostUI = "host-ui"
    case monitorQuit = "host-qmp-quit"
    case monitorReset = "host-qmp-system-reset"

    var isGuests: Bool {
        switch self {
        case .guestShutdown, .guestReset, .guestPanic: true
        default: false
        }
    }
}
