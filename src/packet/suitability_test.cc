#include "packet/suitability.h"

#include <gmock/gmock.h>

#include "packet/plan_cases.h"

namespace marchproxy::packet {
namespace {

using ::testing::HasSubstr;

struct Row {
    const char* name;
    const char* reason;  // part of it; empty: none
    void (*change)(Service&, World&);
};

const Row rows[] = {
    {"as it is", "", [](Service&, World&) {}},
    {"disabled", "packet.enabled", [](Service&, World& w) { w.snapshot.settings.packet.enabled = false; }},
    {"no interface", "packet.interfaces", [](Service&, World& w) { w.snapshot.settings.packet.interfaces.clear(); }},
    {"no rights", "CAP_BPF", [](Service&, World& w) { w.around.unavailable = "it takes CAP_BPF"; }},
    {"TLS", "tls.mode: terminate", [](Service& s, World&) { s.tls = TlsMode::terminate; }},
    {"PROXY sent", "proxy_protocol: v2", [](Service& s, World&) { s.proxy_protocol = ProxyProtocol::v2; }},
    {"PROXY taken", "accept_proxy_protocol", [](Service& s, World&) { s.accept_proxy_protocol = true; }},
    {"retries", "unanswered", [](Service& s, World&) { s.routing.retry = Retry::unanswered; }},
    {"every address", "as in 192.0.2.10:80", [](Service& s, World&) { s.listen = at("0.0.0.0:80"); }},
    {"every IPv6 address", "as in [2001:db8::10]:80", [](Service& s, World&) { s.listen = at("[::]:80"); }},
    {"loopback", "interface", [](Service& s, World&) { s.listen = at("127.0.0.1:80"); }},
    {"own address", "", [](Service& s, World&) { s.listen = at("10.0.0.2:80"); }},
    {"Maglev", "", [](Service& s, World&) { s.routing.policy = Policy::maglev; }},
    {"least connections", "least_connections",
     [](Service& s, World&) { s.routing.policy = Policy::least_connections; }},
    {"by latency", "", [](Service& s, World&) { s.routing.policy = Policy::latency; }},
    {"by source", "", [](Service& s, World&) { s.limits.connections_per_source = UINT32_MAX; }},
    {"by source, too many", "per_source is beyond",
     [](Service& s, World&) { s.limits.connections_per_source = uint64_t{UINT32_MAX} + 1; }},
    {"every limit", "",
     [](Service& s, World&) {
         s.limits = {.connections = 1, .connections_per_source = 1, .new_connections = Frequency{1}};
         s.limits.new_connections_per_source = s.limits.packets = s.limits.packets_per_source = Frequency{1};
         s.limits.backlog = 0;
     }},
    {"a long time", "6h", [](Service& s, World&) { s.idle_timeout = std::chrono::hours(6); }},
    {"a long time for all", "5h",
     [](Service&, World& w) { w.snapshot.settings.stream.idle_timeout = std::chrono::hours(5); }},
    {"rates that rest", "", [](Service& s, World&) { s.qos.rate.up = Rate{1'000'000}; }},
    {"marks", "", [](Service&, World& w) { w.snapshot.settings.qos.enabled = true; }},
    {"a rate of datagrams", "",
     [](Service& s, World& w) {
         w.snapshot.settings.qos.enabled = true;
         s.protocol = Protocol::udp;
         s.qos.rate.up = Rate{1'000'000};
     }},
    {"turns on a link", "",
     [](Service&, World& w) {
         w.snapshot.settings.qos.enabled = true;
         w.snapshot.settings.qos.link_rate = Rate{1'000'000};
     }},
    {"turns that cannot be had", "eth0 has no queues",
     [](Service& s, World& w) {
         w.snapshot.settings.qos.enabled = true;
         w.around.no_queues = "eth0 has no queues";
         s.qos.rate.down = Rate{1'000'000};
     }},
    {"turns that nobody needs", "",
     [](Service& s, World& w) {
         w.snapshot.settings.qos.enabled = true;
         w.around.no_queues = "eth0 has no queues";
         s.protocol = Protocol::udp;
         s.qos.rate.down = Rate{1'000'000};
     }},
    {"turns at TC", "packet.mode: tc",
     [](Service& s, World& w) {
         w.snapshot.settings.qos.enabled = true;
         w.snapshot.settings.packet.mode = PacketMode::tc;
         s.qos.rate.down = Rate{1'000'000};
     }},
    {"dsr", "",
     [](Service& s, World&) {
         s.forwarding = Forwarding::dsr;
         s.encapsulation = Encapsulation::ipip;
     }},
    {"other family", "IPv6 and the service IPv4",
     [](Service& s, World&) { s.endpoints[0].address.host = "2001:db8::1"; }},
    {"a name not resolved", "", [](Service& s, World&) { s.endpoints[0].address.host = "db.example"; }},
    {"a name", "",
     [](Service& s, World& w) {
         s.endpoints[0].address.host = "db.example";
         w.around.resolution[s.endpoints[0].address] = {at("10.0.1.1:80"), at("[2001:db8::1]:80")};
     }},
    {"a name of the other family", "db.example",
     [](Service& s, World& w) {
         s.endpoints[0].address.host = "db.example";
         w.around.resolution[s.endpoints[0].address] = {at("[2001:db8::1]:80")};
     }},
    {"endpoint here", "on this machine", [](Service& s, World&) { s.endpoints[0].address.host = "127.0.0.1"; }},
    {"endpoint at ours", "on this machine", [](Service& s, World&) { s.endpoints[0].address.host = "10.0.0.2"; }},
    {"no source", "no IPv4 address", [](Service&, World& w) { w.around.sources.general = {ip("2001:db8::2")}; }},
    {"no source for dnat", "",
     [](Service& s, World& w) {
         s.forwarding = Forwarding::dnat;
         w.around.sources.general.clear();
     }},
};

TEST(Suitability, OfOneService) {
    for (const Row& row : rows) {
        World world;
        Service& web = world.add("web", "203.0.113.1:80", {"10.0.1.1:80"});
        row.change(web, world);
        const std::string reason = reason_against(web, world.around).value_or("");
        if (*row.reason)
            EXPECT_THAT(reason, HasSubstr(row.reason)) << row.name;
        else
            EXPECT_EQ(reason, "") << row.name;
    }
}

TEST(Suitability, AutoFallsToSocketsWithTheReasonAndPacketFails) {
    World world;
    world.add("a", "203.0.113.1:80", {"10.0.1.1:80"});
    world.add("b", "203.0.113.1:81", {"10.0.1.1:80"}).tls = TlsMode::passthrough;
    world.add("c", "203.0.113.1:82", {"10.0.1.1:80"}).tls = TlsMode::passthrough;
    world.snapshot.services[2].plane = PlaneChoice::packet;
    world.add("d", "203.0.113.1:83", {"10.0.1.1:80"}).plane = PlaneChoice::stream;
    const Assignments made = assign(world.snapshot, world.around);
    EXPECT_TRUE(made.services[0].packet);
    EXPECT_FALSE(made.services[1].packet);
    EXPECT_EQ(made.services[1].reason, "tls.mode: passthrough needs sockets");
    EXPECT_FALSE(made.services[3].packet);
    EXPECT_EQ(made.services[3].reason, "the configuration asks for it");
    EXPECT_THAT(made.errors, ::testing::ElementsAre(
                                 "service c: plane: packet is not possible: tls.mode: passthrough needs sockets"));
}

// What only the packet plane can hold is not left unheld.
TEST(Suitability, AutoFailsWhereThePacketPlaneAloneHoldsALimit) {
    World world;
    for (const char* listen : {"203.0.113.1:80", "203.0.113.1:81", "203.0.113.1:82"})
        world.add("web", listen, {"10.0.1.1:80"}).tls = TlsMode::passthrough;
    world.snapshot.services[0].limits.packets = Frequency{5};
    world.snapshot.services[1].limits.packets_per_source = Frequency{5};
    world.snapshot.services[2].limits.new_connections_per_source = Frequency{5};
    const Assignments made = assign(world.snapshot, world.around);
    ASSERT_EQ(made.errors.size(), 2U);
    EXPECT_THAT(made.errors[0], HasSubstr("limits.packets needs the packet plane, which is not possible: tls.mode"));
    EXPECT_THAT(made.errors[1], HasSubstr("limits.packets_per_source needs the packet plane"));

    for (Service& service : world.snapshot.services)
        service.tls = TlsMode::none;
    EXPECT_TRUE(assign(world.snapshot, world.around).errors.empty());
}

TEST(Suitability, WhileItIsOnNoInterfaceOnlyThoseThatNeedItWait) {
    World world;
    world.around.unattached = "the packet plane is on no interface";
    world.add("any", "203.0.113.1:80", {"10.0.1.1:80"});
    world.add("asks", "203.0.113.1:81", {"10.0.1.1:80"}).plane = PlaneChoice::packet;
    world.add("needs", "203.0.113.1:82", {"10.0.1.1:80"}).limits.packets = Frequency{5};
    const Assignments made = assign(world.snapshot, world.around);
    EXPECT_FALSE(made.services[0].packet);
    EXPECT_EQ(made.services[0].reason, "the packet plane is on no interface");
    EXPECT_TRUE(made.services[1].packet);
    EXPECT_TRUE(made.services[2].packet);
    EXPECT_TRUE(made.errors.empty());
}

TEST(Suitability, TwoWithDnatCannotShareAnEndpoint) {
    World world;
    world.add("a", "203.0.113.1:80", {"10.0.1.1:80"}).forwarding = Forwarding::dnat;
    world.add("b", "203.0.113.1:81", {"10.0.1.1:80"}).forwarding = Forwarding::dnat;
    world.add("nat", "203.0.113.1:82", {"10.0.1.1:80"});
    world.add("udp", "203.0.113.1:81", {"10.0.1.1:80"}).forwarding = Forwarding::dnat;
    world.snapshot.services[3].protocol = Protocol::udp;
    Assignments made = assign(world.snapshot, world.around);
    EXPECT_TRUE(made.services[0].packet && made.services[2].packet && made.services[3].packet);
    EXPECT_FALSE(made.services[1].packet);
    EXPECT_THAT(made.services[1].reason, HasSubstr("also one of service a"));

    world.snapshot.services[1].plane = PlaneChoice::packet;  // who asks for it goes first
    made = assign(world.snapshot, world.around);
    EXPECT_TRUE(made.services[1].packet);
    EXPECT_FALSE(made.services[0].packet);
    EXPECT_TRUE(made.errors.empty());
}

TEST(Suitability, OneServiceIsNotTheEndpointOfAnother) {
    World world;
    world.add("a", "203.0.113.1:80", {"203.0.113.2:80"});
    world.add("b", "203.0.113.2:80", {"10.0.1.1:80"});
    EXPECT_THAT(assign(world.snapshot, world.around).services[1].reason, HasSubstr("an endpoint of service a"));
    std::swap(world.snapshot.services[0], world.snapshot.services[1]);
    EXPECT_THAT(assign(world.snapshot, world.around).services[1].reason, HasSubstr("203.0.113.2:80 is service b"));
}

TEST(Suitability, AnEndpointIsSpokenToFromOneSetOfAddresses) {
    World world;
    world.around.sources.by_path["fast"] = {ip("10.0.0.7")};
    world.add("a", "203.0.113.1:80", {"10.0.1.1:80"});
    world.add("b", "203.0.113.1:81", {"10.0.1.1:80"}).endpoints[0].path = "fast";
    EXPECT_THAT(assign(world.snapshot, world.around).services[1].reason, HasSubstr("another source address"));
}

}  // namespace
}  // namespace marchproxy::packet
