/// A guest-physical address.
public struct GuestAddress: Hashable, Comparable, Sendable, BitwiseCopyable,
    CustomStringConvertible
{
    public let rawValue: UInt64

    @inlinable
    public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    @inlinable
    public static func < (a: GuestAddress, b: GuestAddress) -> Bool { a.rawValue < b.rawValue }

    /// The address `offset` bytes further, or `nil` past the end of the address space.
    @inlinable
    public func advanced(by offset: UInt64) -> GuestAddress? {
        let (sum, overflow) = rawValue.addingReportingOverflow(offset)
        return overflow ? nil : GuestAddress(sum)
    }

    /// For example `0xfee00000`.
    public var description: String { "0x" + String(rawValue, radix: 16) }
}
