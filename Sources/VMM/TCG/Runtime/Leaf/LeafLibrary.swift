internal import Core
internal import Synchronization
internal import TCGDecoder

/// All leaf stubs of the process: pure functions, made on first use, shared by all CPUs.
///
/// The number of stubs is bounded by the instruction set (forms times immediates), and so is the
/// code buffer; what does not fit any more raises #UD in the guest.
final class LeafLibrary: Sendable {
    static let shared = LeafLibrary()

    private struct Contents {
        var code: HostArena?
        var known: [UInt64: UInt] = [:]
    }

    private let contents = Mutex(Contents())

    /// All forms with all immediates take about 22 MiB with AVX2 (estimated). What is not used costs
    /// nothing.
    private static let codeCapacity = 64 << 20

    /// How to execute `instruction`, or `nil` if it is no vector, MMX or x87 instruction.
    func lower(_ instruction: Instruction) -> LeafLowering? {
        let instruction = LeafClassifier.normalised(instruction)
        let classifier = LeafClassifier(instruction: instruction)
        guard let descriptor = classifier.descriptor() else { return nil }
        let key = key(classifier, descriptor.kind)
        let address: UInt? = contents.withLock { contents in
            if let known = contents.known[key] { return known }
            guard let made = Self.make(descriptor, classifier, &contents.code) else { return nil }
            contents.known[key] = made
            return made
        }
        // SAFETY: descriptors are never freed.
        guard let address, let pointer = unsafe UnsafePointer<LeafDescriptor>(bitPattern: address)
        else { return nil }
        if instruction.encoding == .vex {
            return unsafe vexLowering(instruction, pointer)
        }
        let (destination, source) = registers(instruction, descriptor)
        return unsafe LeafLowering(
            descriptor: pointer, destination: destination, source: source)
    }

    /// What the stub and the descriptor depend on.
    private func key(_ classifier: LeafClassifier, _ kind: LeafKind) -> UInt64 {
        let instruction = classifier.instruction
        var key = UInt64(instruction.opcode) | UInt64(instruction.map) << 8
        key |= UInt64(instruction.mandatoryPrefix) << 10
        key |= UInt64(instruction.operandSize) << 18
        if instruction.prefixes.contains(.rexW) { key |= 1 << 22 }
        if classifier.hasImmediate {
            key |= UInt64(UInt8(truncatingIfNeeded: instruction.immediate)) << 24
        }
        if instruction.encoding == .vex {
            key |= 1 << 60
            if instruction.vectorLength == 32 { key |= 1 << 61 }
            if instruction.mode != .bits64 { key |= 1 << 62 }
            if instruction.vectorW { key |= 1 << 22 }
        }
        let isMemory = !instruction.isRegisterForm
        if isMemory { key |= 1 << 32 }
        if kind == .maskedStore {
            key |= UInt64(instruction.memory.segment) << 50
            key |= UInt64(instruction.addressSize) << 54
        }
        if instruction.map == 0 {
            // All of ModRM goes into FOP, also a memory operand's part of it.
            key |= UInt64(instruction.modRM) << 33
        } else if kind == .image {
            // ModRM.reg and for register forms ModRM.rm are part of the code.
            key |= UInt64(instruction.modRMReg) << 33
            if !isMemory { key |= UInt64(instruction.modRM & 7) << 36 }
            for index in 0..<Int(instruction.operandCount)
            where instruction.operands[index].kind == .vector {
                key |= UInt64(instruction.operands[index].register) << 40
            }
        } else if classifier.isGroup {
            key |= UInt64(instruction.modRMReg) << 33
        }
        return key
    }

    private static func make(
        _ descriptor: LeafDescriptor, _ classifier: LeafClassifier, _ arena: inout HostArena?
    ) -> UInt? {
        var descriptor = descriptor
        let instruction = classifier.instruction
        let hasImmediate = classifier.hasImmediate
        var assembler = LeafAssembler()
        switch descriptor.kind {
        case .vector:
            assembler.vector(
                instruction, flags: descriptor.flags, hasImmediate: hasImmediate,
                isShiftGroup: classifier.isShiftGroup)
        case .vectorToGeneral:
            assembler.vectorToGeneral(
                instruction, flags: descriptor.flags, hasImmediate: hasImmediate)
        case .generalToVector:
            assembler.generalToVector(
                instruction, flags: descriptor.flags, hasImmediate: hasImmediate)
        case .extract: assembler.extract(instruction, hasImmediate: hasImmediate)
        case .string: assembler.string(instruction)
        case .image:
            assembler.image(instruction, flags: descriptor.flags, hasImmediate: hasImmediate)
        case .vex: assembler.vex(instruction, descriptor, hasImmediate: hasImmediate)
        case .vexGeneral: assembler.vexGeneral(instruction, hasImmediate: hasImmediate)
        default: break
        }
        if !assembler.code.isEmpty {
            if arena == nil { arena = try? HostArena(capacity: codeCapacity) }
            guard let stub = arena?.append(assembler.code) else { return nil }
            descriptor.stub = stub
        }
        // SAFETY: one descriptor, initialised here and never freed.
        let pointer = UnsafeMutablePointer<LeafDescriptor>.allocate(capacity: 1)
        unsafe pointer.initialize(to: descriptor)
        return UInt(bitPattern: pointer)
    }

    /// Registers by where they are encoded.
    private func vexLowering(
        _ instruction: Instruction, _ descriptor: UnsafePointer<LeafDescriptor>
    ) -> LeafLowering {
        var places = InlineArray<5, UInt8>(repeating: 0)
        for index in 0..<Int(instruction.operandCount) {
            let operand = instruction.operands[index]
            if operand.kind != .memory {
                places[Int(operand.place.rawValue)] = operand.register
            } else if instruction.memory.hasVectorIndex {
                places[Int(OperandPlace.rm.rawValue)] = instruction.memory.index
            }
        }
        let vvvv = places[Int(OperandPlace.vvvv.rawValue)]
        let fourth = places[Int(OperandPlace.immediate.rawValue)]
        return unsafe LeafLowering(
            descriptor: descriptor, destination: places[Int(OperandPlace.reg.rawValue)],
            source: places[Int(OperandPlace.rm.rawValue)], others: vvvv & 15 | fourth << 4)
    }

    private func registers(
        _ instruction: Instruction, _ descriptor: LeafDescriptor
    ) -> (destination: UInt8, source: UInt8) {
        var destination: UInt8 = 0
        var source: UInt8 = 0
        for index in 0..<Int(instruction.operandCount) {
            let operand = instruction.operands[index]
            guard operand.kind == .vector || operand.kind == .general || operand.kind == .mmx
            else { continue }
            if index == 0 { destination = operand.register }
            if index == 1 { source = operand.register }
        }
        return (destination, source)
    }
}
