import TestSupport

/// The results for programs: one object.
struct JSONReport {
    let facts: Facts
    let results: Results
    let seconds: Double

    var text: String {
        let cases = results.all.map { tested, verdict in
            var fields = [
                ("message", tested.message), ("variant", tested.variant),
                ("step", tested.step.name), ("family", tested.family.rawValue),
                ("verdict", verdict.name),
            ]
            if case .failed(let reason) = verdict { fields.append(("reason", reason)) }
            return "    {"
                + fields.map { "\(Self.quote($0)): \(Self.quote($1))" }.joined(separator: ", ")
                + "}"
        }
        return """
            {
              "features": "0x\(String(facts.features, radix: 16))",
              "protocol-features": "0x\(String(facts.protocolFeatures, radix: 16))",
              "queues": \(facts.queueCount),
              "seconds": \(seconds),
              "passed": \(results.count { $0 == .passed }),
              "failed": \(results.failureCount),
              "not-offered": \(results.count { $0 == .notOffered }),
              "cases": [
            \(cases.joined(separator: ",\n"))
              ]
            }
            """
    }

    private static func quote(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
