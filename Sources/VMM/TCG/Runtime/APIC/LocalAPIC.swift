/// The interrupt controller of one CPU.
final class LocalAPIC: Sendable {
    let id: UInt32
    let block: VCPUBlock

    init(id: UInt32, block: VCPUBlock) {
        self.id = id
        self.block = block
    }
}

extension CPU {
    func readAPICPage(_ offset: UInt32, size: Int) -> UInt64 { 0 }
    func writeAPICPage(_ offset: UInt32, size: Int, _ value: UInt64) {}
}
