import Foundation

/// Starts a back end and does something with it.
///
/// Where the front end has one thread only, it keeps the first CPU to itself, and the back end has
/// the others. Otherwise it would depend on the scheduler's mood whether the two, who wake each other
/// for each request, share a CPU, and that is what would be measured.
/// - Parameters:
///   - threadCount: threads of the front end.
///   - start: starts it, so that it listens at a path.
///   - body: gets the path and what `start` has given.
package func withBackEnd<BackEnd, Result>(
    threadCount: Int, _ start: (String) throws -> BackEnd,
    _ body: (String, BackEnd) throws -> Result
) rethrows -> Result {
    let socket = FileManager.default.temporaryDirectory.path + "/apus-benchmark-\(getpid()).sock"
    defer { unsafe unlink(socket) }
    let all = Processors.allowed
    guard threadCount == 1, all.count > 1 else { return try body(socket, start(socket)) }
    defer { Processors.allowed = all }
    // Processes and threads inherit the CPUs of the thread that starts them.
    Processors.allowed = Array(all.dropFirst())
    let process = try start(socket)
    Processors.allowed = [all[0]]
    return try body(socket, process)
}
