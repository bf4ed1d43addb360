import CLinux

/// Which CPUs the calling thread may use; threads and processes that it starts inherit them.
enum Processors {
    static var allowed: [Int] {
        get {
            let mask = clinux_allowed_cpus()
            return (0..<64).filter { mask >> $0 & 1 != 0 }
        }
        set { _ = clinux_allow_cpus(newValue.reduce(0) { $0 | 1 << $1 }) }
    }
}
