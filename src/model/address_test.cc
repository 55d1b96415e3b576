#include "model/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace marchproxy {
namespace {

using testing::HasSubstr;

IpAddress ip(std::string_view text) {
    return *IpAddress::parse(text);
}

TEST(Address, BothFamiliesInOneForm) {
    EXPECT_TRUE(ip("10.0.0.1").is_v4());
    EXPECT_EQ(ip("10.0.0.1"), IpAddress::v4(0x0a000001));
    EXPECT_EQ(ip("10.0.0.1"), ip("::ffff:10.0.0.1"));
    EXPECT_FALSE(ip("2001:db8::1").is_v4());
    EXPECT_TRUE(ip("::").is_unspecified());
    EXPECT_TRUE(ip("0.0.0.0").is_unspecified());
    EXPECT_FALSE(ip("::1").is_unspecified());
    EXPECT_TRUE(ip("::1").is_loopback());
    EXPECT_TRUE(ip("127.1.2.3").is_loopback());
    EXPECT_FALSE(ip("7f00::1").is_loopback());
}

TEST(Address, PrintsAsPeopleWriteIt) {
    for (const std::string_view text : {"10.0.0.1", "255.255.255.255", "::", "::1", "2001:db8::1", "fe80::1:0:0:1"})
        EXPECT_EQ(to_string(ip(text)), text);
    EXPECT_EQ(to_string(ip("2001:0DB8:0:0:0:0:0:1")), "2001:db8::1");
    for (const std::string_view text : {"10.0.0.1:80", "[::1]:65535", "[2001:db8::1]:1"})
        EXPECT_EQ(to_string(*SocketAddress::parse(text)), text);
}

TEST(Address, RefusesWhatIsNoAddress) {
    for (const std::string_view text : {"", "10.0.0", "10.0.0.256", "010.0.0.1", "10.0.0.1 ", " 10.0.0.1", "10.0.0.1/8",
                                        "fe80::1%eth0", "[::1]", "::1::", "localhost", "1", "0x7f.0.0.1"})
        EXPECT_FALSE(IpAddress::parse(text).ok()) << text;
    EXPECT_FALSE(IpAddress::parse(std::string_view("10.0.0.1\0", 9)).ok());
    EXPECT_FALSE(IpAddress::parse(std::string(100'000, '1')).ok());
}

TEST(Address, SocketsNeedAnAddressAndAPort) {
    const SocketAddress address = *SocketAddress::parse("10.0.0.1:80");
    EXPECT_EQ(address.ip, ip("10.0.0.1"));
    EXPECT_EQ(address.port, 80);
    for (const std::string_view text : {"",
                                        ":",
                                        ":80",
                                        "10.0.0.1",
                                        "10.0.0.1:",
                                        "10.0.0.1:0",
                                        "10.0.0.1:65536",
                                        "10.0.0.1:99999999999",
                                        "10.0.0.1:080",
                                        "10.0.0.1:+80",
                                        "10.0.0.1:-1",
                                        "10.0.0.1:80x",
                                        "10.0.0.1: 80",
                                        "10.0.0.1:0x50",
                                        "::1:80",
                                        "[::1]",
                                        "[::1]80",
                                        "[::1:80",
                                        "[10.0.0.1]:80",
                                        "localhost:80",
                                        "[]:80",
                                        "[localhost]:80"})
        EXPECT_FALSE(SocketAddress::parse(text).ok()) << text;
    EXPECT_THAT(SocketAddress::parse("::1:80").error(), HasSubstr("brackets"));
    EXPECT_THAT(SocketAddress::parse("10.0.0.1:70000").error(), HasSubstr("1 to 65535"));
}

TEST(Address, GoesThroughTheKernelsFormAndBack) {
    for (const std::string_view text : {"10.0.0.1:80", "[2001:db8::1]:443"}) {
        const SocketAddress address = *SocketAddress::parse(text);
        sockaddr_storage storage;
        std::memset(&storage, 0xee, sizeof storage);
        const socklen_t length = address.to(storage);
        EXPECT_EQ(storage.ss_family, address.ip.is_v4() ? AF_INET : AF_INET6);
        EXPECT_EQ(length, address.ip.is_v4() ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
        EXPECT_EQ(SocketAddress::from(storage), address);
    }
}

TEST(Address, EndpointsMayBeNames) {
    EXPECT_EQ(HostPort::parse("db.example:5432")->host, "db.example");
    EXPECT_FALSE(HostPort::parse("db.example:5432")->is_literal());
    EXPECT_EQ(HostPort::parse("[::1]:80")->host, "::1");
    EXPECT_TRUE(HostPort::parse("[::1]:80")->is_literal());
    EXPECT_TRUE(HostPort::parse("10.0.0.1:80")->is_literal());
    for (const std::string_view text :
         {"localhost:1", "my_service:80", "a-b.c:80", "example.com.:80", "3com.example:80", "[2001:db8::1]:80"})
        EXPECT_EQ(to_string(*HostPort::parse(text)), text);
    for (const std::string_view text :
         {"db.example", ":80", "db.example:0", "-a:80", "a-:80", "a..b:80", ".a:80", ".:80", "a b:80", "10.0.0.256:80",
          "10.0.0:80", "1:80", "a/b:80", "[db.example]:80", "http://a:80", "::1:80", "a\n:80"})
        EXPECT_FALSE(HostPort::parse(text).ok()) << text;
    EXPECT_FALSE(HostPort::parse(std::string(64, 'a') + ":80").ok());
    EXPECT_TRUE(HostPort::parse(std::string(63, 'a') + ":80").ok());
}

TEST(Address, PrefixesContainTheirRange) {
    struct Row {
        std::string_view prefix, address;
        bool inside;
    };
    for (const Row& row : std::initializer_list<Row>{
             {"10.0.0.0/8", "10.255.255.255", true},
             {"10.0.0.0/8", "11.0.0.0", false},
             {"10.0.0.0/8", "9.255.255.255", false},
             {"10.0.0.1", "10.0.0.1", true},
             {"10.0.0.1", "10.0.0.2", false},
             {"192.168.4.0/22", "192.168.7.255", true},
             {"192.168.4.0/22", "192.168.8.0", false},
             {"0.0.0.0/0", "255.1.2.3", true},
             {"0.0.0.0/0", "::1", false},
             {"::/0", "2001:db8::1", true},
             {"::/0", "10.0.0.1", false},  // a range of IPv6 says nothing about IPv4
             {"2001:db8::/33", "2001:db8:7fff::1", true},
             {"2001:db8::/33", "2001:db8:8000::1", false},
             {"::ffff:10.0.0.0/104", "10.1.2.3", true},
         })
        EXPECT_EQ(Prefix::parse(row.prefix)->contains(ip(row.address)), row.inside) << row.prefix << " " << row.address;
}

TEST(Address, PrefixesAreStrict) {
    for (const std::string_view text : {"10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/8 ", "/8",
                                        "10.0.0.1/8", "2001:db8::1/64", "2001:db8::/129", "10.0.0.0/8/8", "a/8"})
        EXPECT_FALSE(Prefix::parse(text).ok()) << text;
    EXPECT_THAT(Prefix::parse("10.1.2.3/8").error(), HasSubstr("\"10.0.0.0/8\""));
    for (const std::string_view text : {"10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "10.0.0.1/32"})
        EXPECT_EQ(to_string(*Prefix::parse(text)), text);
}

}  // namespace
}  // namespace marchproxy
