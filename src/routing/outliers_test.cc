#include "routing/outliers.h"

#include <gtest/gtest.h>

namespace marchproxy::routing {
namespace {

using namespace std::chrono_literals;

struct OutliersTest : testing::Test {
    static constexpr size_t count = 4;
    // Ten times a second, for so long, with what is added each time.
    void run(Duration time, const std::vector<TrafficCounts>& each) {
        for (Duration passed{}; passed < time; passed += 100ms) {
            now += 100ms;
            for (size_t i = 0; i < count; ++i) {
                counts[i].attempts += each[i].attempts;
                counts[i].failures += each[i].failures;
                counts[i].segments += each[i].segments;
                counts[i].retransmissions += each[i].retransmissions;
            }
            outliers.update(counts, takes, most, now);
        }
    }
    size_t ejected() const {
        size_t sum = 0;
        for (size_t i = 0; i < count; ++i)
            sum += outliers.ejected(i) ? 1 : 0;
        return sum;
    }
    Outliers outliers{count};
    std::vector<TrafficCounts> counts{count};
    std::vector<bool> takes = std::vector<bool>(count, true);
    Share most{0.5};
    TimePoint now = TimePoint{} + 1000s;
};

TEST_F(OutliersTest, WhoLosesWhatOthersDoNotIsEjected) {
    const TrafficCounts good{.segments = 100}, bad{.segments = 100, .retransmissions = 3};
    run(3s, {good, good, bad, good});
    EXPECT_TRUE(outliers.ejected(2));
    EXPECT_EQ(ejected(), 1U);
    EXPECT_NE(outliers.why(2).find("3.0%"), std::string::npos) << outliers.why(2);
    EXPECT_EQ(outliers.why(0), "");
    EXPECT_NEAR(outliers.loss_ratio(2), 0.03, 0.001);
}

TEST_F(OutliersTest, WhereAllLoseNobodyIs) {
    const TrafficCounts bad{.attempts = 10, .failures = 6, .segments = 100, .retransmissions = 5};
    run(20s, {bad, bad, bad, bad});
    EXPECT_EQ(ejected(), 0U);
}

TEST_F(OutliersTest, FewFailuresAreNoReason) {
    run(100ms, {{.attempts = 4, .failures = 4}, {.attempts = 10}, {.attempts = 10}, {.attempts = 10}});
    run(20s, {{}, {}, {}, {}});
    EXPECT_EQ(ejected(), 0U);
    run(300ms, {{.attempts = 2, .failures = 2}, {.attempts = 10}, {.attempts = 10}, {.attempts = 10}});
    EXPECT_TRUE(outliers.ejected(0));
    EXPECT_NE(outliers.why(0).find("of 6 connections failed"), std::string::npos) << outliers.why(0);
}

TEST_F(OutliersTest, WhatWasBeforeTheFirstLookDoesNotCount) {
    counts[1] = {.attempts = 1000, .failures = 1000};
    run(5s, {{}, {}, {}, {}});
    EXPECT_EQ(ejected(), 0U);
}

TEST_F(OutliersTest, NoMoreThanTheShareAreEjected) {
    const TrafficCounts good{.attempts = 100}, bad{.attempts = 10, .failures = 10};
    run(5s, {bad, bad, bad, good});
    EXPECT_EQ(ejected(), 2U);
    most = {0.2};  // of four: none
    Outliers none(count);
    for (int i = 0; i < 50; ++i)
        none.update(counts, takes, most, now += 100ms);
    EXPECT_FALSE(none.ejected(0));
}

TEST_F(OutliersTest, TheTimeDoublesForWhoDoesItAgainAndIsForgottenInTime) {
    const std::vector<TrafficCounts> one_bad{{.attempts = 2, .failures = 2}, {.attempts = 9}, {}, {}},
        quiet{{}, {}, {}, {}};
    const auto time_of_one = [&] {
        while (!outliers.ejected(0))
            run(100ms, one_bad);
        const TimePoint since = now;
        while (outliers.ejected(0))
            run(100ms, quiet);
        return now - since;
    };
    EXPECT_EQ(time_of_one(), 10s);
    EXPECT_EQ(time_of_one(), 20s);
    EXPECT_EQ(time_of_one(), 40s);
    run(201s, quiet);
    EXPECT_EQ(time_of_one(), 10s);
    for (int i = 0; i < 8; ++i)
        time_of_one();
    EXPECT_EQ(time_of_one(), 5min);
}

TEST_F(OutliersTest, AfterAPauseTheWindowIsEmpty) {
    run(1s, {{}, {}, {.segments = 100, .retransmissions = 10}, {}});
    now += 1h;
    outliers.update(counts, takes, most, now);
    EXPECT_EQ(outliers.loss_ratio(2), 0);
}

}  // namespace
}  // namespace marchproxy::routing
