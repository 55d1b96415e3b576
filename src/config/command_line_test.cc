#include "config/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <CLI/CLI.hpp>

#include "config/testing.h"

namespace marchproxy::config {
namespace {

FlagValues parse(std::vector<std::string> arguments) {
    FlagValues values;
    CLI::App app;
    add_run_flags(app, values);
    std::reverse(arguments.begin(), arguments.end());
    app.parse(arguments);
    return values;
}

using Flags = std::map<std::string, std::string>;

TEST(CommandLine, OnlyWhatWasGiven) {
    EXPECT_TRUE(parse({}).flags.empty());
    const FlagValues values = parse({"-c", "a.yaml", "-p", "90", "--admin-port=91", "-l", "debug", "--workers", "2"});
    EXPECT_EQ("a.yaml", values.file);
    EXPECT_EQ((Flags{{"listen.port", "90"}, {"admin.port", "91"}, {"log.level", "debug"}, {"stream.workers", "2"}}),
              values.flags);
}

TEST(CommandLine, SwitchesTakeTheirValueOnlyAfterAnEqualsSign) {
    EXPECT_EQ((Flags{{"qos.enabled", "true"}, {"stream.workers", "2"}}),
              parse({"--enable-qos", "--workers", "2"}).flags);
    EXPECT_EQ((Flags{{"packet.enabled", "false"}, {"telemetry.metrics.enabled", "banana"}}),
              parse({"--enable-ebpf=false", "--enable-metrics=banana"}).flags);
    EXPECT_THROW(parse({"--no-such-flag"}), CLI::ParseError);
}

TEST(CommandLine, ValuesThatLookLikeFlagsAreKept) {
    EXPECT_EQ((Flags{{"stream.workers", "-1"}}), parse({"--workers=-1"}).flags);
}

TEST(CommandLine, TheFileByFlagOverTheFileByEnvironment) {
    ASSERT_EQ(0, setenv("MARCHPROXY_CONFIG", "by-environment", 1));
    EXPECT_EQ("by-environment", sources_of({}).file);
    EXPECT_EQ("by-flag", sources_of({"by-flag", {}}).file);
    EXPECT_EQ("by-environment", sources_of({}).environment.at("MARCHPROXY_CONFIG"));
    ASSERT_EQ(0, unsetenv("MARCHPROXY_CONFIG"));
    EXPECT_EQ("", sources_of({}).file);
}

}  // namespace
}  // namespace marchproxy::config
