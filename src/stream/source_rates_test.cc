#include "stream/source_rates.h"

#include <gtest/gtest.h>

namespace marchproxy::stream {
namespace {

using namespace std::chrono_literals;

class SourceRate : public ::testing::Test {
  protected:
    bool admit(const char* source = "192.0.2.1") { return rates.admit(*IpAddress::parse(source), limit, now); }
    int admitted_at_once() {
        int count = 0;
        while (count < 10'000 && admit())
            ++count;
        return count;
    }

    SourceRates rates;
    Frequency limit{10};
    TimePoint now = TimePoint(1h);
};

TEST_F(SourceRate, ABurstOfASecondAndThenTheRate) {
    EXPECT_EQ(admitted_at_once(), 10);
    EXPECT_TRUE(admit("192.0.2.2")) << "each address has its own";
    EXPECT_TRUE(admit("2001:db8::1"));
    now += 99ms;
    EXPECT_EQ(admitted_at_once(), 0);
    now += 1ms;
    EXPECT_EQ(admitted_at_once(), 1);
    now += 500ms;
    EXPECT_EQ(admitted_at_once(), 5);
    now += 1h;
    EXPECT_EQ(admitted_at_once(), 10);
}

TEST_F(SourceRate, BelowOneASecondOneAtATime) {
    limit = Frequency{0.1};
    EXPECT_EQ(admitted_at_once(), 1);
    now += 9999ms;
    EXPECT_EQ(admitted_at_once(), 0);
    now += 1ms;
    EXPECT_EQ(admitted_at_once(), 1);
}

TEST_F(SourceRate, AChangedLimitHoldsAtOnce) {
    limit = Frequency{0.001};
    EXPECT_EQ(admitted_at_once(), 1);
    limit = Frequency{10};
    EXPECT_TRUE(admit());
    now += 1s;
    EXPECT_EQ(admitted_at_once(), 10);
}

// However many come, memory is bounded; and those who are at their limit are not forgotten for others who are not.
TEST_F(SourceRate, MemoryIsBounded) {
    IpAddress source = *IpAddress::parse("2001:db8::");
    for (uint32_t i = 0; i < 3 * SourceRates::most; ++i) {
        source.bytes[12] = static_cast<uint8_t>(i >> 24);
        source.bytes[13] = static_cast<uint8_t>(i >> 16);
        source.bytes[14] = static_cast<uint8_t>(i >> 8);
        source.bytes[15] = static_cast<uint8_t>(i);
        EXPECT_TRUE(rates.admit(source, limit, now));
        now += 1us;
    }
    EXPECT_LE(rates.remembered(), SourceRates::most);
    EXPECT_EQ(admitted_at_once(), 10);
    EXPECT_FALSE(admit());
    now += 1ms;
    EXPECT_FALSE(admit());
}

}  // namespace
}  // namespace marchproxy::stream
