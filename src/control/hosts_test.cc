#include "control/hosts.h"

#include <gtest/gtest.h>

namespace marchproxy::control {
namespace {

IpAddress ip(std::string_view text) {
    return IpAddress::parse(text).value();
}

TEST(Hosts, FindsEveryNameOfALineWithoutCase) {
    const Hosts hosts = parse_hosts("127.0.0.1 localhost\n10.0.0.7\tDb.Example db # the database\r\n");
    EXPECT_EQ(hosts.at("localhost"), std::vector{ip("127.0.0.1")});
    EXPECT_EQ(hosts.at("db.example"), std::vector{ip("10.0.0.7")});
    EXPECT_EQ(hosts.at("db"), std::vector{ip("10.0.0.7")});
    EXPECT_FALSE(hosts.contains("the"));
}

TEST(Hosts, GathersAddressesOfBothFamilies) {
    const Hosts hosts = parse_hosts("127.0.0.1 localhost\n::1 localhost ip6-localhost");
    EXPECT_EQ(hosts.at("localhost"), (std::vector{ip("127.0.0.1"), ip("::1")}));
}

TEST(Hosts, PassesOverWhatIsNoEntry) {
    EXPECT_TRUE(parse_hosts("\n# only a comment\nnot-an-address name\n10.0.0.1\n\xff\x00garbage").empty());
}

}  // namespace
}  // namespace marchproxy::control
