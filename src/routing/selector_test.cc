#include "routing/selector.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <thread>

namespace marchproxy::routing {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

constexpr std::array all_policies{Policy::round_robin, Policy::weighted_round_robin, Policy::least_connections,
                                  Policy::maglev};
const TimePoint start = TimePoint{} + 1000s;

// A service's endpoints and one worker that chooses among them.
class Bench {
  public:
    Bench(Policy policy, const std::vector<uint32_t>& weights) {
        std::vector<Candidate> candidates;
        for (size_t i = 0; i < weights.size(); ++i)
            candidates.push_back({fmt::format("10.0.{}.{}:80", i / 256, i % 256), weights[i], &states_.emplace_back()});
        selector_ = Selector(policy, 1, candidates);
    }
    Bench(Policy policy, size_t count) : Bench(policy, std::vector<uint32_t>(count, 100)) {}

    std::optional<uint32_t> choose(std::span<const uint32_t> tried = {}, TimePoint now = start) {
        return choose_for(IpAddress::v4(static_cast<uint32_t>(random_())), tried, now);
    }
    std::optional<uint32_t> choose_for(const IpAddress& client, std::span<const uint32_t> tried = {},
                                       TimePoint now = start) {
        return selector_.choose({.client = client, .random = random_(), .cursor = cursor_, .now = now, .tried = tried});
    }
    std::vector<int> count_choices(int choices) {
        std::vector<int> counts(states_.size());
        for (int i = 0; i < choices; ++i)
            ++counts[choose().value()];
        return counts;
    }
    EndpointState& state(size_t index) { return states_[index]; }
    const Selector& selector() const { return selector_; }
    void bring_down(size_t index, TimePoint now = start) {
        for (uint64_t i = 0; i < Health::failures_to_fall; ++i)
            states_[index].health.failed(now);
    }

  private:
    std::deque<EndpointState> states_;
    Selector selector_;
    std::mt19937_64 random_{9};
    uint64_t cursor_ = 0;
};

TEST(Selector, OfNoEndpointsChoosesNone) {
    uint64_t cursor = 0;
    EXPECT_FALSE(Selector().choose({.cursor = cursor}));
    for (const Policy policy : all_policies) {
        EXPECT_FALSE(Bench(policy, 0).choose());
        EXPECT_FALSE(Bench(policy, std::vector<uint32_t>{0, 0}).choose());
    }
}

TEST(Selector, RoundRobinVisitsEachInTurn) {
    Bench bench(Policy::round_robin, {100, 1, 50});
    std::vector<uint32_t> order;
    for (int i = 0; i < 7; ++i)
        order.push_back(*bench.choose());
    EXPECT_THAT(order, ElementsAre(0, 1, 2, 0, 1, 2, 0));
}

TEST(Selector, WeightedRoundRobinFollowsWeightsAndMixes) {
    Bench bench(Policy::weighted_round_robin, {300, 100});
    EXPECT_THAT(bench.count_choices(400), ElementsAre(300, 100));
    int in_a_row = 0, longest = 0;
    for (int i = 0; i < 100; ++i) {
        in_a_row = *bench.choose() == 0 ? in_a_row + 1 : 0;
        longest = std::max(longest, in_a_row);
    }
    EXPECT_LE(longest, 4);
}

TEST(Selector, AMissingEndpointsTurnsAreSharedByTheOthers) {
    Bench equal(Policy::round_robin, 4);
    equal.bring_down(1);
    EXPECT_THAT(equal.count_choices(300), ElementsAre(100, 0, 100, 100));
    Bench weighted(Policy::weighted_round_robin, {200, 100, 300});
    weighted.bring_down(0);
    EXPECT_THAT(weighted.count_choices(400), ElementsAre(0, 100, 300));
}

TEST(Selector, LeastConnectionsTakesTheOneWithTheFewestForItsWeight) {
    Bench bench(Policy::least_connections, {100, 100, 300});
    bench.state(0).active = 5;
    bench.state(1).active = 4;
    bench.state(2).active = 12;  // a third of 12 is the least
    EXPECT_EQ(bench.choose(), 2U);
    bench.state(2).active = 15;
    EXPECT_EQ(bench.choose(), 1U);
}

TEST(Selector, LeastConnectionsSpreadsTies) {
    const std::vector<int> counts = Bench(Policy::least_connections, 4).count_choices(4000);
    for (const int count : counts)
        EXPECT_NEAR(count, 1000, 150);
}

TEST(Selector, LeastConnectionsKeepsALargePoolEven) {
    constexpr size_t count = 500;
    Bench bench(Policy::least_connections, count);
    for (size_t i = 0; i < count * 20; ++i)
        ++bench.state(*bench.choose()).active;
    uint64_t most = 0;
    for (size_t i = 0; i < count; ++i)
        most = std::max(most, bench.state(i).active.load());
    EXPECT_LE(most, 24U);  // 20 each; drawn once instead of twice the fullest would hold about 35
}

TEST(Selector, LeastConnectionsInALargePoolFollowsWeights) {
    std::vector<uint32_t> weights(100, 10);
    weights[7] = 100;
    Bench bench(Policy::least_connections, weights);
    for (int i = 0; i < 10'900; ++i)
        ++bench.state(*bench.choose()).active;
    EXPECT_NEAR(static_cast<double>(bench.state(7).active), 1000, 100);
}

TEST(Selector, MaglevSendsAClientToOneEndpoint) {
    Bench bench(Policy::maglev, 10);
    std::set<uint32_t> used;
    for (uint32_t client = 0; client < 200; ++client) {
        const auto choice = bench.choose_for(IpAddress::v4(client));
        used.insert(*choice);
        for (int i = 0; i < 3; ++i)
            EXPECT_EQ(bench.choose_for(IpAddress::v4(client)), choice);
    }
    EXPECT_EQ(used.size(), 10U);
}

TEST(Selector, MaglevMovesOnlyTheClientsOfAMissingEndpointAndSpreadsThem) {
    Bench bench(Policy::maglev, 10);
    std::map<uint32_t, uint32_t> home;
    for (uint32_t client = 0; client < 5000; ++client)
        home[client] = *bench.choose_for(IpAddress::v4(client));
    bench.bring_down(3);
    std::map<uint32_t, int> inherited;
    for (const auto& [client, endpoint] : home) {
        const uint32_t now = *bench.choose_for(IpAddress::v4(client));
        if (endpoint == 3) {
            ++inherited[now];
        } else {
            EXPECT_EQ(now, endpoint);
        }
    }
    EXPECT_EQ(inherited.size(), 9U);
    bench.state(3).health.succeeded();
    for (const auto& [client, endpoint] : home)
        EXPECT_EQ(*bench.choose_for(IpAddress::v4(client)), endpoint);
}

TEST(Selector, MaglevIsTheSameOnEveryNodeEvenWithMostEndpointsDown) {
    Bench one(Policy::maglev, 600), two(Policy::maglev, 600);
    for (size_t i = 0; i < 597; ++i) {
        one.bring_down(i);
        two.bring_down(i);
    }
    std::set<uint32_t> used;
    for (uint32_t client = 0; client < 300; ++client) {
        const auto choice = one.choose_for(IpAddress::v4(client));
        EXPECT_GE(*choice, 597U);
        EXPECT_EQ(two.choose_for(IpAddress::v4(client)), choice);
        used.insert(*choice);
    }
    EXPECT_EQ(used.size(), 3U);
}

TEST(Selector, WhatDrainsOrHasNoWeightIsNeverChosen) {
    for (const Policy policy : all_policies) {
        Bench bench(policy, {100, 100, 0, 100});
        bench.state(0).close(closed_by_hand);
        for (int i = 0; i < 200; ++i)
            EXPECT_THAT(*bench.choose(), testing::AnyOf(1U, 3U));
        bench.state(0).open(closed_by_hand);
        EXPECT_GT(bench.count_choices(1000)[0], 0);
        for (const size_t i : {0U, 1U, 3U})
            bench.state(i).close(closed_by_hand);
        EXPECT_FALSE(bench.choose());
    }
}

TEST(Selector, RetriesGoThroughAllOthersAndThenEnd) {
    for (const Policy policy : all_policies) {
        for (const size_t count : {1UL, 4UL, 100UL, 300UL}) {
            Bench bench(policy, count);
            std::vector<uint32_t> tried;
            const IpAddress client = IpAddress::v4(77);
            while (const auto choice = bench.choose_for(client, tried)) {
                ASSERT_THAT(tried, testing::Not(testing::Contains(*choice)));
                tried.push_back(*choice);
            }
            EXPECT_EQ(tried.size(), count) << name_of(policy);
        }
    }
}

TEST(Selector, WithNobodyHealthyItTriesRatherThanRefuses) {
    for (const Policy policy : all_policies) {
        for (const size_t count : {3UL, 200UL}) {
            Bench bench(policy, count);
            for (size_t i = 0; i < count; ++i)
                bench.bring_down(i);
            const auto first = bench.choose();
            ASSERT_TRUE(first);
            const std::vector<uint32_t> tried{*first};
            EXPECT_NE(bench.choose(tried).value(), *first);
        }
    }
}

TEST(Selector, TheHealthyOneIsFoundAmongAnyNumber) {
    for (const Policy policy : all_policies) {
        Bench bench(policy, 1000);
        for (size_t i = 0; i < 1000; ++i)
            if (i != 613) bench.bring_down(i);
        for (int i = 0; i < 50; ++i)
            EXPECT_EQ(bench.choose(), 613U) << name_of(policy);
    }
}

TEST(Selector, ARotationMostlyDownStaysEven) {
    Bench bench(Policy::weighted_round_robin, 1000);
    for (size_t i = 0; i < 1000; ++i)
        if (i != 3 && i != 500) bench.bring_down(i);
    const std::vector<int> counts = bench.count_choices(2000);
    EXPECT_NEAR(counts[3], 1000, 150);
    EXPECT_NEAR(counts[500], 1000, 150);
}

TEST(Selector, AnEndpointComesBackThroughOneTrial) {
    for (const Policy policy : all_policies) {
        Bench bench(policy, 4);
        bench.bring_down(2);
        int trials = 0;
        for (int i = 0; i < 400; ++i)
            trials += bench.choose({}, start + 1s) == 2U ? 1 : 0;
        EXPECT_EQ(trials, 1) << name_of(policy);
        EXPECT_TRUE(bench.state(2).health.succeeded());
        trials = 0;
        for (int i = 0; i < 400; ++i)
            trials += bench.choose({}, start + 1s) == 2U ? 1 : 0;
        EXPECT_NEAR(trials, 100, 50) << name_of(policy);
    }
}

TEST(Selector, WorkersChooseTogetherAndOneOfThemMakesTheTrial) {
    for (const Policy policy : all_policies) {
        Bench bench(policy, 8);
        bench.bring_down(5);
        std::atomic<int> trials{0}, chosen{0};
        std::vector<std::thread> workers;
        for (uint32_t worker = 0; worker < 4; ++worker) {
            workers.emplace_back([&, worker] {
                std::mt19937_64 random(worker);
                uint64_t cursor = worker;
                for (int i = 0; i < 5000; ++i) {
                    const auto choice =
                        bench.selector().choose({.client = IpAddress::v4(static_cast<uint32_t>(random())),
                                                 .random = random(),
                                                 .cursor = cursor,
                                                 .now = start + 1s});
                    chosen += choice ? 1 : 0;
                    trials += choice == 5U ? 1 : 0;
                    ++bench.state(*choice).active;
                }
            });
        }
        for (std::thread& worker : workers)
            worker.join();
        EXPECT_EQ(chosen, 20'000);
        EXPECT_EQ(trials, 1) << name_of(policy);
    }
}

// --- with shares -----------------------------------------------------------------------------------------------------

class SharedOut : public testing::Test {
  protected:
    void share_out(Shares shares, Policy policy = Policy::latency) {
        std::vector<Candidate> candidates;
        for (size_t i = 0; i < states_.size(); ++i)
            candidates.push_back({fmt::format("10.0.0.{}:80", i), 1, &states_[i]});
        selector_ = Selector(policy, 1, candidates, &shares);
    }
    std::vector<int> count(int choices = 100) {
        std::vector<int> counts(states_.size());
        for (int i = 0; i < choices; ++i)
            if (const auto choice =
                    selector_.choose({.client = {}, .random = ++random_, .cursor = cursor_, .now = start}))
                ++counts[*choice];
        return counts;
    }
    std::array<EndpointState, 4> states_;
    Selector selector_;
    uint64_t cursor_ = 0, random_ = 0;
};

TEST_F(SharedOut, TurnsAreSharesAndTheOthersComeInOrder) {
    share_out({.of = {1000, 0, 3000, 0}, .order = {2, 0, 3, 1}});
    EXPECT_THAT(count(), ElementsAre(25, 0, 75, 0));
    states_[0].close(closed_by_probe);
    states_[2].close(closed_outlier);
    EXPECT_THAT(count(), ElementsAre(0, 0, 0, 100)) << "at once, before there are new shares";
    states_[3].close(closed_path);
    EXPECT_THAT(count(), ElementsAre(0, 100, 0, 0));
}

TEST_F(SharedOut, WhereNobodyIsHealthyThoseWithTurnsAreTriedAndNoneThatDrains) {
    share_out({.of = {1000, 0, 1000, 0}, .order = {2, 0, 3, 1}});
    for (EndpointState& state : states_)
        state.close(closed_by_probe);
    EXPECT_THAT(count(), ElementsAre(50, 0, 50, 0));
    states_[0].close(closed_by_hand);
    states_[2].close(closed_path);
    EXPECT_THAT(count(), ElementsAre(0, 0, 0, 100));
    states_[1].close(closed_by_hand);
    states_[3].close(closed_by_hand);
    EXPECT_THAT(count(), ElementsAre(0, 0, 0, 0));
}

TEST_F(SharedOut, InPanicHealthIsNotLookedAt) {
    for (size_t i = 0; i < 3; ++i)
        states_[i].close(closed_by_probe);
    share_out({.of = {1, 1, 1, 1}, .order = {3, 0, 1, 2}, .trust_health = false});
    EXPECT_THAT(count(), ElementsAre(25, 25, 25, 25));
}

TEST_F(SharedOut, LeastConnectionsLeavesOutWhoHasNoShare) {
    share_out({.of = {1000, 0, 1000, 0}, .order = {2, 0, 3, 1}}, Policy::least_connections);
    states_[0].active = states_[2].active = 1000;
    const std::vector<int> counts = count();
    EXPECT_EQ(counts[1] + counts[3], 0);
    states_[0].close(closed_by_probe);
    states_[2].close(closed_by_probe);
    EXPECT_THAT(count(), ElementsAre(0, 0, 0, 100));
}

TEST_F(SharedOut, MaglevMovesNobodyForShares) {
    share_out({.of = {1000, 1000, 1000, 1000}, .order = {0, 1, 2, 3}}, Policy::maglev);
    const auto home = [&](uint32_t client) {
        return selector_.choose({.client = IpAddress::v4(client), .cursor = cursor_, .now = start}).value();
    };
    std::vector<uint32_t> before;
    for (uint32_t client = 0; client < 100; ++client)
        before.push_back(home(client));
    share_out({.of = {1000, 100, 1000, 0}, .order = {0, 1, 2, 3}}, Policy::maglev);
    for (uint32_t client = 0; client < 100; ++client)
        EXPECT_EQ(home(client), before[client]);
}

}  // namespace
}  // namespace marchproxy::routing
