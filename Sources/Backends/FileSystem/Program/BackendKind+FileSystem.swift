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
            OptionAlias("cache", for: "cache"), OptionAlias("cache-size", for: "cache-size"),
            OptionAlias("readonly", for: "readonly", value: "on"),
            OptionAlias("xattr", for: "xattr", value: "on"),
            OptionAlias("posix-acl", for: "posix-acl", value: "on"),
            OptionAlias("security-label", for: "security-label", value: "on"),
            OptionAlias("writeback", for: "writeback", value: "on"),
            OptionAlias("xattrmap", for: "xattrmap"),
            OptionAlias("thread-pool-size", for: "thread-pool-size"),
            OptionAlias("inode-file-handles", for: "inode-file-handles"),
            OptionAlias("migration-mode", for: "migration-mode"),
            OptionAlias("migration-on-error", for: "migration-on-error"),
            OptionAlias("translate-uid", for: "translate-uid"),
            OptionAlias("translate-gid", for: "translate-gid"),
        ],
        capabilities: ["migrate-precopy", "separate-options"],
        servesFolder: true,
        config: FrontendConfig(
            keys: ["tag"],
            check: { values throws(OptionError) in
                try FSOptions.check(tag: values.text(of: "tag"))
            },
            make: { values, queueCount in
                FSDevice.config(tag: values.text(of: "tag"), requestQueues: queueCount - 1).bytes
            }),
        systemCalls: { FSSystemCalls.control },
        optionSystemCalls: { values in
            (try? FSOptions(values)).flatMap(FSSystemCalls.control(for:))
        },
        opensHandles: { values in
            (try? FSOptions(values)).map { $0.fileHandles != .never } ?? false
        },
        check: { values throws(OptionError) in _ = try FSOptions(values) },
        open: { try SharedFolder(FSOptions($0)).all },
        makeDevice: { surroundings in
            let options = try FSOptions(surroundings.values)
            let files = try SharedFolder(adopting: surroundings.files)
            let handles = try FileHandles.make(options.fileHandles, files.folder)
            let filter = try SeccompFilter(
                FSSystemCalls.queue(
                    opensHandles: handles != nil, notifies: options.notifies,
                    sharesFiles: options.cacheSize > 0),
                surroundings.seccomp)
            let keeper =
                surroundings.isReplaceable
                ? try Keeper(files.keeperFiles, on: surroundings.loop) : nil
            return FSDevice(options, isReplaceable: keeper != nil) {
                keeper?.takeOver()
                return try FileSystem(
                    files, options, queueFilter: filter, ledger: keeper?.ledger,
                    fileHandles: handles)
            }
        })
}
