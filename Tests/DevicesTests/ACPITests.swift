import Core
import Devices
import Glibc
import TestSupport
import Testing

@Suite("ACPI tables")
struct ACPITests {
    /// Names a machine, so that the tests' output does not show all bytes.
    enum Machine: CaseIterable {
        case small
        case large

        var tables: ACPITables { self == .small ? ACPITests.small : ACPITests.large }
    }

    static let small = ACPITables(ACPIConfiguration(cpuCount: 1))

    static let large: ACPITables = {
        var configuration = ACPIConfiguration(cpuCount: 300)
        configuration.hasHotPlug = true
        configuration.lastPCIBus = 0
        configuration.pciWindow64 = PCIWindow(start: 0x10_0000_0000, size: 0x10_0000_0000)
        configuration.serial = nil
        configuration.panicPort = nil
        return ACPITables(configuration, address: 0xF_0000)
    }()

    static func number(_ bytes: some Collection<UInt8>) -> UInt64 {
        bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    @Test("checksums, lengths and pointers are right", arguments: Machine.allCases)
    func pointers(machine: Machine) throws {
        let tables = machine.tables
        let root = tables.bytes[..<36]
        #expect(Array(root[..<8]) == Array("RSD PTR ".utf8))
        #expect(root[..<20].reduce(0, &+) == 0)
        #expect(root.reduce(0, &+) == 0)
        for (table, address) in tables.tables {
            let start = Int(address - tables.address)
            #expect(address % 16 == 0)
            #expect(Array(tables.bytes[start..<start + table.bytes.count]) == table.bytes)
            #expect(table.bytes.reduce(0, &+) == 0)
            #expect(Self.number(table.bytes[4..<8]) == UInt64(table.bytes.count))
        }
        let byName = Dictionary(
            uniqueKeysWithValues: tables.tables.map { ($0.table.signature, $0) })
        let xsdt = try #require(byName["XSDT"])
        #expect(Self.number(root[24..<32]) == xsdt.address)
        let children = stride(from: 36, to: xsdt.table.bytes.count, by: 8).map {
            Self.number(xsdt.table.bytes[$0..<$0 + 8])
        }
        #expect(children == ["FACP", "APIC", "MCFG"].map { byName[$0]?.address ?? 0 })
        let fadt = try #require(byName["FACP"])
        #expect(Self.number(fadt.table.bytes[140..<148]) == byName["DSDT"]?.address)
        #expect(Int(tables.address) + tables.bytes.count <= 0x10_0000)
    }

    @Test("CPUs have entries of the form that their number needs")
    func processors() throws {
        let madt = try #require(Self.large.tables.first { $0.table.signature == "APIC" }).table
        var types: [UInt8: Int] = [:]
        var offset = 44
        while offset < madt.bytes.count {
            types[madt.bytes[offset], default: 0] += 1
            offset += Int(madt.bytes[offset + 1])
        }
        #expect(types == [0: 255, 9: 45, 1: 1])
    }

    /// Runs a command and returns whether it succeeded.
    @discardableResult
    static func run(_ arguments: [String]) throws -> ChildStatus? {
        let child = try ChildProcess(
            path: "/usr/bin/env", arguments: ["env"] + arguments,
            environment: ["PATH=/usr/bin:/bin:/usr/sbin"])
        return child.wait()
    }

    static var hasIASL: Bool {
        (try? run(["sh", "-c", "command -v iasl >/dev/null"])) == .exited(0)
    }

    @Test(
        "iasl disassembles every table and compiles it back without a complaint",
        .enabled(if: ACPITests.hasIASL, "needs acpica-tools"),
        arguments: Machine.allCases)
    func disassembly(machine: Machine) throws {
        let tables = machine.tables
        let folder = try TestFolder()
        for (table, _) in tables.tables where table.signature != "XSDT" {
            try folder.file("\(table.signature).aml", table.bytes)
            let script = """
                cd \(folder.path) &&
                iasl -d \(table.signature).aml >disassembly.log 2>&1 &&
                iasl -p back \(table.signature).dsl >compilation.log 2>&1
                """
            let status = try Self.run(["sh", "-c", script])
            let disassembly = String(
                decoding: try readFile(folder["disassembly.log"]), as: UTF8.self)
            #expect(status == .exited(0), "\(disassembly)")
            #expect(!disassembly.contains("Warning"), "\(disassembly)")
            #expect(!disassembly.contains("rror"), "\(disassembly)")
            let log = String(decoding: try readFile(folder["compilation.log"]), as: UTF8.self)
            #expect(log.contains("Compilation successful. 0 Errors, 0 Warnings"), "\(log)")
        }
    }
}
