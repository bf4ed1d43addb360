extension FSWorker {
    /// Does a request whose header has been read.
    func perform(_ opcode: FUSEOpcode) throws(FUSEError) -> Outcome {
        switch opcode {
        case .start: try start()
        case .end: fileSystem.end()
        case .forget: return try forget()
        case .forgetMany: return try forgetMany()
        case .interrupt: return .nothing
        case .lookup: try lookUp()
        case .getAttributes: try getAttributes()
        case .extendedStatus: try getExtendedStatus()
        case .setAttributes: try setAttributes()
        case .access: try checkAccess()
        case .space: try getSpace()
        case .open: try open()
        case .create: try create()
        case .temporaryFile: try createTemporary()
        case .read: return try read()
        case .write: try write()
        case .release, .releaseFolder: try release()
        case .flush: try flush()
        case .sync: try sync()
        case .allocate: try allocate()
        case .seek: try seek()
        case .copyRange: try copyRange()
        case .syncFileSystem: try syncFileSystem()
        case .openFolder: try openFolder()
        case .readFolder: try readFolder(withEntries: false)
        case .readFolderPlus: try readFolder(withEntries: true)
        case .syncFolder: try syncFolder()
        case .readLink: try readLink()
        case .symlink: try makeSymlink()
        case .makeNode: try makeNode()
        case .makeFolder: try makeFolder()
        case .unlink: try unlink()
        case .removeFolder: try removeFolder()
        case .rename: try rename(hasFlags: false)
        case .rename2: try rename(hasFlags: true)
        case .link: try link()
        case .setExtendedAttribute: try setExtendedAttribute()
        case .getExtendedAttribute: try getExtendedAttribute()
        case .listExtendedAttributes: try listExtendedAttributes()
        case .removeExtendedAttribute: try removeExtendedAttribute()
        }
        return .reply
    }
}
