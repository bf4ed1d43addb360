package import Core

/// A kind of device with a back-end program of ours: all that `apus-block` and its sisters differ
/// in, besides the device itself. The VMM starts back ends by the same value.
package struct BackendKind: Sendable {
    /// What its files and options are called: `block` makes the program `apus-block`.
    package let name: String
    package let deviceID: VirtioDeviceID
    /// What messages call such a device: `disk`.
    package let noun: String
    /// One sentence for the program's help.
    package let summary: String
    /// An example of the option set for the program's help.
    package let example: String
    /// What can be said of such a device. The set's name is that of the flag, for programs and VMM.
    package let schema: OptionSchema
    /// Flags of the program that say the same as a key of the set.
    package let aliases: [OptionAlias]
    /// What `--print-capabilities` lists (vhost-user specification, "Backend program conventions").
    package let capabilities: [String]
    /// The first that `open` opens is a folder, below which the device goes on to work with files.
    package let servesFolder: Bool
    /// What front ends say of the configuration space; `nil` for kinds whose back ends do.
    package let config: FrontendConfig?
    /// What the program's threads may ask of the kernel.
    package let systemCalls: @Sendable () -> SystemCallRules
    /// What some options take besides.
    package let optionSystemCalls: @Sendable (OptionValues) -> SystemCallRules?

    /// Whether a device with these options opens files by their handles, which takes a right
    /// (CAP_DAC_READ_SEARCH) that no other device keeps.
    package let opensHandles: @Sendable (OptionValues) -> Bool

    /// What to add to options so that requests are done one after the other by the queue's own
    /// thread, for runs that repeat: text of the option set, empty if the options already say so or
    /// the user wants it otherwise. There is no function for devices that act by themselves.
    package let inOrder: (@Sendable (OptionValues) -> String)?

    /// How the user's terminal becomes part of a device; `nil` if it never does.
    package let terminal: TerminalUse?

    /// Checks what keys mean together.
    package let check: @Sendable (OptionValues) throws(OptionError) -> Void
    /// Opens what the options name, before the program locks itself in or by its parent process.
    package let open: @Sendable (OptionValues) throws -> [SharedFD]
    /// Makes the device, in the sandbox.
    package let makeDevice: @Sendable (BackendSurroundings) throws -> any VirtioDevice

    package init(
        _ name: String, _ deviceID: VirtioDeviceID, noun: String, summary: String,
        example: String, schema: OptionSchema, aliases: [OptionAlias] = [],
        capabilities: [String] = [], servesFolder: Bool = false, config: FrontendConfig? = nil,
        systemCalls: @escaping @Sendable () -> SystemCallRules,
        optionSystemCalls: @escaping @Sendable (OptionValues) -> SystemCallRules? = { _ in nil },
        opensHandles: @escaping @Sendable (OptionValues) -> Bool = { _ in false },
        inOrder: (@Sendable (OptionValues) -> String)? = nil,
        terminal: TerminalUse? = nil,
        check: @escaping @Sendable (OptionValues) throws(OptionError) -> Void,
        open: @escaping @Sendable (OptionValues) throws -> [SharedFD],
        makeDevice: @escaping @Sendable (BackendSurroundings) throws -> any VirtioDevice
    ) {
        self.name = name
        self.deviceID = deviceID
        self.noun = noun
        self.summary = summary
        self.example = example
        self.schema = schema
        self.aliases = aliases
        self.capabilities = capabilities
        self.servesFolder = servesFolder
        self.config = config
        self.systemCalls = systemCalls
        self.optionSystemCalls = optionSystemCalls
        self.opensHandles = opensHandles
        self.inOrder = inOrder
        self.terminal = terminal
        self.check = check
        self.open = open
        self.makeDevice = makeDevice
    }

    /// The program's name.
    package var program: String { "apus-\(name)" }

    /// The first key of `config` that is not given. There is no configuration space without it.
    package func missingConfigKey(_ values: OptionValues) -> String? {
        config?.keys.first { values.text(of: $0) == nil }
    }

    /// The most descriptors that a program needs: eight for each of 64 queues, and those of memory
    /// regions; one for each file that a driver knows of a shared folder.
    package var descriptorLimit: UInt64 { servesFolder ? 1 << 20 : 2048 }
}

/// A configuration space that is made of what the user says to the front end, as a rule; `apus`,
/// which hands its options to the back end, leaves it to that one where it can.
package struct FrontendConfig: Sendable {
    /// The options that it is made of.
    package let keys: [String]
    package let check: @Sendable (OptionValues) throws(OptionError) -> Void
    /// Makes it, for a number of queues.
    package let make: @Sendable (OptionValues, Int) -> [UInt8]

    package init(
        keys: [String], check: @escaping @Sendable (OptionValues) throws(OptionError) -> Void,
        make: @escaping @Sendable (OptionValues, Int) -> [UInt8]
    ) {
        self.keys = keys
        self.check = check
        self.make = make
    }
}

/// Devices that can have standard input and output for themselves.
package struct TerminalUse: Sendable {
    /// Whether one with these options wants them.
    package let isWanted: @Sendable (OptionValues) -> Bool
    /// Opens what the options name, with the far end of a pseudo terminal in place of the two.
    package let open: @Sendable (OptionValues, SharedFD) throws -> [SharedFD]

    package init(
        isWanted: @escaping @Sendable (OptionValues) -> Bool,
        open: @escaping @Sendable (OptionValues, SharedFD) throws -> [SharedFD]
    ) {
        self.isWanted = isWanted
        self.open = open
    }
}

/// What a device of a back-end program is made from.
package struct BackendSurroundings {
    package let values: OptionValues
    /// What `BackendKind.open` has opened, in its order.
    package let files: [SharedFD]
    package let seccomp: SandboxOptions.Seccomp
    /// Whoever has opened the files starts another process with them should this one die.
    package let isReplaceable: Bool
    /// The control thread's.
    package let loop: EventLoop
    /// To be called on the control thread when the configuration space has changed by itself.
    package let configChanged: () -> Void
}

/// A flag of a back-end program that stands for a key of its option set.
package struct OptionAlias: Sendable {
    package let name: String
    let key: String
    /// What the key gets; `nil` if the flag has a value to give it.
    let value: String?
    let help: String

    /// `--name VALUE`.
    package init(_ name: String, for key: String) {
        self.name = name
        self.key = key
        value = nil
        help = "the same as \(key)=TEXT"
    }

    /// `--name`, which gives the key this value.
    package init(_ name: String, for key: String, value: String) {
        self.name = name
        self.key = key
        self.value = value
        help = "the same as \(key)=\(value)"
    }
}

extension BackendKind: Equatable {
    /// A kind is a constant of the program; its name tells it from others.
    package static func == (a: BackendKind, b: BackendKind) -> Bool { a.name == b.name }
}
