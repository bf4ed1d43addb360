// Stand-ins for what the interpreter provides; its author removes this file.

extension CPU {
    func execute() {}
    func invalidateCode(physical: UInt64, count: Int) {}
    func flushCodeLookups() {}
    func invalidateAllCode() {}
}
