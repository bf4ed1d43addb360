import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import FileSystemBackend

@Suite("Shared folder: files by their handles") struct FileHandlesTests {
    /// Takes root in the host's user namespace, and a file system that has them.
    static let areToBeHad: Bool = {
        guard let folder = try? TestFolder(),
            let files = try? SharedFolder(FSOptions(path: folder.path))
        else { return false }
        return (try? FileHandles.make(.mandatory, files.folder)) != nil
    }()

    @Test("without the right to open them they are not used, or the reason is said")
    func refused() throws {
        let folder = try TestFolder()
        let files = try SharedFolder(FSOptions(path: folder.path))
        // In a thread of its own, which may not.
        let results = Lock<[String]>([])
        let thread = try Core.Thread(name: "refused") {
            if geteuid() == 0 { _ = clinux_set_file_user(1000, 1000) }
            for wanted in FSOptions.FileHandles.allCases {
                let result: String
                do {
                    let handles = try FileHandles.make(wanted, files.folder)
                    result = handles == nil ? "none" : "some"
                } catch {
                    result = "\(error)"
                }
                results.withLock { $0.append(result) }
            }
        }
        thread.join()
        let all = results.withLock { $0 }
        #expect(all.prefix(2) == ["none", "none"])
        #expect(
            all.last == "files cannot be opened by handles (Operation not permitted), which takes "
                + "CAP_DAC_READ_SEARCH in the host's user namespace: start this as root with "
                + "--sandbox chroot or off, or give inode-file-handles=prefer")
    }
}
