#include "packet/access_memo.h"

#include <gtest/gtest.h>

namespace marchproxy::packet {
namespace {

SnapshotPointer snapshot(const std::vector<std::pair<std::string, const char*>>& denying) {
    auto made = std::make_shared<Snapshot>();
    for (const auto& [name, prefix] : denying) {
        Service service;
        service.name = name;
        if (*prefix) service.access.deny.push_back(*Prefix::parse(prefix));
        made->services.push_back(service);
    }
    return made;
}

TEST(AccessMemo, MakesATreeOnceForASnapshot) {
    AccessMemo memo;
    const auto now = snapshot({{"web", "192.0.2.0/24"}, {"dns", ""}});
    const auto web = memo.of(now, now->services[0]);
    ASSERT_TRUE(web);
    EXPECT_FALSE(web->passes(*IpAddress::parse("192.0.2.1")));
    EXPECT_EQ(memo.of(now, now->services[0]), web);
    EXPECT_EQ(memo.of(now, now->services[1]), nullptr);
}

TEST(AccessMemo, AReloadMakesOnlyThoseThatChanged) {
    AccessMemo memo;
    auto now = snapshot({{"web", "192.0.2.0/24"}, {"dns", "10.0.0.0/8"}});
    const auto web = memo.of(now, now->services[0]), dns = memo.of(now, now->services[1]);
    now = snapshot({{"dns", "10.0.0.0/9"}, {"web", "192.0.2.0/24"}, {"new", "192.0.2.0/24"}});
    EXPECT_EQ(memo.of(now, now->services[1]), web) << "wherever it stands now";
    const auto changed = memo.of(now, now->services[0]);
    EXPECT_NE(changed, dns);
    EXPECT_TRUE(changed->passes(*IpAddress::parse("10.128.0.1")));
    EXPECT_NE(memo.of(now, now->services[2]), nullptr);
    now = snapshot({{"web", ""}});
    EXPECT_EQ(memo.of(now, now->services[0]), nullptr);
}

}  // namespace
}  // namespace marchproxy::packet
