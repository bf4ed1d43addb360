import Glibc
import Testing

/// What a test cannot do without. One whose need is not met is skipped, and says what is missing.
enum Need {
    /// Our executable.
    case executable
    /// The executable, Debian's kernel, an initramfs and what root disks are made of.
    case guest
    /// Debian's guest agent for QEMU, to be put on a disk.
    case agent
    /// A program in the usual folders.
    case program(String)
    /// QEMU's own server of folders, which only root can run.
    case virtiofsd
    /// QEMU 8.2 or newer, which can migrate shared folders.
    case newQEMU
    case file(String, of: String)
    case root
    /// The program that tries what a sandbox forbids.
    case probe
    case landlock
    /// Network namespaces and tap interfaces.
    case namespaces

    /// Why it is not met.
    var obstacle: String? {
        switch self {
        case .executable where !Setting.hasBinary: "there is no executable; ./test makes it"
        case .guest where !Setting.hasGuest: "there is no guest; ./test makes it"
        case .agent where !Setting.hasAgent: "there is no guest agent; ./test fetches it"
        case .program(let name) where Means.program(name) == nil: "there is no \(name)"
        case .virtiofsd where !Means.hasVirtiofsd:
            "QEMU's virtiofsd is not there, or this is not root"
        case .newQEMU where Means.newQEMU == nil:
            "there is no QEMU of version 8.2 or newer, on the host or as APUS_QEMU_NEW"
        case .file(let path, let package) where !Means.exists(path):
            "there is no file of the package \(package)"
        case .root where geteuid() != 0: "this takes root"
        case .probe where Probe.path == nil: "the sandbox probe is not built"
        case .landlock where !Probe.hasLandlock: "the host's kernel has no Landlock"
        case .namespaces where !NetworkNamespace.isPossible:
            "namespaces and tap interfaces take root and /dev/net/tun"
        default: nil
        }
    }
}

extension Trait where Self == ConditionTrait {
    static func needs(_ needs: Need...) -> Self {
        let obstacle = needs.lazy.compactMap(\.obstacle).first
        return .enabled(if: obstacle == nil, Comment(rawValue: obstacle ?? ""))
    }

    /// A guest of QEMU's whose devices our back ends are.
    static var needsGuestOfQEMU: Self {
        .needs(.guest, .program("qemu-system-x86_64"))
    }
}
