internal import Core
internal import VhostUser

/// A network device whose up-link is a switch, for a front end that connects to it.
final class SwitchDevice {
    /// What a port's options name.
    struct Place {
        let options: NetworkOptions
        let listener: UnixListener

        init(_ values: OptionValues) throws {
            options = try NetworkOptions(port: values)
            let path = values[NetworkOptions.portPath]
            do throws(SystemError) {
                listener = try UnixListener(path: path)
            } catch {
                throw BackendError(UnixListener.failure(at: path, error))
            }
        }
    }

    private var server: BackendServer?

    init(
        _ place: Place, _ port: MemoryPort, of thread: SwitchThread, on loop: EventLoop
    ) throws {
        port.limits = TrafficLimits(place.options)
        let device = try NetworkDevice(
            place.options, features: SwitchedPair.features, on: loop,
            configChanged: { [weak self] in self?.server?.configurationChanged() },
            makePairs: { [SwitchedPair(port, of: thread, onLinkChange: $0)] })
        device.canSaveState = false
        // Front ends share the process.
        var serving = BackendServer.Options()
        serving.answerTimeoutMilliseconds = 0
        let new = BackendServer(device, on: loop, as: .listen(place.listener), options: serving)
        server = new
        new.start()
    }

    func stop() { server?.stop() }
}
