import Core
import Testing
import VhostUser

@testable import BlockBackend

@Suite struct CommandTests {
    private enum Outcome: Equatable {
        case shown(String)
        case served(BackendCommand.Endpoint, BlockOptions, opened: [Int32]? = nil)
        case refused(String)
    }

    /// What a command line leads to.
    private func outcome(_ arguments: String...) -> Outcome {
        do throws(OptionError) {
            switch try BackendCommand(.block, arguments).action {
            case .show(let text): return .shown(text)
            case .serve(let endpoint, let values, let opened, _):
                return .served(endpoint, try BlockOptions(values), opened: opened)
            }
        } catch {
            return .refused(error.description)
        }
    }

    @Test("a disk is described by keys and values")
    func disk() {
        var options = BlockOptions(path: "a,b.img")
        options.isReadOnly = true
        options.isDirect = true
        options.engine = .aio
        options.queueCount = 2
        options.maximumQueueSize = 256
        options.pollMicroseconds = 0
        options.serial = "x"
        options.isWriteback = false
        options.allowsDiscard = false
        options.blockSize = 4096
        options.isLocked = false
        let text =
            "path=\"a,b.img\",readonly=on,direct=on,engine=aio,num-queues=2,queue-size=256,"
            + "poll-us=0,serial=x,format=raw,writeback=off,discard=off,block-size=4096,lock=off"
        #expect(
            outcome("--socket-path", "s", "--disk", text)
                == .served(.path("s"), options))
    }

    @Test("the conventional options do the same")
    func conventional() {
        var options = BlockOptions(path: "disk.img")
        #expect(
            outcome("--fd=3", "--blk-file=disk.img")
                == .served(.inherited(3), options))
        options.isReadOnly = true
        #expect(
            outcome("--socket-path=/s", "--blk-file=disk.img", "--read-only")
                == .served(.path("/s"), options))
        options.path = "a,\"b.img"
        #expect(
            outcome("--fd=3", "--read-only", "--blk-file", "a,\"b.img", "--open-fds", "[4]")
                == .served(.inherited(3), options, opened: [4]))
    }

    @Test(
        "helper threads are counted",
        arguments: [("", nil), (",threads=0", 0), (",threads=64", 64)] as [(String, Int?)])
    func threads(text: String, count: Int?) {
        var options = BlockOptions(path: "d")
        options.engine = .threads
        options.helperCount = count
        #expect(
            outcome("--fd=3", "--disk", "path=d,engine=threads\(text)")
                == .served(.inherited(3), options))
    }

    @Test("capabilities are printed whatever else is said")
    func capabilities() {
        #expect(
            outcome("--nonsense", "--print-capabilities")
                == .shown(
                    """
                    {
                      "type": "block",
                      "features": [
                        "read-only",
                        "blk-file"
                      ]
                    }

                    """))
    }

    @Test("help says how the program is started, by its own name as well")
    func help() {
        guard case .shown(let text) = outcome("help") else {
            Issue.record("no help is shown")
            return
        }
        #expect(text.contains("\nUsage: apus block [OPTION...]\n"))
        #expect(text.contains("\n  --disk [path=]PATH[,KEY=VALUE...]\n"))
        #expect(text.contains("\n  A link to apus with the name apus-block "))
    }

    @Test("what makes no sense is refused with a sentence")
    func refusals() {
        #expect(outcome("--blk-file=d") == .refused("one of --socket-path and --fd is needed"))
        #expect(
            outcome("--blk-file=d", "--fd=3", "--socket-path=s")
                == .refused("--socket-path and --fd exclude each other"))
        #expect(outcome("--fd=3") == .refused("one of --disk and --blk-file is needed"))
        #expect(
            outcome("--fd=3", "--blk-file=d", "--disk", "path=d")
                == .refused("--blk-file and path in --disk exclude each other"))
        #expect(
            outcome("--fd=3", "--read-only", "--disk", "path=d,readonly=off")
                == .refused("--read-only and readonly in --disk exclude each other"))
        #expect(
            outcome("--fd=3", "--blk-file=") == .refused("--blk-file: a path must not be empty"))
        #expect(
            outcome("--fd=3", "--read-only")
                == .refused("one of --disk and --blk-file is needed"))
        #expect(
            outcome("--fd=3", "--disk", "readonly=on")
                == .refused("--disk: key 'path' is missing"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,redonly=on")
                == .refused("--disk: unknown key 'redonly'; did you mean 'readonly'?"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,serial=123456789012345678901")
                == .refused("--disk: serial: '123456789012345678901' is longer than 20 bytes"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,threads=65")
                == .refused("--disk: threads: 65 is not between 0 and 64"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,threads=many")
                == .refused("--disk: threads: 'many' is not a whole number"))
        #expect(
            outcome("--fd=3", "--disk", "path=d,format=qcow2")
                == .refused("--disk: format: 'qcow2' is not one of raw"))
    }
}
