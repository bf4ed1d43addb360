import Testing

@testable import TCG

/// Address spaces that the guest comes back to, with what is known about their code.
@Suite("Code of address spaces that the guest comes back to")
struct KnownCodeTests {
    /// Physical pages.
    private static let first: UInt64 = 0x60_0000
    private static let second: UInt64 = 0x60_1000
    private static let other: UInt64 = 0x60_2000

    /// Not where the filter of large pages takes them for the caller's.
    private static let here = BareMachine.place(1) + 0x80_0000
    private static let there = BareMachine.place(2) + 0x80_0000

    /// What a call has taken. One look-up is that of the handler that ends it, whose page is not global.
    private struct Work {
        var lookups: UInt64
        var moved: UInt64
        var known: UInt64

        init(_ machine: BareMachine, since old: Work? = nil) {
            let counters = machine.cpu.counters
            lookups = counters.lookups - (old.map { $0.lookups + 1 } ?? 0)
            moved = counters.moved - (old?.moved ?? 0)
            known = counters.known - (old?.known ?? 0)
        }
    }

    /// Calls, and returns what that took.
    private func work(
        _ machine: BareMachine, _ space: UInt64, _ r12: UInt64, _ r13: UInt64, _ r14: UInt64 = 0,
        times: UInt64 = 1
    ) throws -> Work {
        let before = Work(machine)
        #expect(try machine.call(space, r12, r13, r14, times: times))
        return Work(machine, since: before)
    }

    /// At `page`: add rdx, 1; jmp part; part: test rdi, rdi; jnz other; ret; other: lea rax, [rip]; ret.
    private func putTrace(_ machine: BareMachine, _ page: UInt64) {
        machine.put(page, bytes: [0x48, 0x83, 0xC2, 0x01, 0xEB, 0x0A])
        machine.put(page + 0x10, bytes: [0x48, 0x85, 0xFF, 0x75, 0x0B, 0xC3])
        machine.put(page + 0x20, bytes: [0x48, 0x8D, 0x05, 0, 0, 0, 0, 0xC3])
    }

    /// At `page`: test rdi, rdi; jnz to 0 of the next page; ret. There: lea rax, [rip]; ret, and then
    /// something else.
    private func putJump(_ machine: BareMachine) {
        machine.put(
            Self.first, bytes: [0x48, 0x85, 0xFF, 0x0F, 0x85, 0xF7, 0x0F, 0, 0, 0xC3])
        machine.put(Self.second, bytes: [0x48, 0x8D, 0x05, 0, 0, 0, 0, 0xC3])
        machine.put(Self.other, bytes: [0xB8, 0x55, 0, 0, 0, 0xC3])  // mov eax, 55; ret
    }

    @Test("code that may still run there does not move", arguments: MovedCodeTests.tiers)
    func twice(tier: Int32) throws {
        let machine = try BareMachine.caller(tier)
        let (here, there) = (Self.here, Self.there)
        putTrace(machine, Self.first)
        let one = machine.makeSpace(1, [(here, Self.first), (there, Self.first)]) | 1
        let two = machine.makeSpace(2, [(here, Self.first)]) | 2
        #expect(try machine.call(one, here, here, times: 20))
        #expect(try machine.call(two, here + 0x10, here + 0x10))
        #expect(try machine.call(one, there + 0x10, here, 1))
        #expect(machine.cpu[0] == here + 0x27)
        #expect(try machine.call(two, here, here, 1))
        #expect(try machine.call(one, here, there, 1))
        #expect(machine.cpu[0] == there + 0x27)
        #expect(machine.cpu.counters.returns > 0)
    }

    @Test(
        "a block whose second page is where it was runs where it is wanted",
        arguments: MovedCodeTests.tiers)
    func shifted(tier: Int32) throws {
        let machine = try BareMachine.caller(tier)
        machine.put(0x6000, UInt8(0xC3))
        // lea rax, [rip], which is in two pages; ret
        machine.put(Self.first + 0xFFC, bytes: [0x48, 0x8D, 0x05, 0, 0, 0, 0, 0xC3])
        let here = Self.here
        let one = machine.makeSpace(1, [(here, Self.first), (here + 0x1000, Self.second)]) | 1
        let two =
            machine.makeSpace(2, [(here + 0x1000, Self.first), (here + 0x2000, Self.second)]) | 2
        #expect(try machine.call(one, 0x6000, 0x6000))
        #expect(try machine.call(two, here + 0x1FFC, here + 0x1FFC, times: 20))
        #expect(machine.cpu[0] == here + 0x2003)
        #expect(try machine.call(one, here + 0xFFC, here + 0xFFC))
        #expect(machine.cpu[0] == here + 0x1003)
        #expect(machine.cpu.counters.returns == 1)
    }

    @Test(
        "what moves between other address spaces is nothing to one that has other pages",
        arguments: MovedCodeTests.tiers)
    func apart(tier: Int32) throws {
        let machine = try BareMachine.caller(tier)
        let (here, there) = (Self.here, Self.there)
        putTrace(machine, Self.first)
        putTrace(machine, Self.second)
        let kept = machine.makeSpace(1, [(here, Self.first)]) | 1
        #expect(try machine.call(kept, here, here, 1, times: 40))
        for round in UInt64(2)...3 {
            let linear = there + round << 20
            let space = machine.makeSpace(round, [(linear, Self.second)]) | round
            #expect(try machine.call(space, linear, linear, 1, times: 40, isNew: true))
            #expect(machine.cpu[0] == linear + 0x27)
        }
        let work = try work(machine, kept, here, here, 1)
        #expect(machine.cpu[0] == here + 0x27)
        #expect(work.lookups <= 1, "the caller may have been translated again")
        #expect(machine.cpu.counters.moved > 0)
    }

    @Test(
        "programs at one address, and processes of one, need not look each other's code up",
        arguments: MovedCodeTests.tiers)
    func shared(tier: Int32) throws {
        let machine = try BareMachine.caller(tier)
        let here = Self.here
        putTrace(machine, Self.first)
        let spaces = (UInt64(1)...4).map {
            machine.makeSpace($0, [(here, Self.first)]) | $0
        }
        var last = Work(machine)
        for round in 0..<40 {
            last = try work(machine, spaces[round % 4], here, here, 1, times: 20)
            #expect(machine.cpu[0] == here + 0x27)
        }
        #expect(last.lookups == 0)
        #expect(last.known > 0)
        // What is written is everybody's.
        try machine.cpu.store(Self.first + 0x20, UInt8(0x90))
        for space in spaces {
            machine.put(Self.first + 0x21, bytes: [0x48, 0x8D, 0x05, 0, 0, 0, 0, 0xC3])
            #expect(try machine.call(space, here, here, 1, times: 20))
            #expect(machine.cpu[0] == here + 0x28)
        }
    }

    @Test(
        "programs that run in turns have all their code, with the parts of traces, to themselves",
        arguments: MovedCodeTests.tiers)
    func inTurns(tier: Int32) throws {
        let machine = try BareMachine.caller(tier)
        putTrace(machine, Self.first)
        let places = [Self.here, Self.there, BareMachine.place(3)]
        let spaces = (UInt64(0)..<3).map {
            machine.makeSpace($0 + 1, [(places[Int($0)], Self.first)]) | ($0 + 1)
        }
        var works: [Work] = []
        for round in 0..<60 {
            let place = places[round % 3]
            works.append(
                try work(
                    machine, spaces[round % 3], place, place + 0x10, round % 2 == 0 ? 1 : 0,
                    times: 20))
            if round % 2 == 0 { #expect(machine.cpu[0] == place + 0x27) }
        }
        #expect(works[54...].map(\.lookups) == [0, 0, 0, 0, 0, 0])
        #expect(works[54...].map(\.moved) == [0, 0, 0, 0, 0, 0])
    }

    @Test(
        "a trace does not take a part of it from another program", arguments: MovedCodeTests.tiers)
    func parts(tier: Int32) throws {
        let machine = try BareMachine.caller(tier)
        let (here, there) = (Self.here, Self.there)
        putTrace(machine, Self.first)
        let one = machine.makeSpace(1, [(here, Self.first)]) | 1
        let two = machine.makeSpace(2, [(there, Self.first)]) | 2
        #expect(try machine.call(one, here, here, 1, times: 40, isNew: true))
        #expect(
            try machine.call(two, there + 0x10, there + 0x10, 1, times: 40, isNew: true))
        #expect(machine.cpu[0] == there + 0x27)
        #expect(try machine.call(one, here, here, 1))
        #expect(machine.cpu[0] == here + 0x27)
        let work = try work(machine, two, there + 0x10, there + 0x10, 1)
        #expect(machine.cpu[0] == there + 0x27)
        #expect(work.lookups <= 1, "the caller may have been translated again")
        #expect(work.moved == 0)
    }

    @Test(
        "a link that was made in another address space is not followed where it leads away",
        arguments: MovedCodeTests.tiers)
    func elsewhere(tier: Int32) throws {
        let machine = try BareMachine.caller(tier)
        let (here, there) = (Self.here, Self.there)
        putJump(machine)
        let one = machine.makeSpace(1, [(here, Self.first), (here + 0x1000, Self.second)]) | 1
        let two =
            machine.makeSpace(
                2, [(here, Self.first), (here + 0x1000, Self.other), (there, Self.second)]) | 2
        let three = machine.makeSpace(3, [(there + 0x1000, Self.second)]) | 3
        for (mover, linear, isBack) in [
            (three, there + 0x1000, false), (three, there + 0x1000, true), (two, there, false),
            (two, there, true),
        ] {
            #expect(try machine.call(one, here, here, 1, times: 20))
            #expect(machine.cpu[0] == here + 0x1007)
            #expect(try machine.call(two, here, here))
            if isBack { #expect(try machine.call(one, here, here, 1)) }
            #expect(try machine.call(mover, linear, linear))
            #expect(machine.cpu[0] == linear + 7)
            #expect(try machine.call(two, here, here, 1))
            #expect(machine.cpu[0] == 0x55)
        }
    }

    @Test(
        "an entry of the jump cache that was taken back is not followed",
        arguments: MovedCodeTests.tiers)
    func takenBack(tier: Int32) throws {
        let machine = try BareMachine.caller(tier)
        let (cpu, here, there) = (machine.cpu, Self.here, Self.there)
        putTrace(machine, Self.first)
        let one = machine.makeSpace(1, [(here, Self.first)]) | 1
        let two = machine.makeSpace(2, [(there, Self.first)]) | 2
        let three = machine.makeSpace(3, [(here, Self.second)]) | 3
        machine.put(Self.second, bytes: [0xB8, 0x55, 0, 0, 0, 0xC3])  // mov eax, 55; ret
        #expect(try machine.call(one, here, here, 1, isNew: true))
        let entry = unsafe cpu.jumpEntry(here)
        let block = try #require(unsafe Block(address: entry.pointee.block))
        #expect(try machine.call(two, there, there, 1, isNew: true))
        let (taken, linear) = unsafe (entry.pointee, block.header.pointee.linear)
        #expect(taken.block == 0 && taken.key == 0)
        #expect(linear == there)
        // Room that was given away and taken again may hold anything.
        cpu.fields.cpl = 3
        cpu.updateMode()
        try cpu.loadCR3(three, keeps: false)
        unsafe block.header.pointee.linear = here
        unsafe block.header.pointee.otherGenerations.insert(cpu.codeGeneration)
        cpu.rip = here
        let cache = try #require(cpu.codeCache)
        let found = try cpu.findBlock(cache, single: false)
        #expect(found.address != block.address)
        let physical = unsafe found.header.pointee.physical
        #expect(physical == Self.second)
    }

    @Test("no generation is in no set")
    func none() {
        var set = GenerationSet()
        #expect(!set.contains(0))
        set[0] = 5
        #expect(set.contains(5) && !set.contains(0))
    }
}
