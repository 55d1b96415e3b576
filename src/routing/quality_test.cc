#include "routing/quality.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace marchproxy::routing {
namespace {

using namespace std::chrono_literals;

constexpr Thresholds usual{.fall = 3, .rise = 2};

struct QualityTest : testing::Test {
    bool answer(Duration round_trip = 10ms) { return quality.answered(round_trip, usual, now += 200ms); }
    bool lose() { return quality.lost(usual, now += 200ms); }
    void fall() {
        for (unsigned i = 0; i < usual.fall; ++i)
            lose();
        ASSERT_FALSE(quality.up());
    }
    // How many answers it takes.
    unsigned rise() {
        unsigned count = 1;
        while (!answer())
            ++count;
        return count;
    }

    Quality quality;
    TimePoint now{1h};
};

TEST_F(QualityTest, FallsAndRisesAtItsThresholds) {
    EXPECT_TRUE(quality.up());
    EXPECT_FALSE(quality.reading().changed);
    EXPECT_FALSE(lose());
    EXPECT_FALSE(lose());
    EXPECT_FALSE(answer());  // not in a row
    EXPECT_FALSE(lose());
    EXPECT_FALSE(lose());
    EXPECT_TRUE(lose());
    EXPECT_FALSE(quality.up());
    EXPECT_EQ(quality.reading().changed, now);
    EXPECT_FALSE(lose());
    EXPECT_FALSE(answer());
    EXPECT_TRUE(answer());
    EXPECT_TRUE(quality.up());
}

TEST_F(QualityTest, OneThatFlapsHasToProveItselfLonger) {
    for (const unsigned needed : {2U, 4U, 8U, 16U, 32U, 64U, 128U, 128U}) {
        fall();
        EXPECT_EQ(quality.needed(usual), needed);
        EXPECT_EQ(rise(), needed);
    }
    now += Quality::memory;
    fall();
    EXPECT_EQ(rise(), 2U);
}

TEST_F(QualityTest, SmoothsAsTcpAndRtpDo) {
    EXPECT_FALSE(quality.round_trip());
    std::mt19937 random(7);
    std::uniform_real_distribution<double> milliseconds(5, 25);
    double smoothed = 0, jitter = 0, last = 0;
    for (int i = 0; i < 1000; ++i) {
        const double sample = milliseconds(random);
        answer(std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::milli>(sample)));
        smoothed = i == 0 ? sample : smoothed + (sample - smoothed) / 8;
        jitter = i == 0 ? 0 : jitter + (std::abs(sample - last) - jitter) / 16;
        last = sample;
    }
    EXPECT_NEAR(std::chrono::duration<double>(*quality.round_trip()).count() * 1e3, smoothed, 1e-3);
    EXPECT_NEAR(std::chrono::duration<double>(quality.jitter()).count() * 1e3, jitter, 1e-3);
}

TEST_F(QualityTest, ForgetsTheLeastRoundTripAfterAWhile) {
    answer(3ms);
    for (int i = 0; i < 100; ++i)
        answer(20ms);
    EXPECT_EQ(quality.least_round_trip(), 3ms);
    for (int i = 0; i < 1000; ++i)
        answer(20ms);
    EXPECT_EQ(quality.least_round_trip(), 20ms);
}

TEST_F(QualityTest, CountsLossOverTheLastProbesOnly) {
    EXPECT_EQ(quality.loss_ratio(), 0);
    lose();
    EXPECT_EQ(quality.loss_ratio(), 1);
    for (uint32_t i = 1; i < Quality::window; ++i)
        i % 32 == 0 ? lose() : answer();
    EXPECT_DOUBLE_EQ(quality.loss_ratio(), 4.0 / Quality::window);
    for (uint32_t i = 0; i < Quality::window; ++i)
        answer();
    EXPECT_EQ(quality.loss_ratio(), 0);
}

TEST_F(QualityTest, AClockThatGoesBackDoesNoHarm) {
    answer(-5ms);
    EXPECT_EQ(quality.round_trip(), Duration(0));
    fall();
    now -= 30min;
    rise();
    fall();
    EXPECT_EQ(quality.needed(usual), 4U);
}

TEST_F(QualityTest, WhatWasLostWhileItWasDownIsForgottenWhenItRises) {
    fall();
    EXPECT_EQ(quality.loss_ratio(), 1);
    rise();
    EXPECT_EQ(quality.loss_ratio(), 0);
    answer();
    lose();
    EXPECT_EQ(quality.loss_ratio(), 0.5);
}

TEST_F(QualityTest, ALoneLateAnswerIsNotTypical) {
    EXPECT_FALSE(quality.reading().typical);
    answer(20ms);
    EXPECT_EQ(quality.reading().typical, 20ms);
    for (int i = 0; i < 24; ++i)
        answer(20ms);
    for (int i = 0; i < 12; ++i)
        answer(500ms);
    EXPECT_EQ(quality.reading().typical, 20ms);
    answer(500ms);
    EXPECT_EQ(quality.reading().typical, 500ms);
    EXPECT_EQ(quality.reading().probes, 38U);
}

}  // namespace
}  // namespace marchproxy::routing
