internal import Core
package import VhostUser

extension BackendKind {
    /// The program `apus-fs`: shares a folder.
    package static let fileSystem = BackendKind(
        "fs", .fs, noun: "shared folder",
        summary: "Shares a folder with a virtual machine over vhost-user.",
        example: "path=/srv/share,tag=share",
        schema: FSOptions.schema,
        aliases: [
            OptionAlias("shared-dir", for: "path"), OptionAlias("tag", for: "tag"),
            OptionAlias("cache", for: "cache"),
            OptionAlias("readonly", for: "readonly", value: "on"),
            OptionAlias("xattr", for: "xattr", value: "on"),
        ],
        capabilities: ["separate-options"],
        servesFolder: true,
        configKeys: ["tag"],
        systemCalls: { FSSystemCalls.control },
        check: { values throws(OptionError) in _ = try FSOptions(values) },
        open: { try SharedFolder(FSOptions($0)).all },
        makeDevice: { surroundings in
            let options = try FSOptions(surroundings.values)
            let files = try SharedFolder(adopting: surroundings.files)
            var keeper: Keeper?
            if surroundings.isReplaceable {
                let new = try Keeper(files.keeperFiles)
                new.takeOver()
                keeper = new
            }
            return FSDevice(
                try FileSystem(
                    files, options,
                    queueFilter: try SeccompFilter(FSSystemCalls.queue, surroundings.seccomp),
                    keeper: keeper))
        })
}
