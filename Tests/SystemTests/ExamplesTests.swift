import Foundation
import Testing

@Suite("Examples", .needs(.guest))
struct ExamplesTests {
    @Test(
        "an example checks its own guest and finds all right", .timeLimit(.minutes(15)),
        arguments: [
            "backends-for-qemu", "console-reattach", "quickstart", "shared-root",
            "switched-machines", "two-machines",
        ])
    func example(name: String) throws { try check(name) }

    @Test(
        "a guest with the host's sockets as its network", .timeLimit(.minutes(15)),
        .needs(.program("passt")))
    func userNetwork() throws { try check("user-network") }

    private func check(_ name: String) throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().path
        let script = """
            cd '\(root)' && APUS='\(Setting.binary ?? "")' APUS_GUEST='\(Setting.guest ?? "")' \
            examples/\(name) --check 2>&1
            """
        let result = try runTool("bash", ["-c", script], seconds: 800)
        #expect(result.code == 0, "\(result.output)")
        #expect(result.output.contains("All checks passed"))
    }
}
