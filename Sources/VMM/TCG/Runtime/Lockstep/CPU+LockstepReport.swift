// The text about a difference.

// SAFETY: states and pages are those of Lockstep, code that of the block.
extension CPU {
    /// What the block is, and what differs behind it.
    func report(_ block: Block, _ translator: HostTranslator, _ lockstep: Lockstep) -> String {
        let header = unsafe block.header.pointee
        var text = HexText()
        unsafe lockstep.foldFlags(.before, CPU(lockstep.fields(.before)).arithmeticFlags)
        text.line(
            "the two tiers differ behind the block at ", header.linear, " (physical ",
            header.physical, ")")
        var guest = CodeListing(indent: "  ")
        guest.add([block])
        text.add("\n" + guest.text.text)
        text.add("  register           before       interpreter        translator")
        for range in Lockstep.ranges { registers(range, lockstep, &text) }
        let upper = Lockstep.ranges[0].upperBound
        registers(upper..<upper + 260, lockstep, &text)
        var room = 32
        for index in 0..<lockstep.pageCount { memory(index, lockstep, &text, &room) }
        text.add("\n  its host code; Tools/list-code shows both side by side:\n")
        var host = CodeListing(indent: "  ")
        unsafe host.add(codeOf: block.header, translator.marks(of: block), translator.arena)
        text.add(String(host.text.text.dropLast()))
        return text.text
    }

    private func registers(_ range: Range<Int>, _ lockstep: Lockstep, _ text: inout HexText) {
        let sides: [Lockstep.Side] = [.before, .interpreter, .translator]
        for offset in stride(from: range.lowerBound & ~7, to: range.upperBound, by: 8) {
            let values = sides.map {
                unsafe lockstep.state($0).load(fromByteOffset: offset, as: UInt64.self)
            }
            if values[1] == values[2] { continue }
            text.name(offset)
            for value in values {
                text.add("  ")
                text.digits(value, 16)
            }
        }
    }

    private func memory(
        _ index: Int, _ lockstep: Lockstep, _ text: inout HexText, _ room: inout Int
    ) {
        let (first, second) = unsafe (
            lockstep.copy(index, .interpreter), lockstep.copy(index, .translator)
        )
        for offset in stride(from: 0, to: 4096, by: 8) {
            let a = unsafe first.load(fromByteOffset: offset, as: UInt64.self)
            let b = unsafe second.load(fromByteOffset: offset, as: UInt64.self)
            if a == b { continue }
            room -= 1
            if room < 0 { return text.add(room == -1 ? "\n  ..." : "") }
            text.number(lockstep.address(index) + UInt64(offset))
            let old = unsafe lockstep.copy(index, .before).load(
                fromByteOffset: offset, as: UInt64.self)
            for value in [old, a, b] {
                text.add("  ")
                text.digits(value, 16)
            }
        }
    }
}

extension HexText {
    private static let general = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15", "-", "rip",
    ]

    /// A new line that starts with what lies at an offset in the FXSAVE image and the state.
    mutating func name(_ offset: Int) {
        let place = offset - VCPUState.fxImageSize
        var name =
            place < 0
            ? offset >= FXImage.xmm0 && offset < FXImage.xmm0 + 256
                ? "xmm" + String((offset - FXImage.xmm0) >> 4) : "fxsave+" + String(offset)
            : place >> 3 < Self.general.count ? Self.general[place >> 3] : "state+" + String(place)
        for (first, other) in Self.names where place >= 0 && place == first { name = other }
        add("\n  " + name)
        for _ in name.utf8.count..<max(12, name.utf8.count) { add(" ") }
    }

    private static let names: [(Int, String)] = [
        (MemoryLayout.offset(of: \VCPUState.systemFlags) ?? 0, "rflags"),
        (MemoryLayout.offset(of: \VCPUState.retired) ?? 0, "retired"),
        (MemoryLayout.offset(of: \VCPUState.cr0) ?? 0, "cr0"),
        (MemoryLayout.offset(of: \VCPUState.cr2) ?? 0, "cr2"),
        (MemoryLayout.offset(of: \VCPUState.cr3) ?? 0, "cr3"),
        (MemoryLayout.offset(of: \VCPUState.cr4) ?? 0, "cr4"),
        (MemoryLayout.offset(of: \VCPUState.efer) ?? 0, "efer"),
    ]
}
