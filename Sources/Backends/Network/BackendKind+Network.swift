internal import Core
package import VhostUser

extension BackendKind {
    /// The program `apus-net`: connects a network interface.
    package static let network = BackendKind(
        "net", .net, noun: "network interface",
        summary: "Connects a virtual machine to a network over vhost-user.",
        example: "type=stream,path=net.sock,server=on",
        schema: NetworkOptions.schema,
        systemCalls: { NetworkSystemCalls.control },
        check: { values throws(OptionError) in _ = try NetworkOptions(values) },
        open: { try LinkFiles(NetworkOptions($0)).all },
        makeDevice: { surroundings in
            let options = try NetworkOptions(surroundings.values)
            return try NetworkDevice(
                options, LinkFiles(adopting: surroundings.files, options), on: surroundings.loop,
                pairFilter: try SeccompFilter(NetworkSystemCalls.pair, surroundings.seccomp),
                configChanged: surroundings.configChanged)
        })
}
