import Foundation

/// Prints a line at once, even into a pipe.
package func show(_ line: String) {
    FileHandle.standardOutput.write(Data("\(line)\n".utf8))
}
