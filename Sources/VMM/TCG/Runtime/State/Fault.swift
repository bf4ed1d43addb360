/// An exception that an instruction raises (SDM volume 3, section 6.15). Thrown out of an
/// instruction before it has changed any state; CR2 is already set for a page fault.
struct Fault: Error, Equatable, BitwiseCopyable {
    var vector: UInt8
    var hasErrorCode: Bool
    var errorCode: UInt16

    private init(_ vector: UInt8) {
        self.vector = vector
        hasErrorCode = false
        errorCode = 0
    }

    private init(_ vector: UInt8, code: UInt16) {
        self.vector = vector
        hasErrorCode = true
        errorCode = code
    }

    static let divideError = Fault(0)
    static let debug = Fault(1)
    static let breakpoint = Fault(3)
    static let overflow = Fault(4)
    static let boundRange = Fault(5)
    static let invalidOpcode = Fault(6)
    static let deviceNotAvailable = Fault(7)
    static let doubleFault = Fault(8, code: 0)
    static func invalidTSS(_ code: UInt16) -> Fault { Fault(10, code: code) }
    static func segmentNotPresent(_ code: UInt16) -> Fault { Fault(11, code: code) }
    static func stackFault(_ code: UInt16) -> Fault { Fault(12, code: code) }
    static func generalProtection(_ code: UInt16) -> Fault { Fault(13, code: code) }
    static func pageFault(_ code: UInt16) -> Fault { Fault(14, code: code) }
    static let floatingPoint = Fault(16)
    static let alignmentCheck = Fault(17, code: 0)
    static let simdFloatingPoint = Fault(19)
}
