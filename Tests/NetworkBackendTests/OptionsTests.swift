import Core
import Testing

@testable import NetworkBackend

@Suite struct OptionsTests {
    private func parse(_ text: String) throws -> NetworkOptions {
        try NetworkOptions(NetworkOptions.schema.parse(text))
    }

    @Test("up-links")
    func links() throws {
        #expect(try parse("none").link == .none)
        #expect(try parse("stream,path=/a/b").link == .stream(path: "/a/b", role: .client))
        #expect(try parse("stream,path=b,server=on").link == .stream(path: "b", role: .server))
        #expect(
            try parse("type=dgram,local=a,remote=b").link == .datagram(local: "a", remote: "b"))
        #expect(try parse("connected,fd=7").link == .inherited(7))
        #expect(try parse("tap,ifname=tap0").link == .tap(name: "tap0", queues: 1))
        #expect(try parse("tap,ifname=tap0,queues=4").link == .tap(name: "tap0", queues: 4))
        #expect(try parse("tap,fds=[7,8]").link == .inheritedTap([7, 8], hasHeader: true))
        let bare = try parse("tap,fds=[7],vnet-header=off").link
        #expect(bare == .inheritedTap([7], hasHeader: false))
    }

    @Test("up-links of a switch")
    func upLinks() throws {
        func parse(_ text: String) throws -> NetworkOptions {
            try NetworkOptions(upLink: NetworkOptions.upLinkSchema.parse(text))
        }
        #expect(try parse("stream,path=/a/b").link == .stream(path: "/a/b", role: .client))
        #expect(try parse("tap,ifname=tap0").link == .tap(name: "tap0", queues: 1))
        #expect(try parse("connected,fd=7").link == .inherited(7))
        #expect(throws: OptionError("--uplink: type=tap needs ifname")) { try parse("tap") }
        #expect(throws: OptionError("--uplink: path needs type=stream")) {
            try parse("tap,ifname=tap0,path=a")
        }
        for text in ["user", "dgram", "none", "tap,queues=2"] {
            #expect(throws: OptionError.self) { try parse(text) }
        }
    }

    @Test("what the driver sees")
    func driver() throws {
        let options = try parse("none,mac=52:54:00:AB:cd:ef,mtu=9000,queue-size=64")
        #expect(options.mac?.bytes == [0x52, 0x54, 0, 0xab, 0xcd, 0xef])
        #expect(options.mac?.description == "52:54:00:ab:cd:ef")
        #expect(options.mtu == 9000)
        #expect(options.maximumQueueSize == 64)
    }

    @Test("how long a thread looks for frames")
    func polling() throws {
        #expect(try parse("none").pollMicroseconds == IdlePolling.usualMicroseconds)
        #expect(try parse("none,poll-us=0").pollMicroseconds == 0)
        #expect(try parse("none,poll-us=always").pollMicroseconds == IdlePolling.forEver)
        for text in ["never", "1001", "-1"] {
            #expect(throws: OptionError.self) { try parse("none,poll-us=\(text)") }
        }
    }

    @Test(
        "what makes no sense is refused",
        arguments: [
            "", "wire", "stream", "stream,path=", "dgram,local=a", "dgram,remote=a", "connected",
            "none,path=a", "dgram,local=a,remote=b,server=on", "none,mac=52:54:00:12:34",
            "none,mac=01:00:5e:00:00:01", "none,mac=00:00:00:00:00:00", "none,mac=5:4:0:1:2:3",
            "none,mac=52:54:00:12:34:5g", "none,mac=+2:54:00:12:34:56", "none,mtu=67",
            "none,mtu=65522", "tap", "tap,ifname=a,fds=[3]", "tap,fds=[3,4],queues=2", "tap,fds=[]",
            "none,queues=2", "stream,path=a,queues=2", "tap,ifname=a,queues=17",
            "none,queue-size=1", "tap,ifname=a,vnet-header=on", "none,vnet-header=off",
        ])
    func refused(_ text: String) {
        #expect(throws: OptionError.self) { try parse(text) }
    }
}
