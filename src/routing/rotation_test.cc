#include "routing/rotation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace marchproxy::routing {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<uint32_t> rotation(std::vector<uint32_t> weights) {
    return weighted_rotation(weights);
}

TEST(Rotation, EqualWeightsGoRoundInOrder) {
    EXPECT_THAT(rotation({1, 1, 1}), ElementsAre(0, 1, 2));
    EXPECT_THAT(rotation({100, 100}), ElementsAre(0, 1));
    EXPECT_THAT(rotation({7}), ElementsAre(0));
}

TEST(Rotation, NoWeightNoTurn) {
    EXPECT_THAT(rotation({}), IsEmpty());
    EXPECT_THAT(rotation({0, 0}), IsEmpty());
    EXPECT_THAT(rotation({0, 5, 0}), ElementsAre(1));
}

TEST(Rotation, EveryPrefixIsWithinOneTurnOfTheExactShare) {
    std::mt19937 random(2);
    for (int round = 0; round < 100; ++round) {
        std::vector<uint32_t> weights(1 + random() % 8);
        for (uint32_t& weight : weights)
            weight = static_cast<uint32_t>(random() % 50);
        const std::vector<uint32_t> order = rotation(weights);
        const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
        std::vector<double> taken(weights.size(), 0);
        for (size_t length = 1; length <= order.size(); ++length) {
            ++taken[order[length - 1]];
            for (size_t i = 0; i < weights.size(); ++i)
                ASSERT_LT(std::abs(taken[i] - static_cast<double>(length) * weights[i] / sum), 1);
        }
        for (size_t i = 0; i < weights.size(); ++i)
            EXPECT_DOUBLE_EQ(taken[i] * sum, weights[i] * static_cast<double>(order.size()));
    }
}

TEST(Rotation, UnwieldyWeightsAreRoundedAndNobodyIsLost) {
    const std::vector<uint32_t> order = rotation({4'294'967'295, 4'294'967'294, 1});
    EXPECT_LE(order.size(), 4100U);
    EXPECT_EQ(std::count(order.begin(), order.end(), 2), 1);
    EXPECT_NEAR(static_cast<double>(std::count(order.begin(), order.end(), 0)), 2048, 1);
    EXPECT_NEAR(static_cast<double>(std::count(order.begin(), order.end(), 1)), 2048, 1);
}

}  // namespace
}  // namespace marchproxy::routing
