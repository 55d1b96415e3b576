#include "packet/machine.h"

#include <gmock/gmock.h>

#include <fstream>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::UnorderedElementsAre;

IpAddress ip(std::string_view text) {
    return *IpAddress::parse(text);
}

TEST(PortsBeside, AreTheLargerPartThatTheKernelDoesNotGiveOut) {
    struct Row {
        const char* name;
        uint32_t first_local, last_local, first, count;
    };
    const Row rows[] = {
        {"as Linux has it", 32'768, 60'999, 1024, 31'744},
        {"at the top", 20'000, 65'535, 1024, 18'976},
        {"at the bottom", 1024, 9999, 10'000, 55'536},
        {"from below the well-known ports", 1, 9999, 10'000, 55'536},
        {"among the well-known ports alone", 500, 600, 1024, 64'512},
        {"more room above", 10'000, 20'000, 20'001, 45'535},
        {"all ports", 1024, 65'535, 1024, 64'512},
        {"all ports, the well-known too", 1, 65'535, 1024, 64'512},
        {"all but the last", 1024, 65'534, 65'535, 1},
        {"the wrong way round", 60'999, 32'768, 1024, 64'512},
        {"beyond the last port", 32'768, 65'536, 1024, 64'512},
        {"far beyond", 32'768, UINT32_MAX, 1024, 64'512},
    };
    for (const Row& row : rows) {
        const PortRange ports = ports_beside(row.first_local, row.last_local);
        EXPECT_EQ(ports.first, row.first) << row.name;
        EXPECT_EQ(ports.count, row.count) << row.name;
        EXPECT_LE(ports.first + ports.count, 65'536) << row.name;
    }
}

class MachineOfItsOwn : public testing::Namespace {
  protected:
    static bool is_one(const char* path) {
        int value = -1;
        std::ifstream(path) >> value;
        return value == 1;
    }
};

TEST_F(MachineOfItsOwn, FindsTheAddressesOfAllInterfaces) {
    EXPECT_THAT(own_addresses(), UnorderedElementsAre(ip("127.0.0.1"), ip("::1")));
    ASSERT_TRUE(
        testing::run("ip address add 10.9.0.1/24 dev near && ip address add 10.9.0.7/32 dev near && "
                     "ip address add 192.0.2.5/32 dev far"));
    ASSERT_TRUE(testing::run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0 && ip address add 2001:db8::1/64 dev lo"));
    EXPECT_THAT(own_addresses(), UnorderedElementsAre(ip("127.0.0.1"), ip("::1"), ip("10.9.0.1"), ip("10.9.0.7"),
                                                      ip("192.0.2.5"), ip("2001:db8::1")));
}

TEST_F(MachineOfItsOwn, TakesThePortsBesideThoseOfThisNamespace) {
    ASSERT_TRUE(testing::run("sysctl -qw net.ipv4.ip_local_port_range='2048 9999'"));
    EXPECT_EQ(free_ports().first, 10'000);
    EXPECT_EQ(free_ports().count, 55'536);
}

TEST_F(MachineOfItsOwn, LetsProgramsAskForRoutesWithoutForwardingForOthers) {
    ASSERT_TRUE(
        testing::run("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 "
                     "net.ipv4.conf.lo.forwarding=0 net.ipv6.conf.lo.forwarding=0"));
    const auto allowed = allow_route_lookups();
    ASSERT_TRUE(allowed.ok()) << allowed.error();
    EXPECT_TRUE(is_one("/proc/sys/net/ipv4/conf/lo/forwarding"));
    EXPECT_TRUE(is_one("/proc/sys/net/ipv6/conf/lo/forwarding"));
    EXPECT_FALSE(is_one("/proc/sys/net/ipv4/conf/near/forwarding"));
    EXPECT_FALSE(is_one("/proc/sys/net/ipv6/conf/near/forwarding"));
    EXPECT_TRUE(allow_route_lookups().ok()) << "a second time there is nothing to do";
}

TEST(Machine, KnowsItsMemory) {
    EXPECT_GT(available_memory(), 1u << 20);
}

}  // namespace
}  // namespace marchproxy::packet
