#include "routing/steering.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "routing/quality.h"

namespace marchproxy::routing {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

struct SteeringTest : testing::Test {
    explicit SteeringTest(size_t count = 3) : seen(count, Seen{.weight = 1, .facts = {}}), steering(count) {}
    bool update(Duration passed = 100ms) { return steering.update(settings, seen, now += passed); }
    const std::vector<uint32_t>& shares() const { return steering.shares().of; }
    std::string reason(size_t i) const { return steering.standings(settings, seen)[i].reason; }
    void round_trips(const std::vector<int>& milliseconds) {
        for (size_t i = 0; i < seen.size(); ++i)
            seen[i].facts.round_trip = std::chrono::milliseconds(milliseconds[i]);
    }

    SteeringSettings settings{.policy = Policy::latency};
    std::vector<Seen> seen;
    Steering steering;
    TimePoint now = TimePoint{} + 1000s;
};

TEST_F(SteeringTest, TheBestAndThoseNearlyAsGoodShareByWeight) {
    round_trips({40, 20, 21});
    seen[2].weight = 3;
    EXPECT_TRUE(update());
    EXPECT_THAT(shares(), ElementsAre(0, 1000, 3000));
    EXPECT_THAT(steering.shares().order, ElementsAre(1, 2, 0));
    EXPECT_EQ(reason(0), "is 100% above the best");
    EXPECT_EQ(reason(1), "is the best");
    EXPECT_EQ(reason(2), "is as good as the best, within 10%");
}

TEST_F(SteeringTest, BelowHalfTheHysteresisOneJoinsAndAboveAllOfItOneLeaves) {
    round_trips({100, 109, 200});
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 0, 0)) << "9 % above the best is too much to join";
    round_trips({100, 105, 200});
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 1000, 0));
    round_trips({100, 109, 200});
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 1000, 0)) << "and too little to leave";
    round_trips({100, 111, 200});
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 0, 0));
}

TEST_F(SteeringTest, EqualPathsThatVaryDoNotFlap) {
    // As probes each 200 ms see them: 50 ms, give or take a tenth, and now and then 200 ms more.
    std::mt19937 random(4);
    std::normal_distribution<double> noise(50, 5);
    std::vector<Quality> probes(seen.size());
    seen[2].up = false;
    int changes = 0;
    for (int i = 0; i < 5000; ++i) {
        for (size_t k = 0; k < seen.size(); ++k) {
            const double late = random() % 20 == 0 ? 200 : 0;
            probes[k].answered(std::chrono::microseconds(static_cast<int>(1000 * (noise(random) + late))), {}, now);
            seen[k].facts.round_trip = probes[k].reading().typical;
        }
        changes += update(200ms) ? 1 : 0;
    }
    EXPECT_LE(changes, 15);
    EXPECT_THAT(shares(), ElementsAre(1000, 1000, 0));
}

TEST_F(SteeringTest, RoundTripsWithinHalfAMillisecondAreTheSame) {
    for (size_t i = 0; i < 3; ++i)
        seen[i].facts.round_trip = std::chrono::microseconds(100 + 200 * i);
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 1000, 1000));
}

TEST_F(SteeringTest, WhatIsNotKnownComesLastAndWhereNothingIsAllAreEqual) {
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 1000, 1000));
    EXPECT_EQ(reason(0), "nobody's latency is known yet");
    seen[1].facts.round_trip = 300ms;
    update();
    EXPECT_THAT(shares(), ElementsAre(0, 1000, 0));
    EXPECT_EQ(reason(0), "its latency is not known");
}

TEST_F(SteeringTest, CostTakesTheCheapestHoweverSlow) {
    settings.policy = Policy::cost;
    round_trips({5, 500, 5});
    const std::array costs{0.09, 0.0, 0.01};
    for (size_t i = 0; i < 3; ++i)
        seen[i].facts.cost_per_gb = costs[i];
    update();
    EXPECT_THAT(shares(), ElementsAre(0, 1000, 0));
    EXPECT_EQ(reason(0), "is not the best");
    seen[1].draining = true;
    update();
    EXPECT_THAT(shares(), ElementsAre(0, 0, 1000));
    EXPECT_EQ(reason(1), "drains");
    EXPECT_EQ(reason(0), "is 800% above the best");
}

TEST_F(SteeringTest, WhoIsDownHasNoTurnAndComesLast) {
    round_trips({10, 20, 30});
    update();
    seen[0].up = false;
    seen[0].why_down = "3 probes were not answered";
    EXPECT_TRUE(update());
    EXPECT_THAT(shares(), ElementsAre(0, 1000, 0));
    EXPECT_THAT(steering.shares().order, ElementsAre(1, 2, 0));
    EXPECT_EQ(reason(0), "is down: 3 probes were not answered");
}

TEST_F(SteeringTest, WhereNobodyIsUpAllAreTriedByTheSamePolicy) {
    round_trips({10, 20, 30});
    for (Seen& one : seen)
        one.up = false;
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 0, 0));
    EXPECT_EQ(reason(0), "is down, and tried all the same: nobody better is left");
}

TEST_F(SteeringTest, WhatRecoversAloneAtTheTopIsGivenBackATenthAtATime) {
    round_trips({10, 20, 20});
    update();
    seen[0].up = false;
    update();
    EXPECT_THAT(shares(), ElementsAre(0, 1000, 1000));
    seen[0].up = true;
    update();
    EXPECT_THAT(shares(), ElementsAre(100, 450, 450));
    EXPECT_EQ(reason(0), "has recovered, and has 10% of its share so far");
    update(5s);
    EXPECT_THAT(shares(), ElementsAre(500, 250, 250));
    update(5s);
    EXPECT_THAT(shares(), ElementsAre(1000, 0, 0));
}

TEST_F(SteeringTest, WhatRecoversAmongEqualsHasLessThanTheOthersAtFirst) {
    settings.policy = Policy::round_robin;
    seen[0].weight = 50;
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 1000, 1000));
    seen[1].up = false;
    update();
    seen[1].up = true;
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 100, 1000));
    int changes = 0;
    for (int i = 0; i < 110; ++i)
        changes += update() ? 1 : 0;
    EXPECT_EQ(changes, 9);
    EXPECT_THAT(shares(), ElementsAre(1000, 1000, 1000));
}

TEST_F(SteeringTest, SlowStartCanBeTurnedOff) {
    settings.slow_start = 0s;
    round_trips({10, 20, 30});
    update();
    seen[0].up = false;
    update();
    seen[0].up = true;
    update();
    EXPECT_THAT(shares(), ElementsAre(1000, 0, 0));
}

TEST_F(SteeringTest, WhereEverythingRecoversAtOnceNobodyIsHeldBack) {
    round_trips({10, 10, 10});
    for (const bool up : {true, false, true}) {
        for (Seen& one : seen)
            one.up = up;
        update();
    }
    EXPECT_THAT(shares(), ElementsAre(100, 100, 100));
}

struct ManyTest : SteeringTest {
    ManyTest() : SteeringTest(20) {}
};

TEST_F(ManyTest, WhenTooFewAreUpHealthIsNotLookedAt) {
    settings.policy = Policy::round_robin;
    for (size_t i = 2; i < seen.size(); ++i)
        seen[i].up = false;
    update();
    EXPECT_TRUE(steering.shares().trust_health) << "a tenth is enough";
    EXPECT_EQ(shares()[5], 0U);
    seen[1].up = false;
    update();
    EXPECT_FALSE(steering.shares().trust_health);
    EXPECT_EQ(shares()[5], 1000U);
    settings.panic = {0};
    update();
    EXPECT_TRUE(steering.shares().trust_health);
}

TEST_F(SteeringTest, WhatIsKnownIsCarriedOver) {
    round_trips({100, 109, 500});
    steering.update(settings, seen, now);
    round_trips({104, 109, 500});
    update();
    ASSERT_THAT(shares(), ElementsAre(1000, 1000, 0));
    round_trips({100, 109, 500});
    Steering next(3);
    for (size_t i = 0; i < 3; ++i)
        next.carry_over(2 - i, steering, i);
    std::reverse(seen.begin(), seen.end());
    next.update(settings, seen, now);
    EXPECT_THAT(next.shares().of, ElementsAre(0, 1000, 1000));
}

TEST_F(SteeringTest, AnOrderOfThoseWithoutTurnsMayBeASecondOld) {
    round_trips({10, 50, 60});
    update();
    round_trips({10, 70, 60});
    EXPECT_FALSE(update());
    EXPECT_TRUE(update(1s));
    EXPECT_THAT(steering.shares().order, ElementsAre(0, 2, 1));
    EXPECT_FALSE(update(1s));
}

}  // namespace
}  // namespace marchproxy::routing
