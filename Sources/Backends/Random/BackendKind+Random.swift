internal import Core
package import VhostUser

extension BackendKind {
    /// The program `apus-rng`: gives a guest random bytes.
    package static let random = BackendKind(
        "rng", .entropy, noun: "random number generator",
        summary: "Gives a virtual machine random bytes over vhost-user.",
        example: "max-bytes=1024,period=1000",
        schema: RandomOptions.schema,
        systemCalls: { .backendControl },
        check: { values throws(OptionError) in _ = try RandomOptions(values) },
        open: { try RandomSource.open(RandomOptions($0)) },
        makeDevice: { surroundings in
            let options = try RandomOptions(surroundings.values)
            return try RandomDevice(
                RandomSource(surroundings.files, options), options, loop: surroundings.loop)
        })
}
