internal import Core
internal import KVM
internal import Monitor

// The machine's monitors: which commands there are, and what they are told. A command is added to a
// list here and nowhere else; an event is `monitor?.emit`.
extension Machine {
    /// Lets clients of the monitors connect.
    func startMonitor() {
        if given.monitors.isEmpty { return }
        let table = MonitorTable(
            MonitorVersion(package: "apus \(Release.version)"),
            queries + runCommands + deviceCommands)
        let server = QMPServer(table, on: control.loop)
        for listener in given.monitors { server.listen(on: listener) }
        monitor = server
        run.onEvent = { [weak server] in server?.emit($0) }
    }

    /// What can be asked.
    private var queries: [MonitorCommand] {
        [
            MonitorCommand("query-name") { [options] _ in
                options.name.map { ["name": .string($0)] } ?? [:]
            },
            MonitorCommand("query-status") { [unowned self] _ in
                [
                    "status": .string(run.status), "singlestep": false,
                    "running": .bool(run.status == RunState.running),
                ]
            },
            MonitorCommand("query-kvm") { [unowned self] _ in
                ["enabled": .bool(virtualMachine is KVMVirtualMachine), "present": true]
            },
            MonitorCommand("query-cpus-fast") { [unowned self] _ in .array(cpus.map(\.json)) },
        ]
    }

    /// What makes the machine run, rest, begin again and end.
    private var runCommands: [MonitorCommand] {
        [
            MonitorCommand("stop") { [run] _, reply in run.pause { reply.succeed() } },
            MonitorCommand("cont") { [run] _ in
                run.resume()
                return [:]
            },
            // The answer comes first: to put the kernel into memory again takes a while.
            MonitorCommand("system_reset") { [control, run] _ in
                control.loop.post { run.reset(.monitorReset) }
                return [:]
            },
            MonitorCommand("quit") { [run] _ in
                run.end(.ended, .monitorQuit)
                return [:]
            },
        ]
    }
}

extension RunState {
    static let running = "running"

    /// As clients are told (QEMU's RunState).
    fileprivate var status: String { isEnding ? "shutdown" : isPaused ? "paused" : Self.running }
}

extension VCPUThread {
    /// As clients are told. There is nothing at the path yet; clients want one.
    fileprivate var json: JSONValue {
        [
            "cpu-index": .integer(Int64(index)),
            "qom-path": .string("/machine/unattached/device[\(index)]"),
            "thread-id": .integer(Int64(threadID)), "target": "x86_64",
        ]
    }
}

extension QMPServer {
    /// Tells clients what has become of the machine, in QEMU's words.
    fileprivate func emit(_ event: RunState.Event) {
        switch event {
        case .paused: emit("STOP")
        case .resumed: emit("RESUME")
        case .reset(let cause): emit("RESET", cause.json)
        case .ending(let cause): emit("SHUTDOWN", cause.json)
        }
    }
}

extension EndCause {
    fileprivate var json: JSONValue {
        ["guest": .bool(isGuests), "reason": .string(rawValue)]
    }
}
