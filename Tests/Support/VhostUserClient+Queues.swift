public import Core

extension VhostUserClient {
    /// Starts a queue.
    public func start(_ index: UInt32, _ driver: DriverQueue, kick: EventFD, call: EventFD) throws {
        try configure(index, driver, state: driver.state, call: call)
        try run(index, kick: kick)
    }

    /// Says all about a queue but when it starts.
    public func configure(
        _ index: UInt32, _ driver: DriverQueue, state: QueueState, call: EventFD
    ) throws {
        try send(.setRingSize, littleEndian(index, UInt32(driver.layout.size)))
        try send(.setRingBase, littleEndian(index, base(state)))
        try send(.setRingAddresses, addresses(index, driver.layout))
        try send(.setCall, littleEndian(UInt64(index)), fds: [call.fd])
    }

    /// A queue's state as messages carry it.
    public func base(_ state: QueueState) -> UInt32 {
        features & VirtioFeature.packedRing != 0
            ? UInt32(state.nextAvailable) | UInt32(state.nextUsed) << 16
            : UInt32(state.nextAvailable)
    }

    /// The payload that says where a queue is.
    /// - Parameter isLogged: whether changes of the used ring are to be noted.
    public func addresses(
        _ index: UInt32, _ layout: QueueLayout, isLogged: Bool = false
    ) -> [UInt8] {
        let places = [layout.descriptors, layout.device, layout.driver]
        return littleEndian(index, isLogged ? 1 : 0)
            + places.flatMap { littleEndian($0.rawValue &+ userOffset) }
            + littleEndian(isLogged ? layout.device.rawValue : 0)
    }

    /// Lets a queue start, with the first kick.
    public func run(_ index: UInt32, kick: EventFD) throws {
        try send(.setKick, littleEndian(UInt64(index)), fds: [kick.fd])
        if features & Self.protocolFeaturesBit != 0 {
            try send(.enableRing, littleEndian(index, 1))
        }
        kick.signal()
    }

    /// Stops a queue.
    /// - Returns: where it stands, as the back end says.
    @discardableResult
    public func stop(_ index: UInt32) throws -> UInt32 {
        let payload = littleEndian(index, 0)
        return Self.value(try send(.getRingBase, payload, hasReply: true), 4, UInt32.self)
    }
}
