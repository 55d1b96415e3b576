#include "costs/tariff.h"

#include <gtest/gtest.h>

#include "costs/calendar.h"
#include "costs/percentile.h"

namespace marchproxy::costs {
namespace {

using namespace std::chrono_literals;
using std::chrono::November, std::chrono::sys_days;

constexpr uint64_t gigabyte = 1'000'000'000;

// As clouds have them: 10 GB at 0.09, 40 more at 0.085, the rest at 0.07.
const Tariff tiered{{{Bytes{10 * gigabyte}, 0.09}, {Bytes{50 * gigabyte}, 0.085}, {std::nullopt, 0.07}}};

TEST(Tariff, APriceHoldsForAnyVolume) {
    const Tariff flat = Tariff::flat(0.09);
    EXPECT_EQ(price_at(flat, 0), 0.09);
    EXPECT_EQ(price_at(flat, 1'000'000 * gigabyte), 0.09);
    EXPECT_DOUBLE_EQ(dollars_for(flat, 5 * gigabyte, 2 * gigabyte), 0.18);
}

TEST(Tariff, TiersAreOfTheMonthsVolume) {
    EXPECT_EQ(price_at(tiered, 0), 0.09);
    EXPECT_EQ(price_at(tiered, 10 * gigabyte - 1), 0.09);
    EXPECT_EQ(price_at(tiered, 10 * gigabyte), 0.085);
    EXPECT_EQ(price_at(tiered, 50 * gigabyte), 0.07);
    EXPECT_EQ(price_at(tiered, 5000 * gigabyte), 0.07);
}

TEST(Tariff, BytesAcrossTiersCostWhatEachPartCosts) {
    EXPECT_DOUBLE_EQ(dollars_for(tiered, 0, 10 * gigabyte), 0.9);
    EXPECT_DOUBLE_EQ(dollars_for(tiered, 9 * gigabyte, 2 * gigabyte), 0.09 + 0.085);
    EXPECT_DOUBLE_EQ(dollars_for(tiered, 0, 100 * gigabyte), 10 * 0.09 + 40 * 0.085 + 50 * 0.07);
    EXPECT_DOUBLE_EQ(dollars_for(tiered, 60 * gigabyte, gigabyte), 0.07);
}

TEST(Tariff, BeyondALastTierWithAnEndItsPriceGoesOn) {
    const Tariff ends{{{Bytes{gigabyte}, 0.5}}};
    EXPECT_EQ(price_at(ends, 3 * gigabyte), 0.5);
    EXPECT_DOUBLE_EQ(dollars_for(ends, 0, 3 * gigabyte), 1.5);
}

TEST(Tariff, WithoutAnythingIsKnown) {
    EXPECT_FALSE(price_at({}, 0));
    EXPECT_EQ(dollars_for({}, 0, gigabyte), 0);
}

TEST(Tariff, CountsWhatTheProviderCounts) {
    EXPECT_EQ(billed_bytes(Billed::sent, 1, 10), 10u);
    EXPECT_EQ(billed_bytes(Billed::received, 1, 10), 1u);
    EXPECT_EQ(billed_bytes(Billed::both, 1, 10), 11u);
}

TEST(Percentile, TheHighestTwentiethIsForgiven) {
    std::vector<uint64_t> samples;
    for (uint64_t i = 1; i <= 100; ++i)
        samples.push_back(i * 300 / 8);  // i bits a second, or nearly
    EXPECT_NEAR(billed_rate(samples, 100), 95, 1);
    samples.push_back(1'000'000'000);
    EXPECT_NEAR(billed_rate(samples, 101), 96, 1) << "one burst of 5 minutes is nothing";
}

TEST(Percentile, MinutesWithoutTrafficCountToo) {
    // Two hours of a day of 288 samples: 24 of them, of which 14 are forgiven.
    EXPECT_GT(billed_rate(std::vector<uint64_t>(24, 37'500'000), 288), 999'999);
    // One hour of it: all 12 are.
    EXPECT_EQ(billed_rate(std::vector<uint64_t>(12, 37'500'000), 288), 0);
    EXPECT_EQ(billed_rate({}, 0), 0);
}

TEST(Calendar, DaysAndMonthsAreUtcs) {
    const Day day = sys_days(2026y / November / 30);
    EXPECT_EQ(day_of(WallTime(day) + 23h + 59min), day);
    EXPECT_EQ(text_of(day), "2026-11-30");
    EXPECT_EQ(text_of(month_begin(day)), "2026-11-01");
    EXPECT_EQ(text_of(next_month(day)), "2026-12-01");
    EXPECT_EQ(text_of(next_month(next_month(day))), "2027-01-01");
    EXPECT_EQ(text_of(previous_month(sys_days(2026y / 1 / 31))), "2025-12-01");
}

TEST(Calendar, ReadsDaysAndNothingElse) {
    EXPECT_EQ(day_from("2024-02-29"), sys_days(2024y / 2 / 29));
    for (const char* text : {"", "2026-02-29", "2026-13-01", "2026-1-1", "2026/11/30", "-026-11-30", "2026-11-30 "})
        EXPECT_FALSE(day_from(text)) << text;
}

}  // namespace
}  // namespace marchproxy::costs
