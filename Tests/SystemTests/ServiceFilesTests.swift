import Core
import Foundation
import TestSupport
import Testing

/// The files under `examples` that make other programs start back ends.
@Suite("Service files", .needs(.executable))
struct ServiceFilesTests {
    private static let examples =
        URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().path + "/examples"

    static func names(in folder: String, _ ending: String) -> [String] {
        let all = try? FileManager.default.contentsOfDirectory(atPath: "\(examples)/\(folder)")
        return (all ?? []).filter { $0.hasSuffix(ending) }.sorted()
    }

    /// What QEMU's management programs read (QEMU, docs/interop/vhost-user.json).
    private struct Descriptor: Decodable {
        let description: String
        let type: String
        let binary: String
    }

    private struct Capabilities: Decodable {
        let type: String
    }

    @Test("there is a description of each back end for discovery, and it is right")
    func descriptors() throws {
        let names = Self.names(in: "vhost-user", ".json")
        #expect(names.count == 6)
        for name in names {
            let data = try Data(
                contentsOf: URL(fileURLWithPath: "\(Self.examples)/vhost-user/\(name)"))
            let descriptor = try JSONDecoder().decode(Descriptor.self, from: data)
            #expect(name == "50-apus-\(descriptor.type).json")
            #expect(descriptor.binary.hasSuffix("/apus-\(descriptor.type)"))
            let result = try runTool(
                try #require(Setting.binary), [descriptor.type, "--print-capabilities"])
            #expect(result.code == 0)
            let answer = try JSONDecoder().decode(
                Capabilities.self, from: Data(result.output.utf8))
            #expect(answer.type == descriptor.type)
        }
    }

    static let hasActivation = ["systemd-socket-activate", "systemd-analyze"].allSatisfy {
        FileManager.default.isExecutableFile(atPath: "/usr/bin/\($0)")
    }

    @Test(
        "a unit's back end serves one front end after the other at systemd's socket",
        .enabled(if: hasActivation, "there is no systemd"),
        arguments: ["apus-block@", "apus-fs@"])
    func units(name: String) throws {
        let folder = try TestFolder()
        let program = name.replacingOccurrences(of: "@", with: "")
        let unit = try String(
            contentsOfFile: "\(Self.examples)/systemd/\(name).service", encoding: .utf8)
        let line = try #require(unit.split(separator: "\n").first { $0.hasPrefix("ExecStart=") })
        try FileManager.default.createDirectory(
            atPath: folder["share"], withIntermediateDirectories: false)
        _ = try folder.sparse("disk.img", size: 1 << 20)
        let command = line.dropFirst("ExecStart=".count)
            .replacingOccurrences(of: "/var/lib/apus/%i.img", with: folder["disk.img"])
            .replacingOccurrences(of: "/srv/%i", with: folder["share"])
            .replacingOccurrences(of: "%i", with: "name")
            .split(separator: " ").map(String.init)
        #expect(command[0] == "/usr/bin/\(program)")
        try FileManager.default.createSymbolicLink(
            atPath: folder[program], withDestinationPath: try #require(Setting.binary))
        let socket = folder["socket"]
        let activation = try RunningProgram(
            "/usr/bin/systemd-socket-activate",
            ["-l", socket, folder[program]] + command.dropFirst())
        defer { activation.kill(SIGKILL) }
        for _ in 0..<2 {
            let client = try VhostUserClient(path: socket)
            try client.negotiate(VirtioFeature.version1)
            #expect(client.features & VirtioFeature.version1 != 0)
            #expect(try client.queueCount() >= 1)
        }
    }

    @Test(
        "systemd finds nothing wrong with the units",
        .enabled(if: hasActivation, "there is no systemd"),
        arguments: names(in: "systemd", "@.service"))
    func verified(name: String) throws {
        let folder = try TestFolder()
        let base = name.replacingOccurrences(of: "@.service", with: "")
        for ending in ["service", "socket"] {
            let text = try String(
                contentsOfFile: "\(Self.examples)/systemd/\(base)@.\(ending)", encoding: .utf8)
            let own = text.replacingOccurrences(of: "/usr/bin/\(base)", with: "/bin/true")
            try folder.file("\(base)@x.\(ending)", Data(own.utf8))
        }
        let result = try runTool(
            "bash",
            ["-c", "systemd-analyze verify --man=no '\(folder.path)/\(base)@x.service' 2>&1"])
        #expect(!result.output.contains("\(base)@x"), "\(result.output)")
    }
}
