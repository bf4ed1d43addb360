package import Core

/// What a front end needs to know of its device, and how it comes to its back end.
package struct FrontendOptions {
    /// How the front end comes to its connections.
    package enum Role {
        /// The back end listens at a path.
        case connect(path: String)
        /// Somebody else brings a connected socket each time: `Frontend.attach`.
        case supervised
    }

    package var role: Role
    package var deviceID: VirtioDeviceID
    /// What messages call it.
    package var backendName = "the back end"
    /// How many queues are wanted; by default as many as the back end has.
    package var queueCount: Int?
    /// For back ends that do not say how many queues they have.
    package var defaultQueueCount = 1
    package var maximumQueueSize: UInt16 = 256
    /// Bytes of the configuration space to ask for; `nil` for as much as there is. Some back ends
    /// refuse to give more than they know of.
    package var configSize: Int?
    /// The configuration space if it is not the back end's to say, given the number of queues.
    package var ownConfig: (@Sendable (Int) -> [UInt8])?
    /// How long a reply may take, and how long a whole handshake.
    package var replyTimeoutMilliseconds: UInt64 = 5_000
    package var handshakeTimeoutMilliseconds: UInt64 = 10_000
    /// Kicks, calls and errors go through the connection where the back end can do that, instead of
    /// around it: for whoever has to see them in order, at the cost of speed.
    package var notifiesInBand = false
    /// The guest can be given memory that the device shares with it.
    package var sharesMemory = false
    /// Protocol features not to be used even if the back end offers them.
    package var avoided: ProtocolFeatures = []

    package init(_ role: Role, deviceID: VirtioDeviceID) {
        self.role = role
        self.deviceID = deviceID
        switch deviceID {
        case .block: configSize = 60  // up to and with write_zeroes_may_unmap and its padding
        case .console: configSize = 12
        case .fs:
            configSize = 40
            defaultQueueCount = 2  // one for what must not wait, one for requests
        case .net: configSize = 12
        case .vsock: configSize = 8
        case .entropy: configSize = 0
        default: break
        }
    }
}

/// Why a back end cannot be used; a sentence for the user.
package struct FrontendError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}
