#include "probe/flood_guard.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

namespace marchproxy::probe {
namespace {

using namespace std::chrono_literals;

// A socket of UDP, and others that send to it from addresses of this host.
struct FloodGuardTest : testing::TestWithParam<bool> {
    FloodGuardTest() {
        EXPECT_EQ(bind_to(descriptor, address_of(1)), 0) << strerror(errno);
        sockaddr_storage address;
        socklen_t size = sizeof address;
        getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size);
        own = SocketAddress::from(address);
    }
    ~FloodGuardTest() override { close(descriptor); }

    bool v4() const { return GetParam(); }
    // IPv6 has one address on loopback, IPv4 millions.
    IpAddress address_of(uint32_t host) const {
        return v4() ? IpAddress::v4(0x7f000000 + host) : *IpAddress::parse("::1");
    }
    int opened() const { return socket(v4() ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0); }
    static int bind_to(int descriptor, const IpAddress& ip) {
        sockaddr_storage address;
        const socklen_t size = SocketAddress{ip, 0}.to(address);
        return bind(descriptor, reinterpret_cast<sockaddr*>(&address), size);
    }
    // What is sent over loopback is there at once, or a little later where the machine has other things to do.
    bool hears(const IpAddress& from) { return hears(from, 5s); }
    bool is_deaf_to(const IpAddress& from) { return !hears(from, 10ms); }
    bool hears(const IpAddress& from, std::chrono::milliseconds patience) {
        const int sender = opened();
        EXPECT_EQ(bind_to(sender, from), 0) << strerror(errno);
        sockaddr_storage address;
        const socklen_t size = own.to(address);
        sendto(sender, "x", 1, 0, reinterpret_cast<sockaddr*>(&address), size);
        close(sender);
        pollfd ready{descriptor, POLLIN, 0};
        char byte;
        return poll(&ready, 1, static_cast<int>(patience.count())) == 1 && recv(descriptor, &byte, 1, 0) == 1;
    }
    // Whether that was one too many.
    bool sends(const IpAddress& from, unsigned count, TimePoint at) {
        bool shut_out = false;
        for (unsigned i = 0; i < count; ++i)
            shut_out |= guard.unasked(from, at) == 0;
        return shut_out;
    }

    int descriptor = opened();
    SocketAddress own;
    FloodGuard guard{descriptor, v4()};
    const TimePoint start = Clock::now();
};

TEST_P(FloodGuardTest, WhoFloodsIsNotHeardForAWhile) {
    const IpAddress flooder = address_of(9);
    EXPECT_FALSE(sends(flooder, FloodGuard::most_a_second, start));
    EXPECT_TRUE(hears(flooder));
    EXPECT_TRUE(sends(flooder, 1, start));
    EXPECT_TRUE(guard.shuts_out(flooder));
    EXPECT_TRUE(is_deaf_to(flooder));

    guard.let_in(start + FloodGuard::time_out - 1ms);
    EXPECT_TRUE(is_deaf_to(flooder));
    guard.let_in(start + FloodGuard::time_out);
    EXPECT_FALSE(guard.shuts_out(flooder));
    EXPECT_TRUE(hears(flooder));
}

TEST_P(FloodGuardTest, SaysThatTheKernelTakesNoFilterAndHearsEverybody) {
    FloodGuard without(-1, v4());
    std::optional<int> told;
    for (unsigned i = 0; i <= FloodGuard::most_a_second; ++i)
        told = without.unasked(address_of(9), start);
    EXPECT_EQ(told, EBADF);
    EXPECT_FALSE(without.shuts_out(address_of(9)));
}

TEST_P(FloodGuardTest, AFewASecondAreNoFlood) {
    for (int second = 0; second < 10; ++second)
        EXPECT_FALSE(sends(address_of(9), FloodGuard::most_a_second, start + std::chrono::seconds(second)));
}

INSTANTIATE_TEST_SUITE_P(Family, FloodGuardTest, testing::Bool(),
                         [](const auto& about) { return about.param ? "v4" : "v6"; });

struct FloodGuardOfMany : FloodGuardTest {};
INSTANTIATE_TEST_SUITE_P(Family, FloodGuardOfMany, testing::Values(true));

TEST_P(FloodGuardOfMany, TheOthersAreHeard) {
    for (uint32_t host = 10; host < 10 + FloodGuard::most_shut_out; ++host)
        EXPECT_TRUE(sends(address_of(host), FloodGuard::most_a_second + 1, start));
    for (uint32_t host = 10; host < 10 + FloodGuard::most_shut_out; ++host)
        EXPECT_TRUE(is_deaf_to(address_of(host))) << host;
    EXPECT_FALSE(sends(address_of(9), 2 * FloodGuard::most_a_second, start)) << "there is an end to it";
    for (const uint32_t host : {1U, 9U, 200U})
        EXPECT_TRUE(hears(address_of(host))) << host;
}

// Of IPv6 all words count, which loopback cannot show by sending.
TEST(FloodGuard, AnAddressThatIsAlmostTheSameIsHeard) {
    for (const char* other : {"::2", "1::1", "0:0:1::1", "0:0:0:0:1::1"}) {
        const int descriptor = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        sockaddr_storage address;
        socklen_t size = SocketAddress{*IpAddress::parse("::1"), 0}.to(address);
        ASSERT_EQ(bind(descriptor, reinterpret_cast<sockaddr*>(&address), size), 0);
        getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size);
        FloodGuard guard(descriptor, false);
        for (unsigned i = 0; i <= FloodGuard::most_a_second; ++i)
            guard.unasked(*IpAddress::parse(other), Clock::now());
        EXPECT_TRUE(guard.shuts_out(*IpAddress::parse(other)));
        sendto(descriptor, "x", 1, 0, reinterpret_cast<sockaddr*>(&address), size);
        pollfd ready{descriptor, POLLIN, 0};
        EXPECT_EQ(poll(&ready, 1, 5000), 1) << other;
        close(descriptor);
    }
}

}  // namespace
}  // namespace marchproxy::probe
