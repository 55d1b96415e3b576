// Where packets go: by the machine's own routes, and what becomes of them where no neighbour or no route is known.
#include <arpa/inet.h>
#include <bpf/libbpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <fstream>

#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Ways : public Plane {
  protected:
    static void command(const char* text) { ASSERT_EQ(std::system(text), 0) << text; }
    static int setting(const std::string& path) {
        int value = -1;
        std::ifstream("/proc/sys/net/" + path) >> value;
        return value;
    }
    // A client begins a flow, and its endpoint answers.
    static Frame request(bool v6, const char* from) {
        return (v6 ? eth().ipv6(from, "2001:db8:a::1") : eth().ipv4(from, "10.0.0.1")).udp(5000, 80);
    }
    static Frame reply(bool v6) {
        return (v6 ? eth().ipv6("2001:db8:e::1", source6) : eth().ipv4("10.1.0.1", source)).udp(8080, 5000);
    }
    static Frame replied(bool v6, const char* to) {
        return (v6 ? eth().ipv6("2001:db8:a::1", to) : eth().ipv4("10.0.0.1", to)).udp(80, 5000).ttl(63);
    }
    void expect_asked_for(const char* row, const char* neighbour, const char* interface) {
        pollfd waiting{.fd = programs->neighbours_descriptor(), .events = POLLIN, .revents = 0};
        EXPECT_EQ(::poll(&waiting, 1, 0), 1) << row;
        const auto asked = take_neighbours();
        EXPECT_EQ(::poll(&waiting, 1, 0), 0) << row;
        ASSERT_EQ(asked.size(), 1u) << row;
        EXPECT_EQ(to_string(from_abi(asked[0].address)), neighbour) << row;
        EXPECT_EQ(asked[0].interface, ::if_nametoindex(interface)) << row;
        EXPECT_EQ(asked[0].known, 0) << row;
    }
};
INSTANTIATE_HOOKS(Ways);

// Routes are asked as from the machine itself: it need not forward for others.
TEST_P(Ways, TheMachineNeedsNotForwardForOthers) {
    for (const std::string ip : {"ipv4/conf/", "ipv6/conf/"})
        for (const std::string name : {"all", "front", "back"})
            ASSERT_EQ(setting(ip + name + "/forwarding"), 0) << ip << name;
    for (const bool v6 : {false, true}) {
        const char* from = v6 ? client6 : client;
        goes_up("there", request(v6, from),
                (v6 ? eth().ipv6(source6, "2001:db8:e::1") : eth().ipv4(source, "10.1.0.1")).ttl(63).udp(5000, 8080));
        goes_down("back", reply(v6), replied(v6, from));
    }
    command("echo 0 >/proc/sys/net/ipv4/conf/lo/forwarding; echo 0 >/proc/sys/net/ipv6/conf/lo/forwarding");
    forget_next_hops();
    drops("the kernel does not answer", request(false, client), nat_udp, abi::packet_verdict_no_route);
    drops("the kernel does not answer, IPv6", request(true, client6), nat_udp6, abi::packet_verdict_no_route);
}

// Clients that differ in their last bits alone do not take the cache's places from each other.
TEST_P(Ways, NeighbouringClientsAreRememberedSideBySide) {
    for (const bool v6 : {false, true}) {
        forget_next_hops();
        constexpr uint16_t clients = 64;
        for (uint16_t i = 1; i <= clients; ++i) {
            const std::string from = (v6 ? "2001:db8:c::" : "11.0.0.") + std::to_string(i);
            const auto port = static_cast<uint16_t>(5000 + i);
            run_alone((v6 ? eth().ipv6(from, "2001:db8:a::1") : eth().ipv4(from, "10.0.0.1")).udp(port, 80));
            run_alone((v6 ? eth().ipv6("2001:db8:e::1", source6) : eth().ipv4("10.1.0.1", source)).udp(8080, port),
                      "back");
        }
        int places = 0;
        for (uint32_t slot = small.endpoints; slot < small.endpoints + abi::client_hops; ++slot)
            if (hop_of(slot).interface) ++places;
        EXPECT_GT(places, clients * 8 / 10) << v6;
    }
}

TEST_P(Ways, TheWaysMtuIsKnown) {
    run_alone(request(false, client));
    run_alone(request(true, client6));
    EXPECT_EQ(hop_of(nat_udp).mtu, 1500u);
    EXPECT_EQ(hop_of(nat_udp6).mtu, 1500u);
    command("ip link set back mtu 1400; ip route replace 10.1.0.0/16 via 198.51.100.1 mtu lock 1300");
    programs->routes_changed();
    run_alone(request(false, client));
    run_alone(request(true, client6));
    EXPECT_EQ(hop_of(nat_udp).mtu, 1300u);
    EXPECT_EQ(hop_of(nat_udp6).mtu, 1400u);
}

// XDP drops and asks; at TC the kernel resolves it and holds the packet.
TEST_P(Ways, AnUnresolvedNeighbourIsAskedFor) {
    command(
        "ip route add 11.0.77.0/24 dev front; ip -6 route add 2001:db8:c:77::/64 dev front;"
        "ip route add 11.0.78.0/24 via 192.0.2.78; ip -6 route add 2001:db8:c:78::/64 via 2001:db8:f::78;"
        "ip route add 11.0.79.0/24 via inet6 2001:db8:f::79 dev front");
    struct Row {
        const char *name, *client, *neighbour;
    };
    const Row rows[] = {{"on the link", "11.0.77.1", "11.0.77.1"},
                        {"on the link, IPv6", "2001:db8:c:77::1", "2001:db8:c:77::1"},
                        {"a gateway", "11.0.78.1", "192.0.2.78"},
                        {"a gateway, IPv6", "2001:db8:c:78::1", "2001:db8:f::78"},
                        {"a gateway with an IPv6 address", "11.0.79.1", "2001:db8:f::79"}};
    for (const Row& row : rows) {
        const bool v6 = std::strchr(row.client, ':') != nullptr;
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
        forget_next_hops();
        run_alone(request(v6, row.client));
        EXPECT_TRUE(take_neighbours().empty()) << row.name;
        if (GetParam() == Hook::xdp) {
            drops(row.name, reply(v6), v6 ? nat_udp6 : nat_udp, abi::packet_verdict_no_neighbour, "back");
        } else {
            const Outcome outcome = run(reply(v6), "back");
            EXPECT_STREQ(name_of(outcome.went), "sent") << row.name;
            EXPECT_EQ(hex(outcome.frame), hex(replied(v6, row.client))) << row.name;
            EXPECT_TRUE(outcome.refusals.empty()) << row.name;
        }
        expect_asked_for(row.name, row.neighbour, "front");
    }
}

TEST_P(Ways, AFloodAsksOnce) {
    command("ip route add 11.0.77.0/24 dev front");
    run_alone(request(false, "11.0.77.1"));
    for (int i = 0; i < 200; ++i)
        run_alone(reply(false), "back");
    EXPECT_LE(take_neighbours().size(), 2u);  // the second may turn meanwhile
    ::usleep(1'100'000);
    run_alone(reply(false), "back");
    expect_asked_for("a second later", "11.0.77.1", "front");
    command("ip neighbour add 11.0.77.1 lladdr 02:00:00:00:0f:02 nud permanent dev front");
    goes_down("at once, when it is known", reply(false), replied(false, "11.0.77.1"));
}

TEST_P(Ways, NoRouteByName) {
    command(
        "ip route add blackhole 11.0.66.0/24; ip route add unreachable 11.0.67.0/24;"
        "ip route add prohibit 11.0.68.0/24; ip -6 route add unreachable 2001:db8:c:66::/64");
    for (const char* from : {"11.0.66.1", "11.0.67.1", "11.0.68.1", "12.0.0.1", "192.0.2.254", "2001:db8:c:66::1",
                             "2001:db8:9::1", "2001:db8:f::254"}) {
        const bool v6 = std::strchr(from, ':') != nullptr;
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
        run_alone(request(v6, from));
        drops(from, reply(v6), v6 ? nat_udp6 : nat_udp, abi::packet_verdict_no_route, "back");
    }
    EXPECT_TRUE(take_neighbours().empty());
}

// --- with the kernel that resolves ---------------------------------------------------------------------------------

Descriptor socket_on(const char* interface) {
    Descriptor made(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(interface));
    EXPECT_EQ(::bind(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return made;
}

// The next frame of this EtherType that has the bytes `what` at `at`; empty after two seconds.
Bytes next_frame(const Descriptor& socket, unsigned type, size_t at, const Bytes& what) {
    for (int frames = 0; frames < 100; ++frames) {
        pollfd waiting{.fd = socket.get(), .events = POLLIN, .revents = 0};
        if (::poll(&waiting, 1, 2000) != 1) return {};
        Bytes frame(2000);
        frame.resize(static_cast<size_t>(std::max<ssize_t>(::recv(socket.get(), frame.data(), frame.size(), 0), 0)));
        if (frame.size() >= at + what.size() && get16(frame, 12) == type &&
            std::equal(what.begin(), what.end(), frame.begin() + static_cast<long>(at)))
            return frame;
    }
    return {};
}

TEST_P(Ways, AtTcTheKernelHoldsThePacketUntilTheNeighbourIsKnown) {
    if (GetParam() != Hook::tc) return;
    command("ip route replace 10.1.0.0/16 dev back");
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(::if_nametoindex("front")),
                .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, program, .prog_fd = programs->tc());
    ASSERT_EQ(bpf_tc_hook_create(&hook), 0);
    ASSERT_EQ(bpf_tc_attach(&hook, &program), 0);
    const Descriptor clients = socket_on("front_peer"), endpoints = socket_on("back_peer");

    const Bytes frame = request(false, client).from(front_gateway, front_mac);
    ASSERT_EQ(::send(clients.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()));
    Bytes question = next_frame(endpoints, 0x0806, 38, {10, 1, 0, 1});
    ASSERT_GE(question.size(), 42u) << "the kernel asks for the endpoint";
    const Mac endpoint{2, 0, 0, 0, 0, 0xee};
    Bytes answer(question.begin() + 6, question.begin() + 12);
    answer.insert(answer.end(), endpoint.begin(), endpoint.end());
    answer.insert(answer.end(), {8, 6, 0, 1, 8, 0, 6, 4, 0, 2});
    answer.insert(answer.end(), endpoint.begin(), endpoint.end());
    answer.insert(answer.end(), {10, 1, 0, 1});
    answer.insert(answer.end(), question.begin() + 22, question.begin() + 32);
    ASSERT_EQ(::send(endpoints.get(), answer.data(), answer.size(), 0), static_cast<ssize_t>(answer.size()));
    const Bytes sent = next_frame(endpoints, 0x0800, 30, {10, 1, 0, 1});
    EXPECT_EQ(hex(sent), hex(eth().from(back_mac, endpoint).ipv4(source, "10.1.0.1").ttl(63).udp(5000, 8080).bytes()));
    expect_asked_for("user space too", "10.1.0.1", "back");
}

}  // namespace
}  // namespace marchproxy::packet
