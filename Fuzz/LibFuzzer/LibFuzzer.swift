import CLibFuzzer
import Core
import Glibc

// `apus-fuzz TARGET [libFuzzer's options, folders and files]`; without a target it lists them.
// `apus-fuzz seeds FOLDER` writes every target's seeds, in folders of their names.

/// The chosen target.
// SAFETY: set before libFuzzer starts, which runs one input at a time on the same thread.
nonisolated(unsafe) private var target: (any FuzzTarget)?

/// What the package manager calls the main function of an executable by this name.
@c(apus_fuzz_main)
public func main(
    _ count: CInt, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
) -> CInt {
    guard count > 1, let name = unsafe arguments[1].map({ unsafe String(cString: $0) }) else {
        for type in FuzzTargets.all {
            let gap = String(repeating: " ", count: max(1, 20 - type.name.count))
            print(type.name + gap + type.about)
        }
        return 0
    }
    Log.configure(program: "fuzz", level: .error)
    if name == "seeds", count == 3, let folder = unsafe arguments[2] {
        return writeSeeds(unsafe String(cString: folder)) ? 0 : 2
    }
    do {
        guard let type = FuzzTargets.named(name) else { throw FuzzFailure("no such target") }
        unsafe target = try type.init()
    } catch {
        print("the fuzz target '\(name)' cannot be set up: \(error)")
        return 2
    }
    // What the target holds is not always where the search for leaks looks.
    atexit { unsafe target = nil }
    // SAFETY: the vector has `count` entries and a null; the target's name is dropped.
    unsafe arguments[1] = arguments[0]
    var count = count - 1
    var rest = unsafe arguments + 1
    return unsafe LLVMFuzzerRunDriver(&count, &rest, runOne)
}

private func writeSeeds(_ folder: String) -> Bool {
    for type in FuzzTargets.all {
        unsafe mkdir("\(folder)/\(type.name)", 0o777)
        for (number, seed) in type.seeds.enumerated() {
            let path = "\(folder)/\(type.name)/seed-\(number)"
            let fd = OwnedFD(owning: unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o666))
            // SAFETY: the bytes live for the call.
            guard unsafe write(fd.rawValue, seed, seed.count) == seed.count else {
                print("cannot write \(path)")
                return false
            }
        }
    }
    return true
}

/// Runs one input; libFuzzer's own main function, which is linked but not used, knows it by this
/// name.
@c(LLVMFuzzerTestOneInput)
public func runOne(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
    // SAFETY: libFuzzer gives `size` bytes.
    var input = FuzzInput(unsafe Array(UnsafeBufferPointer(start: data, count: size)))
    do {
        _ = try unsafe target?.run(&input)
    } catch {
        fatalError("\(error)")
    }
    return 0
}
