import Accelerator
import Core
import Synchronization
import Testing

@testable import TCG

/// Repeated string instructions: page-sized runs with the semantics of single elements. (The
/// elements themselves are compared with the host CPU elsewhere.)
@Suite("Repeated string instructions")
struct StringTests {
    private final class Flag: Sendable {
        let isSet = Atomic<Bool>(false)
    }

    private func machine(_ bytes: [UInt8]) throws -> BareMachine {
        let machine = try BareMachine.running(bytes + [0xF4])
        for offset in UInt64(0)..<0x3000 {
            machine.put(0x20_0000 + offset, UInt8(truncatingIfNeeded: offset &* 7))
        }
        return machine
    }

    @Test("a copy that overlaps forward repeats the pattern", arguments: [1, 3, 4, 8, 100, 5000])
    func overlap(distance: UInt64) throws {
        let machine = try machine([0xF3, 0xA4])
        machine.cpu[1] = 7000
        machine.cpu[6] = 0x20_0000
        machine.cpu[7] = 0x20_0000 + distance
        machine.runUntilHalt()
        for offset in stride(from: UInt64(0), to: 7000, by: 13) {
            let expected = UInt8(truncatingIfNeeded: (offset % distance) &* 7)
            #expect(machine.get(0x20_0000 + distance + offset, as: UInt8.self) == expected)
        }
        #expect(machine.cpu[1] == 0 && machine.cpu[6] == 0x20_0000 + 7000)
        #expect(machine.cpu[7] == 0x20_0000 + distance + 7000)
    }

    @Test("a qword copy that begins inside its source element goes by elements")
    func overlapInsideElement() throws {
        let machine = try machine([0xF3, 0x48, 0xA5])
        machine.cpu[1] = 40
        machine.cpu[6] = 0x20_0000
        machine.cpu[7] = 0x20_0003
        var bytes = (0..<400).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        for element in 0..<40 {
            let source = Array(bytes[element * 8..<element * 8 + 8])
            bytes.replaceSubrange(element * 8 + 3..<element * 8 + 11, with: source)
        }
        machine.runUntilHalt()
        for offset in 0..<400 {
            #expect(machine.get(0x20_0000 + UInt64(offset), as: UInt8.self) == bytes[offset])
        }
    }

    @Test("a breakpoint on a repeated instruction hits once")
    func breakpoint() throws {
        let machine = try machine([0xF3, 0xAA])
        machine.put(
            BareMachine.handler + 1,
            bytes: [
                0xFF, 0xC3,  // inc ebx
                0x81, 0x4C, 0x24, 0x10, 0x00, 0x00, 0x01, 0x00,  // or dword [rsp + 16], RF
                0x48, 0xCF,  // iretq
            ])
        let cpu = machine.cpu
        cpu.fields.debugRegisters[0] = BareMachine.code
        cpu.fields.debugRegisters[7] = 1 | 1 << 10
        cpu.updateMode()
        (cpu[1], cpu[3], cpu[7]) = (5, 0, 0x20_0000)
        machine.runUntilHalt()
        #expect(cpu[3] == 1)
        #expect(cpu[1] == 0 && cpu[7] == 0x20_0005)
    }

    @Test("a fault in the middle leaves the registers at the element that faulted")
    func faultInTheMiddle() throws {
        let machine = try machine([0xF3, 0x48, 0xAB])
        // Memory ends at 8 MiB.
        machine.cpu[0] = 0x1122_3344_5566_7788
        machine.cpu[1] = 1000
        machine.cpu[7] = 0x80_0000 - 24
        machine.runUntilHalt()
        let exception = try #require(machine.exception)
        #expect(exception == (14, BareMachine.code))
        #expect(machine.cpu[7] == 0x80_0000 && machine.cpu[1] == 997)
        #expect(machine.cpu.fields.cr2 == 0x80_0000)
        #expect(machine.get(0x80_0000 - 8, as: UInt64.self) == 0x1122_3344_5566_7788)
    }

    @Test("kicks stop between runs, and the instruction goes on")
    func interrupted() throws {
        let machine = try machine([0xF3, 0xAA, 0xE6, 0xF4])  // rep stosb; out F4, al
        let vcpu = machine.vcpu
        machine.cpu[0] = 0x5A
        machine.cpu[1] = 0x50_0000
        machine.cpu[7] = 0x30_0000
        let isDone = Flag()
        defer { withExtendedLifetime(machine) {} }
        let thread = try Thread(name: "kicks") {
            while !isDone.isSet.load(ordering: .relaxed) { vcpu.kick() }
        }
        var isPoweredOff = false
        while !isPoweredOff {
            if case .effect(.powerOff) = vcpu.run() { isPoweredOff = true }
            let isInside = machine.cpu.rip == BareMachine.code
            if isInside { #expect(machine.cpu[7] + machine.cpu[1] == 0x80_0000) }
        }
        isDone.isSet.store(true, ordering: .relaxed)
        thread.join()
        #expect(machine.get(0x7F_FFFF, as: UInt8.self) == 0x5A)
        #expect(machine.cpu.fields.retired == 2)
    }

    @Test("backwards, and across a page border inside an element")
    func backwards() throws {
        let machine = try machine([0xFD, 0xF3, 0xA5])
        machine.cpu[1] = 4
        machine.cpu[6] = 0x20_1006
        machine.cpu[7] = 0x30_0FFE
        machine.runUntilHalt()
        for offset in UInt64(0)..<16 {
            let own = machine.get(0x30_0FFE + 3 - offset, as: UInt8.self)
            #expect(own == machine.get(0x20_1006 + 3 - offset, as: UInt8.self))
        }
        #expect(machine.cpu[7] == 0x30_0FFE - 16)
    }

    @Test("SCAS and CMPS stop at the element that decides")
    func searches() throws {
        let scan = try machine([0xF2, 0xAE])
        scan.cpu[0] = 0x07 * 5
        scan.cpu[1] = 100
        scan.cpu[7] = 0x20_0000
        scan.runUntilHalt()
        #expect(scan.cpu[7] == 0x20_0006 && scan.cpu[1] == 94 && scan.cpu.zeroFlag)

        let compare = try machine([0xF3, 0xA6])
        compare.cpu[1] = 0x1800
        compare.cpu[6] = 0x20_0000
        compare.cpu[7] = 0x20_0100  // the pattern has a period of 256
        compare.put(0x20_1234, UInt8(0xEE))
        compare.runUntilHalt()
        #expect(compare.cpu[6] == 0x20_1135 && !compare.cpu.zeroFlag)
    }

    @Test("STOS and MOVS without REP in translated code", arguments: [1, 2, 4, 8])
    func elements(size: UInt64) throws {
        let width: [UInt8] = size == 2 ? [0x66] : size == 8 ? [0x48] : []
        let wide: UInt8 = size == 1 ? 0 : 1
        // One behind the other, inside a page and into the next one; both ways.
        for (offset, isBackwards) in [(0x10, false), (0x1000 - size - 1, false), (0x20, true)] {
            let code = width + [0xA4 | wide] + width + [0xAA | wide] + width + [0xA4 | wide]
            let machine = try machine([isBackwards ? 0xFD : 0xFC] + code + [0xFC])
            let cpu = machine.cpu
            let value: UInt64 = 0x8877_6655_4433_2211
            (cpu[0], cpu[6], cpu[7]) = (value, 0x20_0003 + offset, 0x30_0000 + offset)
            machine.runUntilHalt()
            let step = isBackwards ? 0 &- size : size
            #expect(cpu[6] == 0x20_0003 + offset &+ 2 &* step)
            #expect(cpu[7] == 0x30_0000 + offset &+ 3 &* step)
            for byte in 0..<size {
                func copied(_ number: UInt64) -> UInt8 {
                    machine.get(0x30_0000 + offset &+ number &* step + byte, as: UInt8.self)
                }
                let source = offset + 3 + byte
                #expect(copied(0) == UInt8(truncatingIfNeeded: source &* 7))
                #expect(copied(1) == UInt8(truncatingIfNeeded: value >> (8 * byte)))
                #expect(copied(2) == UInt8(truncatingIfNeeded: (source &+ step) &* 7))
            }
        }
    }

    @Test(
        "REP STOS and MOVS in translated code, at and around the end of a page",
        arguments: [1, 2, 4, 8])
    func pageEnds(size: Int) throws {
        let width: [UInt8] = size == 2 ? [0x66] : size == 8 ? [0x48] : []
        let wide: UInt8 = size == 1 ? 0 : 1
        for (offset, count, isBackwards) in [
            (0, 0, false), (0, 4096 / size, false), (4096 - 8 * size, 8, false),
            (4096 - 8 * size, 9, false), (1, 4096 / size, false), (64, 5, true),
        ] {
            for isCopy in [false, true] {
                let machine = try BareMachine.running(
                    [isBackwards ? 0xFD : 0xFC, 0xF3] + width + [(isCopy ? 0xA4 : 0xAA) | wide]
                        + [0xFC, 0xF4])  // std or cld; rep stos or movs; cld; hlt
                var wanted = [UInt8](repeating: 0, count: 0x4000)
                for index in 0..<0x2000 {
                    machine.put(0x30_0000 + UInt64(index), UInt8(index & 0xFF))
                }
                let value: UInt64 = 0x8877_6655_4433_2211
                for index in 0..<count {
                    let place = isBackwards ? offset - index * size : offset + index * size
                    for byte in 0..<size {
                        wanted[place + byte] =
                            isCopy
                            ? UInt8((place + byte + 3) & 0xFF)
                            : UInt8(truncatingIfNeeded: value >> UInt64(8 * byte))
                    }
                }
                let cpu = machine.cpu
                (cpu[0], cpu[1]) = (value, UInt64(count))
                (cpu[6], cpu[7]) = (UInt64(0x30_0003 + offset), UInt64(0x20_0000 + offset))
                machine.runUntilHalt()
                let moved = UInt64(bitPattern: Int64(count * size * (isBackwards ? -1 : 1)))
                #expect(cpu[1] == 0)
                #expect(cpu[7] == 0x20_0000 + UInt64(offset) &+ moved)
                #expect(cpu[6] == 0x30_0003 + UInt64(offset) &+ (isCopy ? moved : 0))
                let found = try machine.memory.readBytes(
                    GuestAddress(0x20_0000), count: wanted.count)
                #expect(found == wanted, "\(size) bytes, \(offset), \(count), \(isCopy)")
            }
        }
    }
}
