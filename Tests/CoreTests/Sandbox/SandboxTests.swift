import Testing

@testable import Core

@Suite struct SandboxTests {
    static let folders: [([String], [String])] = [
        ([], []),
        (["/run", "/tmp"], ["/run", "/tmp"]),
        (["/run/a", "/run", "/run/a/b"], ["/run"]),
        (["/run", "/runner", "/run"], ["/run", "/runner"]),
    ]

    @Test("folders inside others need no mount of their own", arguments: folders)
    func outermost(given: [String], expected: [String]) {
        #expect(Sandbox.outermost(given) == expected)
    }

    @Test("children are told what has been done for them")
    func childArguments() {
        #expect(
            SandboxOptions().childArguments == ["--seccomp", "on", "--sandbox", "inherited"])
        #expect(
            SandboxOptions(seccomp: .log, isolation: .off).childArguments
                == ["--seccomp", "log", "--sandbox", "off"])
    }
}
