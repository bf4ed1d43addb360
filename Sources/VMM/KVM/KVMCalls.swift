internal import CLinux
internal import Core

/// Calls KVM. A negative result is `-errno`.
@inline(__always)
func kvm(_ fd: Int32, _ request: UInt, _ argument: UInt = 0) -> Int32 {
    clinux_ioctl(fd, request, argument)
}

/// Gives KVM a structure.
func kvmSet<Value: BitwiseCopyable>(
    _ call: StaticString, _ fd: Int32, _ request: UInt, _ value: Value
) throws(SystemError) {
    var value = value
    // SAFETY: the request reads a `Value`, which lives for the call.
    let result = unsafe withUnsafeMutablePointer(to: &value) {
        clinux_ioctl(fd, request, UInt(bitPattern: $0))
    }
    _ = try checking(call, result)
}

/// Lets KVM fill a structure.
func kvmGet<Value: BitwiseCopyable>(
    _ call: StaticString, _ fd: Int32, _ request: UInt, _ value: inout Value
) throws(SystemError) {
    // SAFETY: the request writes a `Value`, which lives for the call.
    let result = unsafe withUnsafeMutablePointer(to: &value) {
        clinux_ioctl(fd, request, UInt(bitPattern: $0))
    }
    _ = try checking(call, result)
}

/// The same with bytes, for images whose size the host decides.
func kvmBytes(
    _ call: StaticString, _ fd: Int32, _ request: UInt, _ bytes: inout [UInt8]
) throws(SystemError) {
    // SAFETY: the caller made the array as large as the request's structure.
    let result = unsafe bytes.withUnsafeMutableBytes {
        clinux_ioctl(fd, request, UInt(bitPattern: $0.baseAddress))
    }
    _ = try checking(call, result)
}
