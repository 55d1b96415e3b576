#include "routing/score.h"

#include <gtest/gtest.h>

namespace marchproxy::routing {
namespace {

using namespace std::chrono_literals;

std::vector<Score> scores(Policy policy, const std::vector<Facts>& facts, const RoutingWeights& weights = {}) {
    return scores_of(policy, weights, facts, std::vector<bool>(facts.size(), true));
}

TEST(Score, LatencyIsTheRoundTripAndWhatLossCosts) {
    // 10 segments, of which 3 % take 200 ms and a round trip longer: 20 + 10 * 0.03 * 220 = 86 ms
    const auto of = scores(
        Policy::latency,
        {{.round_trip = 20ms}, {.round_trip = 20ms, .loss_ratio = 0.03}, {.round_trip = 80ms}, {.cost_per_gb = 1}});
    EXPECT_DOUBLE_EQ(*of[0], 0.020);
    EXPECT_DOUBLE_EQ(*of[1], 0.086);
    EXPECT_DOUBLE_EQ(*of[2], 0.080);
    EXPECT_FALSE(of[3]) << "no round trip is no good one";
}

TEST(Score, CostIsTheCostAndNothingIsFree) {
    const auto of = scores(Policy::cost, {{.cost_per_gb = 0.09}, {.cost_per_gb = 0.0}, {}});
    EXPECT_EQ(of[0], 0.09);
    EXPECT_EQ(of[1], 0.0);
    EXPECT_FALSE(of[2]);
}

TEST(Score, BandwidthIsWhatIsLeft) {
    const auto of = scores(Policy::bandwidth, {{.bandwidth = Rate{10'000'000'000}, .load = 8e9},
                                               {.bandwidth = Rate{1'000'000'000}},
                                               {.bandwidth = Rate{1'000'000'000}, .load = 2e9},
                                               {.load = 1e9}});
    EXPECT_DOUBLE_EQ(*of[0], 0.5);  // 2 Gbit/s are left
    EXPECT_DOUBLE_EQ(*of[1], 1);
    EXPECT_DOUBLE_EQ(*of[2], 100);  // full, and comparable still
    EXPECT_FALSE(of[3]);
}

TEST(Score, GeoIsTheDistance) {
    const auto of = scores(Policy::geo, {{.distance = 6500.0}, {.distance = 300.0}});
    EXPECT_EQ(of[0], 6500);
    EXPECT_EQ(of[1], 300);
}

// latency: median 0.04 of 0.02, 0.04, 0.08: 1/3, 1/2, 2/3. cost: median 0.09 of 0.02, 0.09, 0.12: 2/11, 1/2, 4/7.
// bandwidth left: median 1 of 0.5, 1, 2: 1/3, 1/2, 2/3.
TEST(Score, WeightedIsTheMeanOfWhatIsNormalisedByTheMedian) {
    const std::vector<Facts> facts{{.round_trip = 20ms, .cost_per_gb = 0.12, .bandwidth = Rate{1'000'000'000}},
                                   {.round_trip = 40ms, .cost_per_gb = 0.02, .bandwidth = Rate{500'000'000}},
                                   {.round_trip = 80ms, .cost_per_gb = 0.09, .bandwidth = Rate{2'000'000'000}}};
    const auto of = scores(Policy::weighted, facts, {.latency = 6, .cost = 3, .bandwidth = 1});
    EXPECT_NEAR(*of[0], 0.6 / 3 + 0.3 * 4 / 7 + 0.1 / 2, 1e-12);
    EXPECT_NEAR(*of[1], 0.6 / 2 + 0.3 * 2 / 11 + 0.1 * 2 / 3, 1e-12);
    EXPECT_NEAR(*of[2], 0.6 * 2 / 3 + 0.3 / 2 + 0.1 / 3, 1e-12);
}

TEST(Score, WeightedLeavesOutWhatNobodyKnowsAndWhatHasNoWeight) {
    const std::vector<Facts> facts{{.round_trip = 20ms}, {.round_trip = 40ms, .cost_per_gb = 0.0}, {}};
    const auto of = scores(Policy::weighted, facts, {.latency = 1, .cost = 1, .bandwidth = 1});
    EXPECT_NEAR(*of[0], (0.5 + 1) / 3, 1e-12);      // its cost is not known: the worst
    EXPECT_NEAR(*of[1], (2.0 / 3 + 0) / 3, 1e-12);  // free
    EXPECT_NEAR(*of[2], (1.0 + 1) / 3, 1e-12);
    const auto by_cost =
        scores(Policy::weighted, {{.round_trip = 20ms}, {}}, {.latency = 0, .cost = 1, .bandwidth = 0});
    EXPECT_FALSE(by_cost[0]);
}

TEST(Score, WhoIsNotEligibleMovesNobodysScore) {
    const std::vector<Facts> facts{{.round_trip = 20ms}, {.round_trip = 40ms}, {.round_trip = 9s}, {.round_trip = 9s}};
    const auto of =
        scores_of(Policy::weighted, {.latency = 1, .cost = 0, .bandwidth = 0}, facts, {true, true, false, false});
    EXPECT_NEAR(*of[0], 0.5, 1e-12);
    EXPECT_NEAR(*of[1], 2.0 / 3, 1e-12);
}

TEST(Score, GreatCircles) {
    const Location frankfurt{50.11, 8.68}, virginia{38.95, -77.45}, sydney{-33.87, 151.21};
    EXPECT_NEAR(great_circle(frankfurt, virginia), 6540, 30);
    EXPECT_NEAR(great_circle(frankfurt, sydney), 16500, 50);
    EXPECT_DOUBLE_EQ(great_circle(frankfurt, frankfurt), 0);
    EXPECT_NEAR(great_circle({0, 179}, {0, -179}), 222.4, 0.1) << "across the date line";
    EXPECT_NEAR(great_circle({90, 0}, {-90, 0}), 20015, 1);
}

}  // namespace
}  // namespace marchproxy::routing
