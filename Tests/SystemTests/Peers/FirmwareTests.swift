import Core
import Glibc
import TestSupport
import Testing

/// Drivers that are not Linux's: those of SeaBIOS and EDK2, under QEMU.
@Suite(
    .needs(.executable, .program("qemu-system-x86_64")),
    .serialized)
struct FirmwareTests {
    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    /// Code for a disk's first sector: reads the second one, and sends its text to the serial port.
    private static let bootSector: [UInt8] = {
        let code: [UInt8] = [
            0x31, 0xc0,  // xor ax, ax
            0x8e, 0xd8, 0x8e, 0xc0,  // mov ds, ax; mov es, ax
            0xb8, 0x01, 0x02,  // mov ax, 0x0201: read one sector
            0xbb, 0x00, 0x7e,  // mov bx, 0x7e00: to there
            0xb9, 0x02, 0x00,  // mov cx, 2: the second one
            0x30, 0xf6,  // xor dh, dh; dl is the disk
            0xcd, 0x13,  // int 0x13
            0x72, 0x0e,  // jc end
            0xbe, 0x00, 0x7e,  // mov si, 0x7e00
            0xba, 0xf8, 0x03,  // mov dx, 0x3f8
            0xac, 0x84, 0xc0,  // next: lodsb; test al, al
            0x74, 0x03,  // jz end
            0xee, 0xeb, 0xf8,  // out dx, al; jmp next
            0xf4, 0xeb, 0xfd,  // end: hlt; jmp end
        ]
        return code + [UInt8](repeating: 0, count: 510 - code.count) + [0x55, 0xaa]
    }()

    /// A disk with a text in its second sector.
    private static func disk(_ first: [UInt8]) -> [UInt8] {
        first + Array("second sector!".utf8)
            + [UInt8](repeating: 0, count: 1 << 20)
            .prefix((1 << 20) - 526)
    }

    @Test("SeaBIOS boots from apus-block", .timeLimit(.minutes(15)), arguments: [1, 4])
    func seaBIOS(queues: Int) throws {
        let image = try folder.file("disk", Self.disk(Self.bootSector))
        let server = try BlockServer(
            socket: folder["disk.sock"], disk: "path=\(image),num-queues=\(queues)")
        let machine = try QEMU(
            "vm", in: folder, guest: nil, devices: QEMU.disk(server.socket, queues: queues))
        try machine.console.wait(for: "second sector!", seconds: 60)
        #expect(server.terminate() == .exited(0))
    }

    /// Debian's package ovmf.
    private static let firmware = "/usr/share/OVMF/OVMF_CODE_4M.fd"
    private static let variables = "/usr/share/OVMF/OVMF_VARS_4M.fd"

    @Test(
        "EDK2 reads from apus-block, and reads and writes files of apus-fs",
        .needs(.file(firmware, of: "ovmf")), .timeLimit(.minutes(15)))
    func edk2() throws {
        // Its shell runs this from any file system that it finds. What it prints has gaps when the
        // serial port is not read fast enough, so it goes to files.
        let share = try TestFolder()
        let script = [
            "fs0:", "type question > said", "dblk blk0 1 1 > dump", "mkdir made",
            "cp question made", "reset -s",
        ]
        try share.file("startup.nsh", script.joined(separator: "\r\n").utf8)
        try share.file("question", "the host asks".utf8)
        let image = try folder.file("disk", Self.disk([UInt8](repeating: 0, count: 512)))
        let disk = try BlockServer(socket: folder["disk.sock"], disk: "path=\(image)")
        let socket = folder["fs.sock"]
        let server = try RunningProgram.apus(
            ["fs", "--socket-path=\(socket)", "--shared-dir=\(share.path)"])
        while !Means.exists(socket), server.isRunning { usleep(5_000) }
        try Command.run("/bin/cp", Self.variables, folder["variables"])
        let machine = try QEMU(
            "vm", in: folder, guest: nil,
            devices: QEMU.disk(disk.socket) + [
                "-drive", "if=pflash,unit=0,format=raw,readonly=on,file=\(Self.firmware)",
                "-drive", "if=pflash,unit=1,format=raw,file=\(folder["variables"])",
                "-chardev", "socket,id=fs,path=\(socket)",
                "-device", "vhost-user-fs-pci,chardev=fs,tag=share",
            ])
        try machine.console.wait(for: "reset -s", seconds: 120)
        #expect(machine.awaitEnd() == .exited(0))
        for (name, text) in [("said", "the host asks"), ("dump", "*second sector!")] {
            // As UTF-16.
            let bytes = try readFile(share[name]).filter { $0 != 0 }
            #expect(bytes.firstRange(of: Array(text.utf8)) != nil, "\(name)")
        }
        #expect(try readFile(share["made/question"]) == Array("the host asks".utf8))
        #expect(disk.terminate() == .exited(0))
        #expect(server.isRunning)
    }
}
