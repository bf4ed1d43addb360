import Core
import Synchronization
import TestSupport

/// A front end's window, or one that takes nothing back that is not whole, as the specification has
/// it.
final class WindowChannel: SharedMemoryChannel {
    struct State {
        var isStrict = false
        var isGone = false
        /// How much more is done before it is gone.
        var goneAfter = Int.max
        /// How long each thing takes, in milliseconds.
        var delay: UInt64 = 0
        /// What was asked for, refused or not.
        var requests = 0
        /// What a strict front end has mapped.
        var pieces: [SharedMemoryPiece] = []
        var maps = 0
    }

    let memory: SharedWindow
    let state = Mutex(State())

    init(size: UInt64, isStrict: Bool = false) throws {
        memory = try SharedWindow(size: size)
        state.withLock { $0.isStrict = isStrict }
    }

    func map(_ piece: SharedMemoryPiece, of fd: SharedFD) throws(SharedMemoryError) {
        try change { state throws(SharedMemoryError) in
            if state.isStrict,
                state.pieces.contains(where: {
                    $0.offset < piece.offset + piece.size && piece.offset < $0.offset + $0.size
                })
            {
                throw .refused
            }
            do {
                try memory.map(
                    fd.rawValue, from: piece.fileOffset, at: piece.offset, size: piece.size,
                    isWritable: piece.isWritable)
            } catch {
                throw .refused
            }
            state.pieces.append(piece)
            state.maps += 1
        }
    }

    func unmap(_ piece: SharedMemoryPiece) throws(SharedMemoryError) {
        try change { state throws(SharedMemoryError) in
            let isWhole = state.pieces.contains {
                $0.offset == piece.offset && $0.size == piece.size
            }
            if state.isStrict, !isWhole { throw .refused }
            do { try memory.unmap(at: piece.offset, size: piece.size) } catch { throw .refused }
            state.pieces.removeAll { $0.offset == piece.offset }
        }
    }

    private func change(
        _ body: (inout State) throws(SharedMemoryError) -> Void
    ) throws(SharedMemoryError) {
        let outcome: SharedMemoryError? = state.withLock { state in
            state.requests += 1
            if state.isGone || state.goneAfter <= 0 { return .gone }
            state.goneAfter -= 1
            if state.delay > 0 { Clock.sleep(milliseconds: UInt32(state.delay)) }
            do throws(SharedMemoryError) {
                try body(&state)
                return nil
            } catch {
                return error
            }
        }
        if let outcome { throw outcome }
    }

    func byte(_ offset: Int) -> UInt8 {
        unsafe memory.base.load(fromByteOffset: offset, as: UInt8.self)
    }

    func store(_ value: UInt8, at offset: Int) {
        unsafe memory.base.storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }
}
