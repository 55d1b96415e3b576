// In a network namespace of the test's own; needs root.
#include "gateways/gateways.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "model/descriptor.h"

namespace marchproxy::gateways {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string output_of(const std::string& command) {
    std::string text;
    FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    std::array<char, 4096> buffer;
    while (const size_t size = fread(buffer.data(), 1, buffer.size(), pipe))
        text.append(buffer.data(), size);
    pclose(pipe);
    return text;
}

IpAddress address(const char* text) {
    return *IpAddress::parse(text);
}

class GatewaysTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (geteuid() != 0) GTEST_SKIP() << "needs root";
        outside_ = Descriptor(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
        if (unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "no network namespaces here: " << strerror(errno);
        inside_ = true;
        ASSERT_EQ(
            output_of("ip link set lo up; for i in 1 2; do ip link add a$i type veth peer name b$i && ip link set "
                      "a$i up && ip link set b$i up && ip address add 10.9.$i.1/24 dev a$i && ip -6 address add "
                      "fd09:$i::1/64 dev a$i nodad; done; ip route add default via 10.9.1.254"),
            "");
    }
    void TearDown() override {
        if (!inside_) return;
        ASSERT_EQ(setns(outside_.get(), CLONE_NEWNET), 0);
    }
    static std::string way_to(const char* destination, uint32_t mark) {
        return output_of("ip route get " + std::string(destination) + " mark " + std::to_string(mark));
    }
    Gateways gateways;

  private:
    Descriptor outside_;
    bool inside_ = false;
};

TEST_F(GatewaysTest, WhatCarriesTheMarkGoesThere) {
    const auto marks = gateways.follow({address("10.9.1.2"), address("10.9.2.2"), address("fd09:2::2")});
    ASSERT_EQ(marks.size(), 3u);
    EXPECT_THAT(gateways.notes(), IsEmpty());
    EXPECT_THAT(way_to("192.0.2.1", marks.at(address("10.9.1.2"))), HasSubstr("via 10.9.1.2 dev a1"));
    EXPECT_THAT(way_to("192.0.2.1", marks.at(address("10.9.2.2"))), HasSubstr("via 10.9.2.2 dev a2"));
    EXPECT_THAT(way_to("10.9.1.77", marks.at(address("10.9.2.2"))), HasSubstr("via 10.9.2.2 dev a2"))
        << "whatever the routes say";
    EXPECT_THAT(way_to("2001:db8::1", marks.at(address("fd09:2::2"))), HasSubstr("via fd09:2::2 dev a2"));
    EXPECT_THAT(way_to("192.0.2.1", 0), HasSubstr("via 10.9.1.254")) << "others go as ever";
    gateways.end();
    EXPECT_THAT(output_of("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"),
                Not(HasSubstr("77")));
}

TEST_F(GatewaysTest, NothingLeavesAnotherWayWhileTheLinkIsDown) {
    const IpAddress gateway = address("10.9.2.2");
    const uint32_t mark = gateways.follow({gateway}).at(gateway);
    output_of("ip link set a2 down");
    EXPECT_THAT(way_to("192.0.2.1", mark), HasSubstr("No route to host"));
    gateways.turn(Clock::now() + Gateways::interval);
    EXPECT_THAT(gateways.notes(), ElementsAre(HasSubstr("gateway 10.9.2.2 cannot be reached at the moment")));
    EXPECT_THAT(way_to("192.0.2.1", mark), HasSubstr("No route to host"));
    output_of("ip link set a2 up");
    gateways.turn(Clock::now() + 2 * Gateways::interval);
    EXPECT_THAT(gateways.notes(), IsEmpty());
    EXPECT_THAT(way_to("192.0.2.1", mark), HasSubstr("via 10.9.2.2 dev a2"));
}

TEST_F(GatewaysTest, WhatOthersTookAwayComesBack) {
    const IpAddress gateway = address("10.9.2.2");
    const uint32_t mark = gateways.follow({gateway}).at(gateway);
    output_of("ip rule flush; ip rule add lookup main pref 32766");
    EXPECT_THAT(way_to("192.0.2.1", mark), HasSubstr("via 10.9.1.254"));
    gateways.turn(Clock::now() + Gateways::interval);
    EXPECT_THAT(way_to("192.0.2.1", mark), HasSubstr("via 10.9.2.2 dev a2"));
}

TEST_F(GatewaysTest, AGatewayThatIsNoNeighbourIsUnreachable) {
    const IpAddress gateway = address("172.31.0.1");
    const auto marks = gateways.follow({gateway});
    ASSERT_TRUE(marks.contains(gateway)) << "so that nothing leaves another way";
    EXPECT_THAT(gateways.notes(), ElementsAre(HasSubstr("gateway 172.31.0.1 cannot be reached at the moment")));
    EXPECT_THAT(way_to("192.0.2.1", marks.at(gateway)), HasSubstr("No route to host"));
}

TEST_F(GatewaysTest, ProcessesShareAndTakeOver) {
    const IpAddress first = address("10.9.1.2"), second = address("10.9.2.2");
    Gateways other;
    const auto marks = gateways.follow({first, second});
    EXPECT_EQ(other.follow({second}), (std::map<IpAddress, uint32_t>{{second, marks.at(second)}}));
    EXPECT_EQ(output_of("ip rule | grep -c 0x4d50"), "2\n");
    EXPECT_EQ(*remove_all(), 2u);
    EXPECT_EQ(output_of("ip rule | grep -c 0x4d50"), "0\n");
    EXPECT_EQ(*remove_all(), 0u);
}

TEST_F(GatewaysTest, ThereAreSoManyAndNoMore) {
    std::set<IpAddress> wanted;
    for (uint32_t i = 1; i <= 256; ++i)
        wanted.insert(IpAddress::v4(0xac1f0000 + i));
    const auto marks = gateways.follow(wanted);
    EXPECT_EQ(marks.size(), 255u);
    EXPECT_EQ(gateways.notes().size(), 256u);
    EXPECT_THAT(gateways.notes().back(), HasSubstr("there are 255 already"));
    gateways.end();
    EXPECT_EQ(output_of("ip rule | grep -c 0x4d50"), "0\n");
}

}  // namespace
}  // namespace marchproxy::gateways
