#include "packet/neighbours.h"

#include <gmock/gmock.h>

#include "packet/directory.h"
#include "packet/test_namespace.h"
#include "packet/watch.h"

namespace marchproxy::packet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

IpAddress ip(std::string_view text) {
    return *IpAddress::parse(text);
}

class NeighboursTest : public testing::Namespace {
  protected:
    void SetUp() override {
        Namespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        ASSERT_TRUE(testing::run("ip address add 10.9.0.1/24 dev near && ip route add 10.10.0.0/16 via 10.9.0.2"));
    }
    // `with`: a state, or what the entry has to show.
    static bool has_neighbour(const std::string& address, const std::string& with = "") {
        return testing::run("ip neigh show " + address + " dev near | grep -qi -- '" + with + "'");
    }
    static abi::neighbour_report report(const char* address, uint8_t last_of_mac, bool known) {
        return {.address = to_abi(ip(address)),
                .interface = ::if_nametoindex("near"),
                .mac = {2, 0, 0, 0, 0, last_of_mac},
                .known = known,
                .reserved = {},
                .tag = 0};
    }
    static bool set(const std::string& entry) { return testing::run("ip neigh replace dev near " + entry); }

    std::vector<std::string> lines;
    telemetry::Log log{LogLevel::info, LogFormat::text, [this](std::string_view line) { lines.emplace_back(line); }};
    Neighbours neighbours{log};
    const TimePoint now = Clock::now();
};

TEST_F(NeighboursTest, ResolveTheGatewayBeforeAnyPacketGoesThere) {
    EXPECT_EQ(neighbours.due(), TimePoint::max()) << "there is nothing to keep";
    neighbours.keep({ip("10.10.0.1"), ip("10.10.3.4"), ip("10.9.0.1")});
    EXPECT_LE(neighbours.due(), now);
    EXPECT_FALSE(has_neighbour("10.9.0.2"));
    neighbours.turn(now);
    EXPECT_TRUE(has_neighbour("10.9.0.2"));
    EXPECT_FALSE(has_neighbour("10.9.0.1")) << "that is this machine";
    EXPECT_FALSE(has_neighbour("10.10.0.1")) << "nobody answers for it on this network";
    EXPECT_THAT(neighbours.problems(), IsEmpty());
}

TEST_F(NeighboursTest, AskAgainBeforeAnswersGrowOldAndAtOnceWhenRoutesChange) {
    neighbours.keep({ip("10.10.0.1")});
    neighbours.turn(now);
    EXPECT_LE(neighbours.due(), now + std::chrono::seconds(2)) << "the link may still have been coming up";
    TimePoint later = now;
    for (int turn = 0; turn < 5 && neighbours.due() < later + std::chrono::seconds(5); ++turn) {
        later = neighbours.due();
        neighbours.turn(later);
    }
    EXPECT_GT(neighbours.due(), later + std::chrono::seconds(5));
    EXPECT_LE(neighbours.due(), later + std::chrono::seconds(30));
    ASSERT_TRUE(testing::run("ip route replace 10.10.0.0/16 via 10.9.0.3"));
    neighbours.turn(now);
    EXPECT_FALSE(has_neighbour("10.9.0.3")) << "it is not due yet";
    neighbours.routes_changed();
    neighbours.turn(now);
    EXPECT_TRUE(has_neighbour("10.9.0.3"));
    neighbours.keep({});
    EXPECT_EQ(neighbours.due(), TimePoint::max());
}

TEST_F(NeighboursTest, SayWhichEndpointHasNoRouteAndStopSayingIt) {
    neighbours.keep({ip("192.0.2.1"), ip("10.10.0.1")});
    neighbours.turn(now);
    EXPECT_THAT(neighbours.problems(), ElementsAre(HasSubstr("no route to 192.0.2.1")));
    EXPECT_TRUE(has_neighbour("10.9.0.2")) << "the others are resolved";
    ASSERT_TRUE(testing::run("ip route add 192.0.2.0/24 via 10.9.0.4"));
    neighbours.routes_changed();
    neighbours.turn(now);
    EXPECT_THAT(neighbours.problems(), IsEmpty());
    EXPECT_TRUE(has_neighbour("10.9.0.4"));
}

TEST_F(NeighboursTest, ResolveWhatTheProgramsAskFor) {
    neighbours.take(report("10.9.0.9", 0, false));
    EXPECT_TRUE(has_neighbour("10.9.0.9"));
    neighbours.take(report("192.0.2.9", 0, false));
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_THAT(lines[0], HasSubstr("no route to 192.0.2.9"));
}

TEST_F(NeighboursTest, LearnWhoAskedForAnAddress) {
    neighbours.take(report("10.9.0.5", 0x55, true));
    EXPECT_TRUE(has_neighbour("10.9.0.5", "02:00:00:00:00:55.*STALE"));
    neighbours.take(report("10.9.0.6", 0, false));  // one that the kernel is looking for
    neighbours.take(report("10.9.0.6", 0x66, true));
    EXPECT_TRUE(has_neighbour("10.9.0.6", "02:00:00:00:00:66"));
}

TEST_F(NeighboursTest, LearnInIpv6Too) {
    if (!testing::run("sysctl -qw net.ipv6.conf.near.disable_ipv6=0 && ip address add 2001:db8::1/64 dev near nodad"))
        GTEST_SKIP() << "no IPv6 here";
    neighbours.take(report("2001:db8::5", 0x55, true));
    EXPECT_TRUE(has_neighbour("2001:db8::5", "02:00:00:00:00:55.*STALE"));
}

// Whoever could put his own address into a valid entry by asking would have the traffic of another.
TEST_F(NeighboursTest, LetNobodyTakeOverAnEntry) {
    ASSERT_TRUE(set("10.9.0.5 lladdr 02:00:00:00:00:01 nud reachable"));
    ASSERT_TRUE(set("10.9.0.6 lladdr 02:00:00:00:00:01 nud stale"));
    ASSERT_TRUE(set("10.9.0.7 lladdr 02:00:00:00:00:01 nud permanent"));
    for (const char* address : {"10.9.0.5", "10.9.0.6", "10.9.0.7"}) {
        neighbours.take(report(address, 0x66, true));
        EXPECT_TRUE(has_neighbour(address, "02:00:00:00:00:01")) << address;
    }
    EXPECT_TRUE(has_neighbour("10.9.0.7", "PERMANENT"));
}

TEST_F(NeighboursTest, LeaveAnEntryThatAnAdministratorFixedFixed) {
    ASSERT_TRUE(set("10.9.0.7 lladdr 02:00:00:00:00:77 nud permanent"));
    neighbours.take(report("10.9.0.7", 0x77, true));
    EXPECT_TRUE(has_neighbour("10.9.0.7", "02:00:00:00:00:77.*PERMANENT"));
    neighbours.take(report("10.9.0.7", 0, false));
    EXPECT_TRUE(has_neighbour("10.9.0.7", "02:00:00:00:00:77.*PERMANENT"));
}

}  // namespace
}  // namespace marchproxy::packet
