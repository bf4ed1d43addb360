internal import TCGDecoder

// Accesses that can share a look into the soft TLB (see AccessPlan). A block is written once with
// a look for each; where some can share one, it is written again, and the first code has what the
// second cannot do.

extension HostBlock {
    /// Makes `operand` the host address of an access, by way of R9.
    mutating func reach(_ access: Access, isAligned: Bool = false) {
        let number = accessCount
        accessCount += 1
        guard let plan else {
            events.append(.access(access))
            saveFlags()
            plainPlaces.append(code.position)
            return reachAlone(access, isAligned: isAligned)
        }
        switch plan.roles[number] {
        case .alone:
            saveFlags()
            reachAlone(access, isAligned: isAligned)
        case .first(let group, let start, let offset):
            saveFlags()
            lookForAll(plan.groups[group], access.base, start, plain: plainPlaces[number])
            operand = HostMemory(HostRegister.first, offset)
            held = group
            if isAligned { checkAlignment(access.size) }
        case .follower(let group, let offset):
            if held != group {
                code.load(HostRegister.first, place(plan.groups[group]))
            }
            operand = HostMemory(HostRegister.first, offset)
            held = group
            if isAligned {
                saveFlags()
                checkAlignment(access.size)
            }
        }
    }

    private mutating func reachAlone(_ access: Access, isAligned: Bool) {
        let base = source(access.base, HostRegister.first)
        code.lea(HostRegister.first, HostMemory(base, access.displacement))
        translate(
            .register(access.base, displacement: access.displacement), size: access.size,
            isWrite: access.isWrite, isAligned: isAligned)
    }

    private func place(_ group: AccessPlan.Group) -> HostMemory {
        HostFrame.slot(HostFrame.places + Int32(group.place) * 8)
    }

    /// Leaves the host address of a group's range in R9 and in its place in the frame.
    private mutating func lookForAll(
        _ group: AccessPlan.Group, _ register: UInt8, _ start: Int32, plain: Int
    ) {
        let first = HostRegister.first
        let source = source(register, first)
        code.lea(first, HostMemory(source, start))
        lookIntoTLB(isWrite: group.isWrite)
        code.registers(0x81, size: 8, reg: 7, rm: first)  // cmp r9, 4096 - size
        code.word(4096 - group.size)
        code.jump(if: 7, to: plain)
        addHost(HostRegister.second)
        code.store(place(group), first)
    }

    /// The host address is a multiple of the size exactly if the guest's is.
    private mutating func checkAlignment(_ size: UInt8) {
        code.lea(HostRegister.second, operand)
        code.registers(0xF7, size: 4, reg: 0, rm: HostRegister.second)  // test r10d, size - 1
        code.word(Int32(size) - 1)
        orInterpret(code.jump(if: 5))
    }

    /// Whether an operation may leave alone what `reach` has put into R9.
    func mayKeepHeld(_ op: OperationPointer) -> Bool {
        switch op.code.rawValue {
        case OperationCode.addRR8.rawValue...OperationCode.movMI64.rawValue: true
        case OperationCode.movzxRR8.rawValue...OperationCode.movsx64RM32.rawValue: true
        case OperationCode.leaf.rawValue: true
        case OperationCode.jo.rawValue...OperationCode.jg.rawValue: true
        default: false
        }
    }

    // MARK: What operations change

    /// Notes what an operation that has been written means for later accesses.
    mutating func noteEffects(_ op: OperationPointer) {
        guard plan == nil else { return }
        let code = op.code.rawValue
        typealias Code = OperationCode
        switch code {
        case Code.addRI64.rawValue: move(op.immediate, op.destination)
        case Code.subRI64.rawValue: move(0 &- op.immediate, op.destination)
        case Code.incR64.rawValue: move(1, op.destination)
        case Code.decR64.rawValue: move(-1, op.destination)
        case Code.lea64.rawValue
        where op.destination == op.base && op.index == Register.none:
            move(op.displacement, op.destination)
        case Code.addRR8.rawValue...Code.movMI64.rawValue:
            let place = code - Code.addRR8.rawValue
            let operation = place / 20
            // CMP and TEST, and a destination in memory.
            if operation == 7 || operation == 8 || place % 20 >= 12 { return }
            written(place & 3 == 0 ? op.destination >> 3 : op.destination)
        case Code.pushR64.rawValue, Code.pushI64.rawValue, Code.pushM64.rawValue: move(-8)
        case Code.popR64.rawValue:
            move(8)
            written(op.destination)
        case Code.call64.rawValue: move(-8)
        case Code.callR64.rawValue, Code.callM64.rawValue: break
        case Code.jo.rawValue...Code.jg.rawValue, Code.jump.rawValue, Code.fallThrough.rawValue:
            break
        case Code.cmovoRR32.rawValue...Code.cmovgRR64.rawValue, Code.lea32.rawValue,
            Code.lea64.rawValue, Code.movzxRR8.rawValue...Code.movsx64RM32.rawValue,
            Code.shlRI32.rawValue...Code.rorRC64.rawValue,
            Code.imulRR32.rawValue...Code.imulRMI64.rawValue:
            written(op.destination)
        case Code.btRR32.rawValue...Code.btRI64.rawValue: break
        case Code.seto.rawValue...Code.setg.rawValue: written(op.destination >> 3)
        case Code.incR8.rawValue...Code.negM64.rawValue:
            let place = code - Code.incR8.rawValue
            if place & 4 != 0 { return }
            written(place & 3 == 0 ? op.destination >> 3 : op.destination)
        case Code.cwde.rawValue, Code.cdqe.rawValue: written(Register.rax)
        case Code.cdq.rawValue, Code.cqo.rawValue: written(Register.rdx)
        case Code.string.rawValue
        where op.form.isDisjoint(with: [.rep, .repne]) && op.displacement == 8:
            // Which way, DF says. RAX is LODS's.
            written(Register.rsi, Register.rdi, Register.rax)
        case Code.nop.rawValue, Code.enableInterrupts.rawValue: break
        case Code.leaf.rawValue:
            // A vector register's number does no harm. FNSTSW and PCMPISTRI name no register, and
            // in `detail` is VEX.vvvv.
            written(op.destination, op.source, op.detail & 15, Register.rax, Register.rcx)
        default: events.append(.barrier)
        }
    }

    private mutating func written(_ registers: UInt8...) {
        events.append(.written(registers.reduce(0) { $0 | 1 << UInt32($1 & 31) }))
    }

    private mutating func move(_ distance: Int64, _ register: UInt8 = Register.rsp) {
        if let short = Int32(exactly: distance), short.magnitude < 1 << 20 {
            events.append(.moved(register, short))
        } else {
            written(register)
        }
    }
}
