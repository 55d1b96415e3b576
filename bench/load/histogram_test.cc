#include "histogram.h"

#include <gtest/gtest.h>

namespace marchproxy::bench {
namespace {

TEST(Histogram, QuantilesOfAKnownDistributionAreWithinItsError) {
    Histogram histogram;
    for (uint64_t microseconds = 1; microseconds <= 100'000; ++microseconds)
        histogram.record(microseconds * 1000);
    for (const double fraction : {0.001, 0.5, 0.9, 0.99, 0.999, 1.0}) {
        const double exact = fraction * 100'000 * 1000;
        const auto got = static_cast<double>(histogram.quantile(fraction));
        EXPECT_GE(got, exact * 0.9999) << fraction;
        EXPECT_LE(got, exact * (1 + 1.0 / 256)) << fraction;
    }
    EXPECT_EQ(histogram.count(), 100'000u);
    EXPECT_EQ(histogram.maximum(), 100'000'000u);
}

TEST(Histogram, OneSlowRequestInAThousandShowsAtP9995ButNotAtP99) {
    Histogram histogram;
    for (int i = 0; i < 999; ++i)
        histogram.record(50'000);
    histogram.record(7'000'000);
    EXPECT_LE(histogram.quantile(0.99), 50'200u);
    EXPECT_EQ(histogram.quantile(0.9995), 7'000'000u);
}

TEST(Histogram, SmallAndHugeValuesAreHeld) {
    Histogram histogram;
    EXPECT_EQ(histogram.quantile(0.5), 0u);
    histogram.record(0);
    EXPECT_EQ(histogram.quantile(0.5), 0u);
    histogram.record(511);
    EXPECT_EQ(histogram.quantile(1.0), 511u);
    histogram.record(UINT64_MAX);
    EXPECT_EQ(histogram.maximum(), UINT64_MAX);
    EXPECT_GE(histogram.quantile(1.0), (1ull << 40) - 1);
}

}  // namespace
}  // namespace marchproxy::bench
