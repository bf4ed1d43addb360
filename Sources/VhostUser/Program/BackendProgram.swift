internal import CLinux
internal import Core
internal import Glibc

/// A back-end program, `apus-block` for example: serves one device over vhost-user.
package struct BackendProgram {
    private let kind: BackendKind
    private let log: Log

    package init(_ kind: BackendKind) {
        self.kind = kind
        log = Log(kind.program)
    }

    /// Runs the program until it is told to end.
    /// - Parameter arguments: what follows the program's name.
    /// - Returns: the exit status: 0, or, after one sentence on standard error, 2 if the command
    ///   line is wrong and 1 if something else is.
    package func run(arguments: [String]) -> Int32 {
        Log.configure(program: kind.program, level: .warning)
        do {
            let command = try BackendCommand(kind, arguments)
            switch command.action {
            case .show(let text): print(text, terminator: "")
            case .serve(let endpoint, let values, let opened, let postcopy):
                Log.configure(program: kind.program, level: command.logLevel)
                try serve(endpoint, values, opened, command.sandbox, postcopy: postcopy)
            }
            return 0
        } catch {
            log(.error, "\(error)")
            return error is OptionError ? 2 : 1
        }
    }

    private func serve(
        _ endpoint: BackendCommand.Endpoint, _ values: OptionValues, _ opened: [Int32]?,
        _ sandboxOptions: SandboxOptions, postcopy: Bool
    ) throws {
        SignalFD.ignoreBrokenPipes()
        // Before this process opens anything, so that a number stands for what the parent has
        // opened or for nothing.
        let adopted = try opened?.map(Self.adopt)
        // The signals are blocked first, so that the queues' threads do not get them either.
        let loop = try EventLoop()
        let signals = try loop.watchSignals([SIGTERM, SIGINT, SIGHUP]) { _ in loop.quit() }
        defer { signals.cancel() }
        // The files come first: who can connect finds a device that works.
        let files = try adopted ?? kind.open(values)
        let role = try role(endpoint)
        var options = BackendServer.Options()
        if postcopy { options.faultDevice = try Self.openFaultDevice() }
        // Some QEMU versions crash where a file system has a configuration space, and need none.
        if kind.missingConfigKey(values) != nil { options.hidden.insert(.config) }
        try enterSandbox(sandboxOptions, values, files, postcopy: postcopy)
        var server: BackendServer?
        let device = try kind.makeDevice(
            BackendSurroundings(
                values: values, files: files, seccomp: sandboxOptions.seccomp,
                isReplaceable: adopted != nil, loop: loop,
                configChanged: { server?.configurationChanged() }))
        // Filters have been made.
        StartupMemory.trimHeap()
        let new = BackendServer(device, on: loop, as: role, options: options)
        server = new
        serve(new, on: loop)
        server = nil
    }

    /// Runs until the loop is told to end, or the server has done its work.
    private func serve(_ server: BackendServer, on loop: EventLoop) {
        server.onFinished = { loop.quit() }
        var release: EventRegistration?
        server.onFirstStart = { release = StartupMemory.release(on: loop) }
        server.start()
        loop.run()
        release?.cancel()
        server.stop()
    }

    private func enterSandbox(
        _ options: SandboxOptions, _ values: OptionValues, _ files: [SharedFD], postcopy: Bool
    ) throws {
        var rules = kind.systemCalls()
        if postcopy { rules.allow("ioctl", argument: 1, oneOf: RemoteFaults.requests) }
        if let more = kind.optionSystemCalls(values) { rules.add(more) }
        let sandbox = Sandbox(
            options, program: kind.program, descriptorLimit: kind.descriptorLimit)
        try sandbox.enter(
            rules, folders: kind.servesFolder ? Array(files.prefix(1)) : [],
            opensHandles: kind.opensHandles(values))
    }

    private static func openFaultDevice() throws(BackendError) -> SharedFD {
        do {
            return try RemoteFaults.openDevice()
        } catch {
            throw BackendError(
                "--postcopy needs /dev/userfaultfd (Linux 6.1) and the right to use it: "
                    + error.reason)
        }
    }

    /// Takes what the parent process has opened; it stays with this process.
    private static func adopt(_ number: Int32) throws(BackendError) -> SharedFD {
        let code = clinux_fcntl(number, F_SETFD, Int(FD_CLOEXEC))
        guard code == 0 else {
            let reason = SystemError("fcntl", errno: -code).reason
            throw BackendError("descriptor \(number) of --open-fds cannot be used: \(reason)")
        }
        return SharedFD(owning: number)
    }

    private func role(
        _ endpoint: BackendCommand.Endpoint
    ) throws(BackendError) -> BackendServer.Role {
        do throws(SystemError) {
            switch endpoint {
            case .path(let path): return .listen(try UnixListener(path: path))
            case .inherited(let number):
                return BackendServer.Role(try InheritedSocket(SharedFD(owning: number)))
            }
        } catch {
            switch endpoint {
            case .path(let path): throw BackendError(UnixListener.failure(at: path, error))
            case .inherited(let number):
                throw BackendError(
                    "descriptor \(number) is no Unix socket to serve on: \(error.reason)")
            }
        }
    }
}
