#include "model/path_table.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "model/snapshot.h"

namespace marchproxy {
namespace {

Path path(std::string name, const std::vector<std::string>& destinations) {
    Path path{.name = std::move(name), .provider = {}, .region = {}, .destinations = {}};
    for (const std::string& text : destinations)
        path.destinations.push_back(*Prefix::parse(text));
    return path;
}

std::string found(const PathTable& table, std::string_view address) {
    return table.path_to(*IpAddress::parse(address));
}

TEST(PathTable, TheLongestPrefixWins) {
    const PathTable table({path("all", {"0.0.0.0/0"}), path("ten", {"10.0.0.0/8", "2001:db8::/32"}),
                           path("one", {"10.1.0.0/16", "10.1.2.3/32", "2001:db8:1::/48"})});
    EXPECT_EQ(found(table, "10.1.9.9"), "one");
    EXPECT_EQ(found(table, "10.2.0.1"), "ten");
    EXPECT_EQ(found(table, "192.0.2.1"), "all");
    EXPECT_EQ(found(table, "2001:db8:1::7"), "one");
    EXPECT_EQ(found(table, "2001:db8:2::7"), "ten");
    EXPECT_EQ(found(table, "2001:db9::1"), "") << "0.0.0.0/0 is of IPv4 alone";
    EXPECT_EQ(found(PathTable(), "10.1.9.9"), "");
}

TEST(PathTable, TheWholeOfIpv6HoldsNoIpv4) {
    const PathTable table({path("six", {"::/0"})});
    EXPECT_EQ(found(table, "2001:db9::1"), "six");
    EXPECT_EQ(found(table, "10.0.0.1"), "");
}

TEST(PathTable, AgreesWithAskingEachPrefix) {
    std::mt19937 random(3);
    std::vector<Path> paths;
    for (int i = 0; i < 200; ++i) {
        const uint32_t bits = static_cast<uint32_t>(random() % 25 + 4);
        const uint32_t ip = (0x0a000000 | static_cast<uint32_t>(random() & 0xffffff)) & ~(0xffffffffU >> bits);
        paths.push_back(path(fmt::format("p{}", i),
                             {fmt::format("{}.{}.{}.{}/{}", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255, bits)}));
    }
    const PathTable table(paths);
    for (int i = 0; i < 5000; ++i) {
        const IpAddress address = IpAddress::v4(0x0a000000 | static_cast<uint32_t>(random() & 0xffffff));
        const Path* best = nullptr;
        for (const Path& one : paths)
            if (one.destinations[0].contains(address) &&
                (!best || one.destinations[0].length > best->destinations[0].length))
                best = &one;
        EXPECT_EQ(table.path_to(address), best ? best->name : "");
    }
}

// The figure is a second; this is a bound that a busy machine keeps too.
TEST(PathTable, AHundredThousandPrefixesAreBuiltWithinASecond) {
    for (const uint32_t count : {10U, 100'000U}) {
        std::vector<Path> paths(count);
        for (uint32_t i = 0; i < count; ++i)
            paths[i].name = std::to_string(i);
        for (uint32_t i = 0; i < 100'000; ++i)
            paths[i % count].destinations.push_back({IpAddress::v4(0x0a000000 + (i << 8)), 120});
        const auto begin = std::chrono::steady_clock::now();
        const PathTable table(paths);
        EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1)) << count << " paths";
        EXPECT_EQ(&table.path_to(IpAddress::v4(0x0a000001)), &table.path_to(IpAddress::v4(0x0a000002)));
    }
}

TEST(PathTable, KnowsWhereANameIs) {
    std::vector<Path> paths(1000);
    for (size_t i = 0; i < paths.size(); ++i)
        paths[i].name = fmt::format("p{}", 999 - i);
    const PathTable table(paths);
    for (size_t i = 0; i < paths.size(); ++i)
        EXPECT_EQ(table.index_of(paths[i].name), i);
    for (const char* unknown : {"", "p", "p1000", "q", "P1"})
        EXPECT_EQ(table.index_of(unknown), std::nullopt) << unknown;
    EXPECT_EQ(PathTable().index_of("p1"), std::nullopt);
}

}  // namespace
}  // namespace marchproxy
