import TestSupport

/// A machine with a disk whose guest is a few instructions and stands still: for what is about the
/// processes and takes no Linux.
final class TinyMachine {
    let apus: RunningProgram

    /// Returns once the guest has begun.
    init(in folder: TestFolder) throws {
        apus = try RunningProgram.apus([
            "--kernel", folder.file("kernel", TinyKernel.printsAndHalts),
            "--disk", "path=\(folder.sparse("image", size: 1 << 20))",
        ])
        try apus.waitFor("!")
    }
}
