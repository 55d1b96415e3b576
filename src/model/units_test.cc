#include "model/units.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace marchproxy {
namespace {

using testing::HasSubstr;

TEST(Units, RatesAreBitsInPowersOfThousand) {
    EXPECT_EQ(parse_rate("10Gbps")->bits_per_second, 10'000'000'000U);
    EXPECT_EQ(parse_rate("1.5Mbps")->bits_per_second, 1'500'000U);
    EXPECT_EQ(parse_rate("64Kbps")->bits_per_second, 64'000U);
    EXPECT_EQ(parse_rate("0bps")->bits_per_second, 0U);
    EXPECT_EQ(parse_rate("1.500Kbps")->bits_per_second, 1'500U);
    EXPECT_EQ(parse_rate("18446744073709551615bps")->bits_per_second, UINT64_MAX);
}

TEST(Units, SizesKnowBothPrefixes) {
    EXPECT_EQ(parse_bytes("1MiB")->count, 1U << 20);
    EXPECT_EQ(parse_bytes("4MB")->count, 4'000'000U);
    EXPECT_EQ(parse_bytes("512B")->count, 512U);
    EXPECT_EQ(parse_bytes("0.5KiB")->count, 512U);
    EXPECT_EQ(parse_bytes("2GiB")->count, 2ULL << 30);
}

TEST(Units, Durations) {
    using namespace std::chrono_literals;
    EXPECT_EQ(*parse_duration("200ms"), 200ms);
    EXPECT_EQ(*parse_duration("1h"), 1h);
    EXPECT_EQ(*parse_duration("1.5s"), 1500ms);
    EXPECT_EQ(*parse_duration("50us"), 50us);
    EXPECT_EQ(*parse_duration("0.5us"), 500ns);
    EXPECT_EQ(*parse_duration("30m"), 30min);
}

TEST(Units, SharesAndFrequencies) {
    EXPECT_DOUBLE_EQ(parse_share("5%")->fraction, 0.05);
    EXPECT_DOUBLE_EQ(parse_share("12.5%")->fraction, 0.125);
    EXPECT_DOUBLE_EQ(parse_share("100%")->fraction, 1.0);
    EXPECT_DOUBLE_EQ(parse_frequency("20000/s")->per_second, 20000);
    EXPECT_DOUBLE_EQ(parse_frequency("0.5/s")->per_second, 0.5);
}

TEST(Units, RefusesWhatIsNotPlainlyAQuantity) {
    for (const std::string_view text : {"",
                                        "Gbps",
                                        "10",
                                        "10 Gbps",
                                        " 10Gbps",
                                        "10Gbps ",
                                        "10Gbpsx",
                                        "-1Gbps",
                                        "+1Gbps",
                                        "1e3bps",
                                        "0x10bps",
                                        "nanbps",
                                        "infGbps",
                                        "1.Gbps",
                                        ".5Gbps",
                                        "1..5Gbps",
                                        "1.5.5Gbps",
                                        "1,5Gbps",
                                        "10gbps",
                                        "10GB",
                                        "0.5bps",
                                        "18446744073709551616bps",
                                        "18446744074Gbps",
                                        "99999999999999999999999999Gbps"})
        EXPECT_FALSE(parse_rate(text).ok()) << text;
    for (const std::string_view text : {"1024", "1Mib", "1M", "1mb", "0.3B", "17179869184GiB"})
        EXPECT_FALSE(parse_bytes(text).ok()) << text;
    for (const std::string_view text : {"200", "1d", "1S", "0.0001us", "2562048h", "9223372036854775808us"})
        EXPECT_FALSE(parse_duration(text).ok()) << text;
    for (const std::string_view text : {"5", "0.05", "101%", "-5%", "nan%", "5e1%", "5%%"})
        EXPECT_FALSE(parse_share(text).ok()) << text;
    for (const std::string_view text : {"20000", "/s", "1/m", "inf/s", "1e5/s", "0x5/s"})
        EXPECT_FALSE(parse_frequency(text).ok()) << text;
    EXPECT_FALSE(parse_frequency(std::string(400, '9') + "/s").ok());
    EXPECT_FALSE(parse_rate(std::string_view("1Gbps\0", 6)).ok());
    for (size_t zeros = 1; zeros < 300; ++zeros)
        EXPECT_FALSE(parse_rate("0." + std::string(zeros, '0') + "1bps").ok());
    EXPECT_EQ(parse_rate("1." + std::string(300, '0') + "bps")->bits_per_second, 1U);
}

TEST(Units, ErrorsNameTheTextAndShowOneThatWouldDo) {
    EXPECT_THAT(parse_rate("1000").error(), HasSubstr("\"1000\""));
    EXPECT_THAT(parse_rate("1000").error(), HasSubstr("unit is missing"));
    EXPECT_THAT(parse_rate("1000").error(), HasSubstr("10Gbps"));
    EXPECT_THAT(parse_duration("5 min").error(), HasSubstr("h, m, s, ms, us"));
    EXPECT_LT(parse_rate(std::string(100'000, 'x')).error().size(), 250U);
}

TEST(Units, PrintsTheFormAPersonWouldWrite) {
    using namespace std::chrono_literals;
    EXPECT_EQ(to_string(Rate{10'000'000'000}), "10Gbps");
    EXPECT_EQ(to_string(Rate{1'500'000}), "1.5Mbps");
    EXPECT_EQ(to_string(Rate{0}), "0bps");
    EXPECT_EQ(to_string(Bytes{1 << 20}), "1MiB");
    EXPECT_EQ(to_string(Bytes{4'000'000}), "4MB");
    EXPECT_EQ(to_string(Bytes{1500}), "1.5KB");
    EXPECT_EQ(to_string(Duration{0}), "0s");
    EXPECT_EQ(to_string(Duration{100ms}), "100ms");
    EXPECT_EQ(to_string(Duration{1500ms}), "1.5s");
    EXPECT_EQ(to_string(Duration{1h}), "1h");
    EXPECT_EQ(to_string(Duration{90s}), "90s");
    EXPECT_EQ(to_string(Share{0.1}), "10%");
    EXPECT_EQ(to_string(Share{0.075}), "7.5%");
    EXPECT_EQ(to_string(Share{0.0001}), "0.01%");
    EXPECT_EQ(to_string(Share{1}), "100%");
    EXPECT_EQ(to_string(Share{0}), "0%");
    EXPECT_EQ(to_string(Frequency{20000}), "20000/s");
    EXPECT_EQ(to_string(Frequency{0.5}), "0.5/s");
}

TEST(Units, EveryPrintedValueIsReadBackAsItself) {
    std::mt19937_64 random(7);
    for (int i = 0; i < 20'000; ++i) {
        const uint64_t value = random() >> (random() % 64);
        EXPECT_EQ(*parse_rate(to_string(Rate{value})), Rate{value});
        EXPECT_EQ(*parse_bytes(to_string(Bytes{value})), Bytes{value});
        const Duration duration{static_cast<int64_t>(value >> 1)};
        EXPECT_EQ(*parse_duration(to_string(duration)), duration);
        const double real = std::uniform_real_distribution<>(0, 1)(random);
        EXPECT_EQ(*parse_share(to_string(Share{real})), Share{real});
        EXPECT_EQ(*parse_frequency(to_string(Frequency{real * 1e6})), Frequency{real * 1e6});
    }
}

}  // namespace
}  // namespace marchproxy
