/// Guests of a few instructions: ELF files with a PVH entry (Xen, public/elfnote.h), which Apus and
/// QEMU start.
package enum TinyKernel {
    /// Writes `!` to the serial port and does nothing more: a machine that stands still.
    package static let printsAndHalts = elf(print("!") + halt)

    /// Writes `!` to the serial port; then its CPU ends with a triple fault.
    package static let printsAndFaults = elf(print("!") + fault)

    /// Has a triple fault at once.
    package static let faults = elf(fault)

    /// Does nothing.
    package static let halts = elf(halt)

    /// Writes "hello" to the serial port and powers off by ACPI.
    package static let printsAndPowersOff = elf(print("hello\r\n") + powerOff)

    /// Counts bits a thousand times, which KVM cannot where it is emulated, and powers off.
    package static let countsBits = elf(
        // mov ecx, 1000; popcnt eax, ecx; loop to the popcnt
        [0xb9] + littleEndian(1000 as UInt32) + [0xf3, 0x0f, 0xb8, 0xc1, 0xe2, 0xfa] + powerOff)

    /// Writes `x` to the serial port again and again.
    package static let printsForEver = elf(print("x") + [0xeb, 0xfd])  // jmp to the out

    /// Where the code is, which starts in 32-bit protected mode without paging.
    private static let address: UInt32 = 0x100_0000

    /// cli; hlt; jmp to the hlt
    private static let halt: [UInt8] = [0xfa, 0xf4, 0xeb, 0xfd]

    /// mov dx, 0x600; mov al, 0x34; out dx, al; hlt
    private static let powerOff: [UInt8] = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4]

    /// lidt from the zeroes at the address + 0x100; ud2
    private static let fault: [UInt8] =
        [0x0f, 0x01, 0x1d] + littleEndian(address + 0x100) + [0x0f, 0x0b]

    /// mov dx, 0x3f8; for each character: mov al, CHARACTER; out dx, al
    private static func print(_ text: String) -> [UInt8] {
        [0x66, 0xba, 0xf8, 0x03] + text.utf8.flatMap { [0xb0, $0, 0xee] }
    }

    private static func elf(_ code: [UInt8]) -> [UInt8] {
        func zeroes(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }
        let (noteOffset, codeOffset, codeSize) = (0x200, 0x1000, 0x1000)
        // The header of a 64-bit, little-endian executable for x86-64 (System V ABI).
        let header =
            [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1] + zeroes(9) + littleEndian(2, 62 as UInt16)
            + littleEndian(1 as UInt32) + littleEndian(UInt64(address), 64, 0)
            + littleEndian(0 as UInt32) + littleEndian(64, 56, 2, 0, 0, 0 as UInt16)
        // PT_LOAD, readable, writable, executable.
        let load =
            littleEndian(1, 7 as UInt32)
            + littleEndian(UInt64(codeOffset), UInt64(address), UInt64(address))
            + littleEndian(UInt64(codeSize), UInt64(codeSize), 0x1000)
        // PT_NOTE, readable.
        let note =
            littleEndian(4, 4 as UInt32) + littleEndian(UInt64(noteOffset), 0, 0, 24, 24, 4)
        // XEN_ELFNOTE_PHYS32_ENTRY.
        let entry =
            littleEndian(4, 8, 18 as UInt32) + Array("Xen\0".utf8) + littleEndian(UInt64(address))
        var file = header + load + note
        file += zeroes(noteOffset - file.count) + entry
        file += zeroes(codeOffset - file.count) + code
        return file + zeroes(codeOffset + codeSize - file.count)
    }
}
