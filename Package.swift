// swift-tools-version: 6.2
// Apus: a lean virtual machine monitor and its vhost-user device backends.

import PackageDescription

/// What every Swift target is built with: language mode 6, strict memory safety, no warnings.
let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

/// What is part of the executable does without the concurrency runtime (0.7 MB).
let productSettings: [SwiftSetting] =
    swiftSettings + [.unsafeFlags(["-Xfrontend", "-disable-implicit-concurrency-module-import"])]

/// The emulated CPU is unusable without optimisation, so tests run it optimised as well.
let optimised: [SwiftSetting] = [.unsafeFlags(["-O"], .when(configuration: .debug))]

/// Where the linker's files are that say what lies where in the executable.
let layout = "\(Context.packageDirectory)/Sources/VMM/Main"

/// One static, stripped, position-independent executable (ARCHITECTURE.md, "One executable").
let releaseLinkerSettings: [LinkerSetting] = [
    .unsafeFlags(
        [
            "-static-executable", "-use-ld=lld", "-Xclang-linker", "-static-pie",
            "-Xlinker", "--gc-sections", "-Xlinker", "--pack-dyn-relocs=relr",
            "-Xlinker", "-s",
            "-Xlinker", "-T", "-Xlinker", "\(layout)/sections.ld",
            "-Xlinker", "-T", "-Xlinker", "\(layout)/constructors.ld",
            "-Xlinker", "--symbol-ordering-file", "-Xlinker", "\(layout)/hot-symbols.txt",
            "-Xlinker", "--no-warn-symbol-ordering",
        ],
        .when(configuration: .release))
]

/// The devices' back ends.
let backends: [Target.Dependency] = [
    "BlockBackend",
    "ConsoleBackend",
    "FileSystemBackend",
    "NetworkBackend",
    "RandomBackend",
    "VsockBackend",
]

func library(_ name: String, _ pkgConfig: String?, _ package: String) -> Target {
    .systemLibrary(
        name: name, path: "Sources/CLibraries/\(name)", pkgConfig: pkgConfig,
        providers: [.apt([package])])
}

func target(
    _ name: String, _ path: String, uses: [Target.Dependency],
    settings: [SwiftSetting] = productSettings
) -> Target {
    .target(name: name, dependencies: uses, path: "Sources/\(path)", swiftSettings: settings)
}

func tests(
    _ name: String, uses: [Target.Dependency], settings: [SwiftSetting] = swiftSettings
) -> Target {
    .testTarget(
        name: "\(name)Tests", dependencies: uses, path: "Tests/\(name)Tests",
        swiftSettings: settings)
}

let package = Package(
    name: "apus",
    products: [.executable(name: "apus", targets: ["apus"])],
    targets: [
        // C below, Swift above.
        .target(name: "CLinux", path: "Sources/CLinux"),
        library("CGLib", "glib-2.0", "libglib2.0-dev"),
        library("CAIO", nil, "libaio-dev"),
        library("CURing", "liburing", "liburing-dev"),
        library("CNUMA", "numa", "libnuma-dev"),
        library("CZlib", "zlib", "zlib1g-dev"),
        library("CZstd", "libzstd", "libzstd-dev"),
        library("CLZ4", "liblz4", "liblz4-dev"),
        library("CLZMA", "liblzma", "liblzma-dev"),
        library("CSeccomp", "libseccomp", "libseccomp-dev"),
        library("CCapNG", "libcap-ng", "libcap-ng-dev"),
        library("CJansson", "jansson", "libjansson-dev"),

        target("Core", "Core", uses: ["CLinux", "CGLib", "CNUMA", "CSeccomp", "CCapNG"]),
        target("VhostUser", "VhostUser", uses: ["Core", "CLinux"]),
        target(
            "BlockBackend", "Backends/Block",
            uses: ["VhostUser", "Core", "CLinux", "CAIO", "CURing"]),
        target("ConsoleBackend", "Backends/Console", uses: ["VhostUser", "Core", "CLinux"]),
        target("NetworkBackend", "Backends/Network", uses: ["VhostUser", "Core", "CLinux"]),
        target("RandomBackend", "Backends/Random", uses: ["VhostUser", "Core", "CLinux"]),
        target("FileSystemBackend", "Backends/FileSystem", uses: ["VhostUser", "Core", "CLinux"]),
        target("VsockBackend", "Backends/Vsock", uses: ["VhostUser", "Core", "CLinux"]),

        target("Accelerator", "VMM/Accelerator", uses: ["Core"]),
        target("TCGDecoder", "VMM/TCG/Decoder", uses: [], settings: productSettings + optimised),
        target(
            "TCG", "VMM/TCG/Runtime", uses: ["TCGDecoder", "Accelerator", "Core", "CLinux"],
            settings: productSettings + optimised),
        target("KVM", "VMM/KVM", uses: ["Accelerator", "Core", "CLinux"]),
        target("Devices", "VMM/Devices", uses: ["Accelerator", "Core"]),
        target("Monitor", "VMM/Monitor", uses: ["Core", "CJansson"]),
        target(
            "VMM", "VMM/Machine",
            uses: [
                "Devices", "Monitor", "TCG", "KVM", "Accelerator", "VhostUser", "Core", "CLinux",
                "CZlib", "CZstd", "CLZ4", "CLZMA",
            ]),
        .executableTarget(
            name: "apus",
            dependencies: backends + ["VMM", "VhostUser", "Core", "CLinux"],
            path: "Sources/VMM/Main",
            exclude: ["sections.ld", "constructors.ld", "hot-symbols.txt"],
            swiftSettings: productSettings,
            linkerSettings: releaseLinkerSettings),

        // Test support and tests.
        .systemLibrary(
            name: "CZydis", path: "Tests/CLibraries/CZydis", pkgConfig: nil,
            providers: [.apt(["libzydis-dev"])]),
        .target(
            name: "TestSupport", dependencies: ["Core", "CLinux"],
            path: "Tests/Support", swiftSettings: swiftSettings + optimised),
        .target(
            name: "DeviceFakes", dependencies: ["Devices", "Accelerator", "Core"],
            path: "Tests/DeviceFakes", swiftSettings: swiftSettings),
        .target(
            name: "BenchmarkSupport", dependencies: ["TestSupport", "Core", "CLinux"],
            path: "Benchmarks/Support", swiftSettings: swiftSettings),
        .executableTarget(
            name: "block-benchmark",
            dependencies: ["BenchmarkSupport", "TestSupport", "Core", "CLinux"],
            path: "Benchmarks/Block", swiftSettings: swiftSettings),
        .executableTarget(
            name: "fs-benchmark", dependencies: ["BenchmarkSupport", "TestSupport", "Core"],
            path: "Benchmarks/FileSystem", swiftSettings: swiftSettings),
        .executableTarget(
            name: "net-benchmark", dependencies: ["BenchmarkSupport", "TestSupport", "Core"],
            path: "Benchmarks/Network", swiftSettings: swiftSettings),
        .executableTarget(
            name: "footprint-benchmark", dependencies: ["BenchmarkSupport", "TestSupport", "Core"],
            path: "Benchmarks/Footprint", swiftSettings: swiftSettings),
        .executableTarget(
            name: "vhost-user-conformance", dependencies: ["TestSupport", "Core", "CLinux"],
            path: "Tests/Conformance", exclude: ["Known"],
            swiftSettings: swiftSettings + optimised),
        tests("Core", uses: ["Core", "TestSupport", "CLinux", "CSeccomp"]),
        tests("VhostUser", uses: ["VhostUser", "Core", "TestSupport", "CLinux"]),
        tests(
            "BlockBackend", uses: ["BlockBackend", "VhostUser", "Core", "TestSupport", "CLinux"]),
        tests("ConsoleBackend", uses: ["ConsoleBackend", "VhostUser", "Core", "TestSupport"]),
        tests(
            "FileSystemBackend",
            uses: ["FileSystemBackend", "VhostUser", "Core", "TestSupport", "CLinux"]),
        tests(
            "NetworkBackend",
            uses: ["NetworkBackend", "VhostUser", "Core", "TestSupport", "CLinux"]),
        tests("RandomBackend", uses: ["RandomBackend", "VhostUser", "Core", "TestSupport"]),
        tests("VsockBackend", uses: ["VsockBackend", "VhostUser", "Core", "TestSupport"]),
        // They compare millions of instructions.
        tests(
            "TCGDecoder", uses: ["TCGDecoder", "VMM", "CZydis"], settings: swiftSettings + optimised
        ),
        .target(name: "CNativeRun", path: "Tests/CNativeRun"),
        .target(
            name: "Differential",
            dependencies: ["TCG", "TCGDecoder", "Accelerator", "Core", "CNativeRun"],
            path: "Tests/Differential", swiftSettings: swiftSettings + optimised),
        .executableTarget(
            name: "tcg-differential", dependencies: ["Differential", "TCG", "Core"],
            path: "Tests/DifferentialRunner", swiftSettings: swiftSettings + optimised),
        tests(
            "TCG",
            uses: [
                "Differential", "TCG", "TCGDecoder", "Accelerator", "Core", "CLinux", "CNativeRun",
            ],
            settings: swiftSettings + optimised),
        tests(
            "KVM",
            uses: [
                "KVM", "TCG", "Accelerator", "Devices", "VhostUser", "Core", "TestSupport",
                "CLinux",
            ]),
        tests(
            "Devices",
            uses: ["Devices", "Accelerator", "Core", "TestSupport", "DeviceFakes"]),
        tests("Monitor", uses: ["Monitor", "Core", "TestSupport"]),
        tests(
            "VMM",
            uses: backends + [
                "VMM", "VhostUser", "Devices", "TCG", "Accelerator", "Core", "TestSupport",
            ]),
        .executableTarget(
            name: "sandbox-probe",
            dependencies: backends + ["VMM", "VhostUser", "Core", "CLinux", "CNativeRun"],
            path: "Tests/SandboxProbe", swiftSettings: swiftSettings),
        tests(
            "System",
            uses: ["TestSupport", "Core", "CLinux", "sandbox-probe", "vhost-user-conformance"]),
    ]
)

/// What the fuzz targets use.
let fuzzed: [Target.Dependency] =
    backends + [
        "VMM", "Devices", "Monitor", "TCG", "TCGDecoder", "Accelerator", "VhostUser", "Core",
        "CLinux",
        "TestSupport", "DeviceFakes", "CZlib", "CZstd", "CLZ4", "CLZMA",
    ]

// The fuzz targets are a test; with APUS_FUZZ set they are an executable for libFuzzer, and
// everything is built with its instrumentation (see the script `fuzz`).
if Context.environment["APUS_FUZZ"] == nil {
    package.targets.append(
        .testTarget(
            name: "FuzzTests", dependencies: fuzzed, path: "Fuzz",
            exclude: ["CLibFuzzer", "LibFuzzer"], swiftSettings: swiftSettings + optimised))
} else {
    package.targets += [
        .systemLibrary(name: "CLibFuzzer", path: "Fuzz/CLibFuzzer"),
        .executableTarget(
            name: "apus-fuzz", dependencies: fuzzed + ["CLibFuzzer"], path: "Fuzz",
            exclude: ["CLibFuzzer", "Tests"],
            swiftSettings: swiftSettings + [.unsafeFlags(["-parse-as-library"])]),
    ]
}

// For work on a part: APUS_TESTS="Core NetworkBackend" leaves out the tests of all others, which are
// most of a build's time.
if let parts = Context.environment["APUS_TESTS"]?.split(separator: " ") {
    package.targets.removeAll { target in
        target.type == .test && !parts.contains { $0 + "Tests" == target.name }
    }
}
