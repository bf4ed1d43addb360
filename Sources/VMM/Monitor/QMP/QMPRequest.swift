/// What a client of QMP asks for: a command, its arguments, and what marks the answer.
struct QMPRequest {
    var command = ""
    var arguments: [JSONValue.Member] = []
    /// Any value, which the answer has as well.
    var id: JSONValue?

    /// Reads what can be read: an answer to what is wrong has the id as well.
    init(_ value: JSONValue) throws(MonitorError) {
        guard let members = value.members else {
            throw MonitorError("QMP input must be a JSON object")
        }
        for member in members {
            switch member.name {
            case "execute":
                guard let name = member.value.string else {
                    throw MonitorError("QMP input member 'execute' must be a string")
                }
                command = name
            case "arguments":
                guard let given = member.value.members else {
                    throw MonitorError("QMP input member 'arguments' must be an object")
                }
                arguments = given
            case "id": id = member.value
            default:
                throw MonitorError("QMP input member '\(member.name)' is unexpected")
            }
        }
        guard value["execute"] != nil else {
            throw MonitorError("QMP input lacks member 'execute'")
        }
    }
}
