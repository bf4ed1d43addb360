internal import Core
package import VhostUser

extension BackendKind {
    /// The program `apus-net`: connects a network interface.
    package static let network = BackendKind(
        "net", .net, noun: "network interface",
        summary: "Connects a virtual machine to a network over vhost-user.",
        example: "type=stream,path=wire.sock,server=on",
        schema: NetworkOptions.schema,
        systemCalls: { NetworkSystemCalls.control },
        check: { values throws(OptionError) in _ = try NetworkOptions(values) },
        open: { try LinkFiles(NetworkOptions($0)).all + [ControlNote.makeFile()] },
        makeDevice: { surroundings in
            let options = try NetworkOptions(surroundings.values)
            // A process that is not replaced leaves its note to nobody.
            let note = surroundings.isReplaceable ? surroundings.files.last : nil
            return try NetworkDevice(
                options, LinkFiles(adopting: surroundings.files.dropLast(), options),
                on: surroundings.loop,
                pairFilter: try SeccompFilter(NetworkSystemCalls.pair, surroundings.seccomp),
                note: note.map(ControlNote.init),
                configChanged: surroundings.configChanged)
        })
}
