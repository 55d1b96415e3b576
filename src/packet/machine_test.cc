#include "packet/machine.h"

#include <gmock/gmock.h>

#include <fstream>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
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

class MachineOfItsOwn : public testing::Namespace {};

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

class RouteLookups : public testing::PinNamespace {
  protected:
    void SetUp() override {
        PinNamespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        // lo last: the first two set those of every interface.
        ASSERT_TRUE(set("net.ipv4.ip_forward=0") && set("net.ipv6.conf.all.forwarding=0"));
        ASSERT_TRUE(set("net.ipv4.conf.lo.forwarding=0") && set("net.ipv6.conf.lo.forwarding=0"));
    }
    static bool set(const std::string& text) { return testing::run("sysctl -qw " + text); }
    static int forwarding(const std::string& version, const std::string& interface = "lo") {
        int value = -1;
        std::ifstream("/proc/sys/net/ip" + version + "/conf/" + interface + "/forwarding") >> value;
        return value;
    }
    void allow(bool ipv6 = true) const {
        const auto allowed = allow_route_lookups(bpffs, ipv6);
        EXPECT_TRUE(allowed.ok()) << allowed.error();
    }
    std::vector<std::string> end() const { return end_route_lookups(bpffs); }
    bool noted() const { return ::access((bpffs + "/forwarding").c_str(), F_OK) == 0; }
};

TEST_F(RouteLookups, AreAllowedWithoutForwardingForOthers) {
    allow();
    for (const char* version : {"v4", "v6"}) {
        EXPECT_EQ(forwarding(version), 1);
        EXPECT_EQ(forwarding(version, "near"), 0);
        EXPECT_EQ(forwarding(version, "all"), 0);
    }
}

TEST_F(RouteLookups, EndAsTheMachineWasBefore) {
    allow();
    allow();  // another process later
    EXPECT_THAT(end(), IsEmpty());
    EXPECT_EQ(forwarding("v4"), 0);
    EXPECT_EQ(forwarding("v6"), 0);
    EXPECT_FALSE(noted());
    EXPECT_THAT(end(), IsEmpty()) << "a second time there is nothing to do";
}

// Setting it makes the kernel forget default routes that routers have announced.
TEST_F(RouteLookups, LeaveIPv6AloneWhileNoServiceHasIt) {
    allow(false);
    EXPECT_EQ(forwarding("v4"), 1);
    EXPECT_EQ(forwarding("v6"), 0);
    allow(true);
    EXPECT_EQ(forwarding("v6"), 1);
    EXPECT_THAT(end(), IsEmpty());
    EXPECT_EQ(forwarding("v4"), 0);
    EXPECT_EQ(forwarding("v6"), 0);
}

TEST_F(RouteLookups, LeaveWhatWasSetBeforeAndWhatTheMachineNeedsByNow) {
    ASSERT_TRUE(set("net.ipv4.conf.lo.forwarding=1"));
    allow();
    ASSERT_TRUE(set("net.ipv6.conf.all.forwarding=1"));
    EXPECT_THAT(end(), IsEmpty());
    EXPECT_EQ(forwarding("v4"), 1) << "it was before";
    EXPECT_EQ(forwarding("v6"), 1) << "the machine is a router now";
    EXPECT_FALSE(noted());
}

TEST_F(RouteLookups, AreAllowedAgainAfterSomebodySetThemBack) {
    allow();
    ASSERT_TRUE(set("net.ipv4.ip_forward=1") && set("net.ipv4.ip_forward=0"));
    EXPECT_EQ(forwarding("v4"), 0);
    allow();
    EXPECT_EQ(forwarding("v4"), 1);
    EXPECT_THAT(end(), IsEmpty());
    EXPECT_EQ(forwarding("v4"), 0);
}

TEST_F(RouteLookups, SayWhatCannotBeWrittenAndWhatToDo) {
    ASSERT_EQ(::mount("/proc/sys", "/proc/sys", nullptr, MS_BIND, nullptr), 0);
    const auto read_only = [](bool is) {
        return ::mount("none", "/proc/sys", nullptr, MS_REMOUNT | MS_BIND | (is ? MS_RDONLY : 0), nullptr) == 0;
    };
    ASSERT_TRUE(read_only(true));
    const auto refused = allow_route_lookups(bpffs, true);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(refused.error(), HasSubstr("sysctl -w net.ipv4.conf.lo.forwarding=1"));
    ASSERT_TRUE(read_only(false));
    allow();
    ASSERT_TRUE(read_only(true));
    EXPECT_THAT(end(), ElementsAre(HasSubstr("sysctl -w net.ipv4.conf.lo.forwarding=0"),
                                   HasSubstr("sysctl -w net.ipv6.conf.lo.forwarding=0")));
    EXPECT_TRUE(noted()) << "to be tried again";
    ASSERT_TRUE(read_only(false));
    EXPECT_THAT(end(), IsEmpty());
    EXPECT_FALSE(noted());
}

TEST(Machine, KnowsItsMemory) {
    EXPECT_GT(available_memory(), 1u << 20);
}

}  // namespace
}  // namespace marchproxy::packet
