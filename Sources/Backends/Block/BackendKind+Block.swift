internal import Core
package import VhostUser

extension BackendKind {
    /// The program `apus-block`: serves one disk.
    package static let block = BackendKind(
        "block", .block, noun: "disk",
        summary: "Serves a disk image to a virtual machine over vhost-user.",
        example: "path=disk.img,direct=on",
        schema: BlockOptions.schema,
        aliases: [
            OptionAlias("blk-file", for: "path"),
            OptionAlias("read-only", for: "readonly", value: "on"),
        ],
        capabilities: ["read-only", "blk-file"],
        systemCalls: { BlockSystemCalls.control },
        inOrder: { values in
            let engine = values.text(of: "engine")
            guard engine == nil || engine == "threads" else { return "" }
            let added =
                (engine == nil ? ["engine=threads"] : [])
                + (values.text(of: "threads") == nil ? ["threads=0"] : [])
            return added.joined(separator: ",")
        },
        check: { values throws(OptionError) in _ = try BlockOptions(values) },
        open: { try ImageFiles(BlockOptions($0)).all },
        makeDevice: { surroundings in
            let options = try BlockOptions(surroundings.values)
            let image = try RawImage(options, ImageFiles(adopting: surroundings.files, options))
            return try BlockDevice(
                image, options,
                queueFilter: try SeccompFilter(BlockSystemCalls.queue, surroundings.seccomp))
        })
}
