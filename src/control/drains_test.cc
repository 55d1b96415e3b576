#include "control/drains.h"

#include <gtest/gtest.h>

namespace marchproxy::control {
namespace {

using admin::Drainable;

TEST(Drains, CoverPathsAndEndpoints) {
    Drains drains;
    drains.add(Drainable::provider, "aws");
    drains.add(Drainable::region, "east");
    drains.add(Drainable::endpoint, "db.example:5432");
    const SocketAddress address{IpAddress::v4(0x0a000001), 5432};
    EXPECT_TRUE(drains.cover({.name = "a", .provider = "aws", .region = "west"}));
    EXPECT_TRUE(drains.cover({.name = "a", .provider = "gcp", .region = "east"}));
    EXPECT_FALSE(drains.cover({.name = "aws", .provider = "gcp", .region = "west"}));
    EXPECT_TRUE(drains.cover("db.example:5432", address));
    EXPECT_FALSE(drains.cover("other:5432", address));
    drains.add(Drainable::endpoint, "10.0.0.1:5432");
    EXPECT_TRUE(drains.cover("other:5432", address));
}

TEST(Drains, GoFromOneProcessToTheNext) {
    Drains drains;
    drains.add(Drainable::path, "a path = with blanks");
    drains.add(Drainable::endpoint, "[2001:db8::1]:80");
    EXPECT_EQ(Drains::from_text(drains.to_text()), drains);
    EXPECT_EQ(Drains::from_text(""), Drains());
    EXPECT_EQ(Drains::from_text("\nnonsense\npath\npath \n mars x\npathx y"), Drains());
}

}  // namespace
}  // namespace marchproxy::control
