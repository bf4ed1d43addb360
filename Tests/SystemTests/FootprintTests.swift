import Core
import Foundation
import TestSupport
import Testing

/// The budgets of memory, of processes that have started and been used, of time and of size.
@Suite("Footprint", .serialized, .needs(.guest))
struct FootprintTests {
    /// The budget is 512 KiB; what a copy of the launcher has of its own is far less.
    private static let backendPrivate = 400 << 10
    private static let startNanoseconds: UInt64 = 5_000_000
    /// How many starts of a program that does nothing a start may cost where that is more: on a slow
    /// machine, or a virtual one whose host has taken back its memory.
    private static let startReferences: UInt64 = 10

    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    @Test("a machine with two disks that were used, and its backends, stay within their memory")
    func memory() throws {
        let second = try folder.sparse("second", size: 64 << 20)
        let binary = folder["apus"]
        try copyProgramByPages(try #require(Setting.binary), to: binary)
        let guest = try Guest(["--disk", "path=\(second)"], in: folder, copy: binary)
        try guest.awaitShell()
        let copied = try guest.run(
            "mount -o remount,ro /; dd if=/dev/vda of=/dev/vdb bs=64k count=256 2>/dev/null; sync; "
                + "echo 3 >/proc/sys/vm/drop_caches; ls -lR /bin >/dev/null; "
                + "for d in vda vdb; do head -c 16777216 /dev/$d | md5sum; done | uniq | wc -l")
        #expect(copied == "1")
        // Idle again: nothing is left to be written.
        sleep(1)
        let own = try ProcessMemory(of: guest.apus.id).total(but: [.guest, .codeCaches])
        #expect(own.resident <= 4 << 20, "apus: \(own)")
        #expect(own.privateDirty <= 5 << 19, "apus: \(own)")
        let backends = guest.apus.children.filter { $0.arguments.first == "apus-block" }
        #expect(backends.count == 2)
        for backend in backends {
            let memory = try ProcessMemory(of: backend.id).total(but: [.guest])
            #expect(memory.resident <= 4 << 20, "apus-block: \(memory)")
            #expect(memory.privateDirty <= Self.backendPrivate, "apus-block: \(memory)")
        }
        try expectSleep(guest.apus.descendants.map(\.id))
        #expect(try guest.powerOff() == 0)
    }

    /// Only the guest's own timer may wake threads: those of its CPUs, and the timer's. io_uring's
    /// workers are the kernel's; they wake once, to end.
    private func expectSleep(_ processes: [Int32]) throws {
        let before = try processes.map(Self.switches)
        sleep(3)
        for (process, counts) in zip(processes, before) {
            let now = try Self.switches(process)
            // At least the main thread; others come and go only among those that may wake.
            #expect(!now.isEmpty)
            for thread in Set(counts.keys).union(now.keys)
            where !["vcpu", "tcg-timer", "iou-wrk"].contains(where: thread.name.hasPrefix) {
                // One that has started or ended meanwhile has no count there.
                #expect(now[thread] == counts[thread], "\(thread.name) of process \(process)")
            }
        }
    }

    private struct ThreadName: Hashable {
        let id: String
        let name: String
    }

    /// How often each thread of a process went to sleep.
    private static func switches(_ process: Int32) throws -> [ThreadName: Int] {
        var all: [ThreadName: Int] = [:]
        for id in try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process)/task") {
            let path = "/proc/\(process)/task/\(id)/status"
            let text = try String(contentsOfFile: path, encoding: .utf8)
            let fields = text.split(separator: "\n").map { $0.split(separator: "\t") }
            let name = try #require(fields.first { $0.first == "Name:" }?.last)
            let count = fields.first { $0.first == "voluntary_ctxt_switches:" }?.last
            let number: Int = try #require(count.flatMap { Int($0) })
            all[ThreadName(id: id, name: String(name))] = number
        }
        return all
    }

    @Test(
        "the first instruction of a kernel that is not packed comes within the budget of CPU time")
    func start() throws {
        let kernel = try folder.file("kernel", TinyKernel.printsAndHalts)
        let disks = try (0..<2).map { try folder.sparse("disk-\($0)", size: 64 << 20) }
        // Other programs empty the processor's caches, so the best of some counts.
        let reference = try (0..<60).map { _ in try Self.referenceTime() }.min() ?? 0
        let limit = max(Self.startNanoseconds, Self.startReferences * reference)
        var times: [UInt64] = []
        while times.count < 60, times.min().map({ $0 > limit }) ?? true {
            times.append(try startTime(kernel, disks, run: times.count))
        }
        #expect(
            try #require(times.min()) <= limit,
            "nanoseconds: \(times); a program that does nothing: \(reference)")
    }

    /// CPU time of a program that does nothing, in nanoseconds, from before exec until it has ended.
    private static func referenceTime() throws -> UInt64 {
        let before = try timeOfChildren()
        let program = Process()
        program.executableURL = URL(fileURLWithPath: "/bin/true")
        program.environment = ["PATH": "/bin"]
        try program.run()
        program.waitUntilExit()
        return try timeOfChildren() - before
    }

    /// CPU time of this process's children that have ended, in nanoseconds.
    private static func timeOfChildren() throws -> UInt64 {
        var usage = rusage()
        // SAFETY: `usage` lives for the call.
        guard unsafe getrusage(__rusage_who_t(RUSAGE_CHILDREN.rawValue), &usage) == 0 else {
            throw SystemError("getrusage", errno: errno)
        }
        return [usage.ru_utime, usage.ru_stime].reduce(0) { sum, time in
            sum + UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_usec) * 1000
        }
    }

    /// CPU time of the VMM's process, in nanoseconds, from before exec until after the kernel,
    /// which is not packed and needs no memory, has written a character. It has the usual
    /// accelerator, two disks with a backend each, and the whole sandbox.
    ///
    /// Counted is what all threads have used, in user space and in the kernel: exec, the C
    /// library's and Swift's start, the sandbox, the disks' negotiation, the guest's first
    /// instructions, and what happens until this test looks, up to 2 ms later. Not counted are the
    /// processes of the launcher, which makes the namespaces that the VMM enters, and the backends.
    private func startTime(_ kernel: String, _ disks: [String], run: Int) throws -> UInt64 {
        let output = try folder.file("serial-\(run)")
        let binary = try #require(Setting.binary)
        // By posix_spawn: a copy of this process has many pages, which would count as well.
        let apus = Process()
        apus.executableURL = URL(fileURLWithPath: binary)
        apus.arguments =
            ["--kernel", kernel, "--serial", "file=\(output)"]
            + disks.flatMap { ["--disk", "path=\($0)"] }
        apus.environment = ["PATH": "/bin"]
        try apus.run()
        defer {
            kill(apus.processIdentifier, SIGKILL)
            apus.waitUntilExit()
        }
        let deadline = Date() + 20
        while try Data(contentsOf: URL(fileURLWithPath: output)).isEmpty {
            guard Date() < deadline else { throw TestFailure("the kernel does not run") }
            usleep(2000)
        }
        let tasks = "/proc/\(apus.processIdentifier)/task"
        return try FileManager.default.contentsOfDirectory(atPath: tasks).reduce(0) { sum, task in
            let text = try String(contentsOfFile: "\(tasks)/\(task)/schedstat", encoding: .utf8)
            return sum + (text.split(separator: " ").first.flatMap { UInt64($0) } ?? 0)
        }
    }

    @Test("the executable has at most 10.5 MiB")
    func size() throws {
        let binary = try #require(Setting.binary)
        let attributes = try FileManager.default.attributesOfItem(
            atPath: URL(fileURLWithPath: binary).resolvingSymlinksInPath().path)
        #expect(try #require(attributes[.size] as? Int) <= 21 << 19)
    }
}
