#include "telemetry/log.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

namespace marchproxy::telemetry {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

struct LogTest : testing::Test {
    std::vector<std::string> lines;
    TimePoint now{std::chrono::hours(1)};
    Log log{LogLevel::info, LogFormat::json, [this](std::string_view line) { lines.emplace_back(line); },
            [this] { return now; }};
};

TEST_F(LogTest, WritesOneJsonObjectALineWithFieldsOfTheirType) {
    log.warn("endpoint refused", {{"service", "web"},
                                  {"attempts", 2},
                                  {"bytes", uint64_t{18446744073709551615u}},
                                  {"ratio", 0.5},
                                  {"up", false}});
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_THAT(lines[0], Not(HasSubstr("\n")));
    const json line = json::parse(lines[0]);
    EXPECT_TRUE(
        std::regex_match(line["time"].get<std::string>(), std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")));
    EXPECT_EQ(line["level"], "WARN");
    EXPECT_EQ(line["event"], "endpoint refused");
    EXPECT_EQ(line["service"], "web");
    EXPECT_EQ(line["attempts"], 2);
    EXPECT_EQ(line["bytes"].get<uint64_t>(), 18446744073709551615u);
    EXPECT_EQ(line["ratio"], 0.5);
    EXPECT_EQ(line["up"], false);
}

TEST_F(LogTest, StartsEveryLineWithTimeLevelAndEvent) {
    log.info("started", {{"a", 1}});
    EXPECT_EQ(lines[0].find(R"({"time":)"), 0u);
    EXPECT_LT(lines[0].find("level"), lines[0].find("event"));
    EXPECT_LT(lines[0].find("event"), lines[0].find("\"a\""));
}

TEST_F(LogTest, SurvivesWhatAPeerSends) {
    const std::string hostile("\xff\xfe\0 \"quoted\"\n\x1b[31m\x80", 19);
    for (LogFormat format : {LogFormat::json, LogFormat::text}) {
        log.configure(LogLevel::info, format);
        log.info(hostile, {{"header", hostile}});
        EXPECT_EQ(lines.back().find_first_of(std::string("\n\x1b\xff\0", 4)), std::string::npos) << lines.back();
    }
    const json line = json::parse(lines[0]);
    EXPECT_THAT(line["header"].get<std::string>(), HasSubstr("\"quoted\"\n\x1b[31m"));
}

TEST_F(LogTest, WritesTextForPeople) {
    log.configure(LogLevel::debug, LogFormat::text);
    log.debug("service started", {{"service", "web"}, {"listen", "[::1]:80"}, {"note", "two words"}, {"port", 80}});
    EXPECT_THAT(lines[0], HasSubstr("Z DEBUG service started service=web listen=[::1]:80 note=\"two words\" port=80"));
}

TEST_F(LogTest, LeavesOutWhatIsBelowItsLevel) {
    log.debug("hidden");
    EXPECT_TRUE(lines.empty());
    EXPECT_FALSE(log.enabled(LogLevel::debug));
    log.configure(LogLevel::debug, LogFormat::json);
    log.debug("shown");
    EXPECT_EQ(lines.size(), 1u);
}

TEST_F(LogTest, LimitsALineOfOneKeyToOneASecondAndCountsTheOthers) {
    for (int i = 0; i < 5; ++i)
        log.limited(LogLevel::warn, "refused 10.0.0.1:80", "endpoint refused");
    log.limited(LogLevel::warn, "refused 10.0.0.2:80", "endpoint refused");
    EXPECT_EQ(lines.size(), 2u);
    now += std::chrono::milliseconds(999);
    log.limited(LogLevel::warn, "refused 10.0.0.1:80", "endpoint refused");
    EXPECT_EQ(lines.size(), 2u);
    now += std::chrono::milliseconds(1);
    log.limited(LogLevel::warn, "refused 10.0.0.1:80", "endpoint refused");
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_FALSE(json::parse(lines[0]).contains("suppressed"));
    EXPECT_EQ(json::parse(lines[2])["suppressed"], 5);
}

TEST_F(LogTest, BoundsTheKeysOfAFloodAndLosesNoCount) {
    for (int i = 0; i < 100'000; ++i)
        log.limited(LogLevel::warn, std::to_string(i), "bad header");
    EXPECT_EQ(lines.size(), 1025u) << "1024 keys of their own, and one line for all others";
    now += std::chrono::seconds(1);
    lines.clear();
    for (int i = 100'000; i < 101'025; ++i)
        log.limited(LogLevel::warn, std::to_string(i), "bad header");
    uint64_t suppressed = 0;
    for (const std::string& line : lines)
        suppressed += json::parse(line).value("suppressed", 0u);
    EXPECT_EQ(suppressed, 100'000u - 1025u);
}

TEST_F(LogTest, KeepsLinesWholeFromManyThreads) {
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread)
        threads.emplace_back([&] {
            for (int i = 0; i < 500; ++i)
                log.info("line", {{"number", i}});
        });
    for (std::thread& thread : threads)
        thread.join();
    ASSERT_EQ(lines.size(), 2000u);
    for (const std::string& line : lines)
        EXPECT_TRUE(json::accept(line)) << line;
}

}  // namespace
}  // namespace marchproxy::telemetry
