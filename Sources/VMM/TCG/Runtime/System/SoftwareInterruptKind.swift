/// Which instruction asks for a software interrupt; they differ in their privilege checks and in
/// EXT (SDM volume 3, section 6.12.1.2).
enum SoftwareInterruptKind: UInt8 {
    case int
    case int3
    case into
    case int1
}
