#include "model/rfc3339.h"

#include <gtest/gtest.h>

namespace marchproxy {
namespace {

using std::chrono::milliseconds;

TEST(Rfc3339, WritesUtcWithMilliseconds) {
    EXPECT_EQ(rfc3339(WallTime{}), "1970-01-01T00:00:00.000Z");
    EXPECT_EQ(rfc3339(WallTime{milliseconds(951827696789)}), "2000-02-29T12:34:56.789Z");
}

TEST(Rfc3339, RoundsTimesBeforeTheEpochDown) {
    EXPECT_EQ(rfc3339(WallTime{milliseconds(-1)}), "1969-12-31T23:59:59.999Z");
}

}  // namespace
}  // namespace marchproxy
