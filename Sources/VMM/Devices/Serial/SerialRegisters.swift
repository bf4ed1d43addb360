/// The registers of a 16550A (National Semiconductor PC16550D data sheet, section 8) and what is
/// on its two sides: bytes to the host, bytes from the host.
///
/// The line has no speed: a byte written is sent at once, unless the host does not take what was
/// sent; then the transmitter stays busy. Nothing is lost for a driver that waits for it.
///
/// The receiver's FIFO is the head of the queue of bytes from the host. So the host's bytes
/// survive the drivers' habit of emptying the FIFO when they start; and they stay out of sight
/// until somebody wants them (the receive interrupt is enabled, or the driver polls), because the
/// same drivers also read a byte or two and drop them.
struct SerialRegisters {
    static let fifoDepth = 16
    /// Polls without a byte written in between, after which a driver is taken to wait for input.
    static let pollsForInput = 32

    enum IER {
        static let receive: UInt8 = 1
        static let transmit: UInt8 = 2
        static let lineStatus: UInt8 = 4
        static let modemStatus: UInt8 = 8
    }

    enum IIR {
        static let none: UInt8 = 0x01
        static let modemStatus: UInt8 = 0x00
        static let transmit: UInt8 = 0x02
        static let receive: UInt8 = 0x04
        static let lineStatus: UInt8 = 0x06
        static let timeout: UInt8 = 0x0C
        static let fifoEnabled: UInt8 = 0xC0
    }

    enum MCR {
        static let dtr: UInt8 = 1
        static let rts: UInt8 = 2
        static let out1: UInt8 = 4
        static let out2: UInt8 = 8
        static let loopback: UInt8 = 16
    }

    enum LSR {
        static let dataReady: UInt8 = 1
        static let overrun: UInt8 = 2
        static let transmitterIdle: UInt8 = 0x60  // THRE and TEMT
    }

    private(set) var ier: UInt8 = 0
    private(set) var lcr: UInt8 = 0
    private(set) var mcr: UInt8 = 0
    private(set) var scratch: UInt8 = 0
    /// 115200 / 12 = 9600 baud.
    private(set) var divisor: UInt16 = 12
    private var isFIFOEnabled = false
    private var triggerLevel = 1
    private var hasOverrun = false
    private var modemChanges: UInt8 = 0
    private var isTransmitPending = false
    private var looped = ByteQueue(capacity: fifoDepth)
    private var polls = 0

    var input: ByteQueue
    private(set) var output: ByteQueue

    init(inputCapacity: Int, outputCapacity: Int) {
        input = ByteQueue(capacity: inputCapacity)
        output = ByteQueue(capacity: outputCapacity)
    }

    /// Back to the state after power-on; bytes on their way to or from the host stay.
    mutating func reset() {
        var fresh = SerialRegisters(inputCapacity: 0, outputCapacity: 0)
        fresh.input = input
        fresh.output = output
        self = fresh
    }

    private var isLoopback: Bool { mcr & MCR.loopback != 0 }
    private var isDivisorLatch: Bool { lcr & 0x80 != 0 }

    /// Room for a whole FIFO, which a driver fills without asking again.
    private var canTransmit: Bool { isLoopback || output.free >= Self.fifoDepth }

    private var depth: Int { isFIFOEnabled ? Self.fifoDepth : 1 }

    /// Bytes the receiver shows.
    private var available: Int {
        if isLoopback { return looped.count }
        let isWanted = ier & IER.receive != 0 || polls >= Self.pollsForInput
        return isWanted ? min(input.count, depth) : 0
    }

    // MARK: Interrupts

    /// The most urgent cause (data sheet, table IV).
    private var cause: UInt8 {
        if ier & IER.lineStatus != 0, hasOverrun { return IIR.lineStatus }
        if ier & IER.receive != 0, available > 0 {
            // No time passes on the line, so fewer bytes than the trigger level have timed out.
            return available >= (isFIFOEnabled ? triggerLevel : 1) ? IIR.receive : IIR.timeout
        }
        if ier & IER.transmit != 0, isTransmitPending { return IIR.transmit }
        if ier & IER.modemStatus != 0, modemChanges != 0 { return IIR.modemStatus }
        return IIR.none
    }

    /// The level of the interrupt pin, which OUT2 gates on PCs.
    var isInterrupting: Bool {
        cause != IIR.none && mcr & MCR.out2 != 0 && !isLoopback
    }

    // MARK: Modem status

    private var modemStatus: UInt8 {
        guard isLoopback else { return 0xB0 }  // DCD, DSR, CTS: a terminal is there.
        var status: UInt8 = 0
        if mcr & MCR.rts != 0 { status |= 0x10 }
        if mcr & MCR.dtr != 0 { status |= 0x20 }
        if mcr & MCR.out1 != 0 { status |= 0x40 }
        if mcr & MCR.out2 != 0 { status |= 0x80 }
        return status
    }

    private mutating func setModemControl(_ value: UInt8) {
        let before = modemStatus
        let wasLoopback = isLoopback
        mcr = value & 0x1F
        if wasLoopback != isLoopback { looped.removeAll() }
        let changed = before ^ modemStatus
        modemChanges |= (changed >> 4) & 0b1011
        // The ring indicator counts when it ends.
        if changed & before & 0x40 != 0 { modemChanges |= 0b0100 }
    }

    // MARK: Registers

    mutating func read(_ register: Int) -> UInt8 {
        switch register {
        case 0: return isDivisorLatch ? UInt8(divisor & 0xFF) : receive()
        case 1: return isDivisorLatch ? UInt8(divisor >> 8) : ier
        case 2:
            let cause = cause
            if cause == IIR.transmit { isTransmitPending = false }
            return cause | (isFIFOEnabled ? IIR.fifoEnabled : 0)
        case 3: return lcr
        case 4: return mcr
        case 5: return readLineStatus()
        case 6:
            let changes = modemChanges
            modemChanges = 0
            return modemStatus | changes
        default: return scratch
        }
    }

    /// Everything but the transmitter (`transmit`).
    mutating func write(_ register: Int, _ value: UInt8) {
        polls = 0
        switch register {
        case 0: divisor = (divisor & 0xFF00) | UInt16(value)
        case 1 where isDivisorLatch: divisor = (divisor & 0x00FF) | UInt16(value) << 8
        case 1:
            // Enabling the interrupt of an idle transmitter raises it.
            if value & ~ier & IER.transmit != 0, canTransmit { isTransmitPending = true }
            ier = value & 0x0F
        case 2: setFIFOControl(value)
        case 3: lcr = value
        case 4: setModemControl(value)
        case 7: scratch = value
        default: break
        }
    }

    /// Whether a write to register 0 goes to the transmitter.
    var writesTransmit: Bool { !isDivisorLatch }

    private mutating func receive() -> UInt8 {
        if isLoopback { return looped.removeFirst() ?? 0 }
        return available > 0 ? input.removeFirst() ?? 0 : 0
    }

    private mutating func readLineStatus() -> UInt8 {
        if polls < Self.pollsForInput { polls += 1 }
        var status: UInt8 = canTransmit ? LSR.transmitterIdle : 0
        if available > 0 { status |= LSR.dataReady }
        if hasOverrun { status |= LSR.overrun }
        hasOverrun = false
        return status
    }

    private mutating func setFIFOControl(_ value: UInt8) {
        let isEnabled = value & 1 != 0
        if isEnabled != isFIFOEnabled || value & 2 != 0 { looped.removeAll() }
        isFIFOEnabled = isEnabled
        triggerLevel = [1, 4, 8, 14][Int(value >> 6)]
    }

    // MARK: Transmitter

    /// The first half of a write to the transmitter: its interrupt goes away.
    mutating func beginTransmit() {
        polls = 0
        isTransmitPending = false
    }

    /// The second half: the byte has gone, and if there is room for more, the interrupt comes
    /// back.
    mutating func transmit(_ byte: UInt8) {
        if isLoopback {
            loop(byte)
        } else {
            _ = output.append(byte)
        }
        isTransmitPending = canTransmit
    }

    private mutating func loop(_ byte: UInt8) {
        if looped.count < depth {
            _ = looped.append(byte)
            return
        }
        hasOverrun = true
        // Without FIFO the newer byte replaces the older one.
        if !isFIFOEnabled {
            looped.removeAll()
            _ = looped.append(byte)
        }
    }

    /// Takes sent bytes to the host.
    mutating func takeOutput(_ maximum: Int) -> [UInt8] {
        let couldTransmit = canTransmit
        let bytes = output.removeFirst(maximum)
        if !couldTransmit, canTransmit { isTransmitPending = true }
        return bytes
    }
}
