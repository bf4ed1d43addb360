internal import Core

// Memory that the device shares with its driver: it is here, and the back end has pieces of files
// mapped into it (vhost-user specification, "VHOST_USER_BACKEND_SHMEM_MAP").
//
// When a back end is lost, what it had mapped stays: it is a part of the guest's memory, and the
// driver, which is told nothing, goes on with it. What is shown are files, not memory of the dead
// process. The next back end maps what it knows of over it, or takes it away. Only the driver's reset
// empties the window.
//
// Unlike the specification this lets a mapping take the place of others, or parts of them: to have
// it taken away first would leave a moment in which a processor finds zeroes in a file.
extension Frontend {
    /// Learns of the regions that a back end has, and makes them for the first one.
    func makeWindow(_ link: FrontendLink) throws {
        guard link.has(.sharedMemory) else {
            if window != nil { throw FrontendError("the new back end has no shared memory") }
            return
        }
        let reply = try link.query(.getShmemConfig)
        guard case .sharedMemoryConfig(var sizes) = reply.payload else { return }
        while sizes.last == 0 { sizes.removeLast() }
        if isEstablished {
            guard sizes == windowSizes else {
                throw FrontendError("the new back end has other regions of shared memory")
            }
        } else if !sizes.isEmpty {
            guard DeviceWindow.allows(sizes) else {
                throw FrontendError(
                    "the back end wants shared memory that is larger than "
                        + "\(DeviceWindow.maximumSize >> 30) GiB, or no whole pages")
            }
            let new = try DeviceWindow(sizes: sizes)
            window = new
            windowSizes = sizes
            lossWatch = loop.watch(new.memory.lossEvent.rawValue, for: .readable) { _ in
                new.memory.lossEvent.drain()
                Self.log.guest(
                    "the guest has used a part of a mapped file that is not there, or for which its"
                        + " file system has no room; it finds zeroes")
            }
        }
        link.onWindowChange = { [unowned self] request, map, fds in
            changeWindow(request, map, fds)
        }
    }

    /// - Returns: whether that was possible.
    private func changeWindow(
        _ request: BackendRequest, _ map: SharedMemoryMap, _ fds: [SharedFD]
    ) -> Bool {
        guard let window else { return false }
        do {
            guard let offset = window.offset(region: map.regionID, map.offset, map.size) else {
                throw WindowError.range(offset: map.offset, size: map.size)
            }
            if request == .shmemUnmap {
                try window.memory.unmap(at: offset, size: map.size)
            } else {
                guard let fd = fds.first, map.flags & ~SharedMemoryMap.writable == 0 else {
                    throw ProtocolError(request.rule.name, "flags", "they have no meaning")
                }
                try window.memory.map(
                    fd.rawValue, from: map.fdOffset, at: offset, size: map.size,
                    isWritable: map.flags & SharedMemoryMap.writable != 0)
            }
            onWindowChange?()
            return true
        } catch {
            Self.log.guest("\(request.rule.name) for region \(map.regionID): \(error)")
            return false
        }
    }

    /// The driver has gone, and with it what was mapped for it.
    func clearWindow() {
        guard let window else { return }
        do {
            try window.memory.clear()
        } catch {
            Self.log(.error, "the guest's shared memory cannot be emptied: \(error)")
        }
        onWindowChange?()
    }
}
