package import Accelerator
internal import Core

// Accesses to the configuration space.
extension VirtioPCI {
    package func readConfig(_ offset: Int, size: Int) -> UInt32 {
        if isWindowData(offset, size) { readWindow() }
        return config.read(offset, size: size)
    }

    package func writeConfig(_ offset: Int, size: Int, _ value: UInt32) -> MachineEffect {
        config.write(offset, size: size, value)
        if offset < msixOffset + 4, offset + size > msixOffset + 2 {
            msix.setControl(UInt16(truncatingIfNeeded: config.read(msixOffset + 2, size: 2)))
            vectorsChanged()
        }
        return isWindowData(offset, size) ? writeWindow() : .none
    }

    // The configuration access capability: a window to the BAR for who cannot reach it (section
    // 4.1.4.9).

    private func isWindowData(_ offset: Int, _ size: Int) -> Bool {
        offset < windowOffset + 20 && offset + size > windowOffset + 16
    }

    private var windowTarget: (offset: UInt64, size: Int)? {
        let bar = config.read(windowOffset + 4, size: 1)
        let offset = UInt64(config.read(windowOffset + 8, size: 4))
        let size = config.read(windowOffset + 12, size: 4)
        guard bar == Layout.bar, size == 1 || size == 2 || size == 4, offset % UInt64(size) == 0,
            offset <= Layout.size - UInt64(size)
        else { return nil }
        return (offset, Int(size))
    }

    private func readWindow() {
        guard let target = windowTarget else { return }
        let value = readBAR(Layout.bar, offset: target.offset, size: target.size)
        config.overwrite(windowOffset + 16, size: 4, UInt32(truncatingIfNeeded: value))
    }

    private func writeWindow() -> MachineEffect {
        guard let target = windowTarget else { return .none }
        let value = UInt64(config.read(windowOffset + 16, size: target.size))
        return writeBAR(Layout.bar, offset: target.offset, size: target.size, value)
    }
}
