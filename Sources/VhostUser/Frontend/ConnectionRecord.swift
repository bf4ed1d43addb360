/// What has become of a front end's connections, for people who ask.
package struct ConnectionRecord: Equatable, Sendable {
    package private(set) var isConnected = false
    /// When that began, on the monotonic clock; 0 if there has been no connection yet.
    package private(set) var since: UInt64 = 0
    /// How often a back end has been found after another one was lost.
    package private(set) var reconnectCount = 0
    /// Why the last one was lost.
    package private(set) var lastLoss: String?

    package init() {}

    package mutating func note(_ state: Frontend.State, at time: UInt64) {
        switch state {
        case .connected:
            if lastLoss != nil, !isConnected { reconnectCount += 1 }
            isConnected = true
        case .disconnected(let reason):
            isConnected = false
            lastLoss = reason
        }
        since = time
    }
}
