import CLinux
import CSeccomp
import Core
import Glibc
import Testing

@Suite struct SystemCallNameTests {
    @Test("the names are those that libseccomp knows")
    func names() {
        for number in Int32(0)..<463 {
            guard let known = unsafe seccomp_syscall_resolve_num_arch(seccomp_arch_native(), number)
            else { continue }
            let expected = unsafe String(cString: known)
            unsafe free(known)
            #expect(name(number) == expected, "number \(number)")
        }
    }

    @Test("a number without a name has none", arguments: [-1, 335, 423, 463, 1 << 30])
    func unknown(number: Int32) { #expect(name(number) == nil) }

    private func name(_ number: Int32) -> String? {
        unsafe clinux_system_call_name(number).map { unsafe String(cString: $0) }
    }
}
