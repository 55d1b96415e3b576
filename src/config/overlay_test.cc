#include "config/overlay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/load.h"
#include "config/options.h"
#include "config/testing.h"

namespace marchproxy::config {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Variables = std::map<std::string, std::string>;

constexpr std::string_view file = "admin: { port: 1001 }\n";

uint16_t admin_port(const Variables& environment, const Variables& flags) {
    const Loaded loaded = load_text(file, "f", {"", environment, flags});
    EXPECT_EQ("", listed(loaded));
    return loaded.snapshot.settings.admin.port;
}

std::string problems(const Variables& environment, const Variables& flags = {}, std::string_view yaml = file) {
    return listed(load_text(yaml, "f", {"", environment, flags}));
}

TEST(Overlay, FlagsOverEnvironmentOverFileOverDefaults) {
    EXPECT_EQ(8081, load({}).snapshot.settings.admin.port);
    EXPECT_EQ(1001, admin_port({}, {}));
    EXPECT_EQ(1002, admin_port({{"ADMIN_PORT", "1002"}}, {}));
    EXPECT_EQ(1003, admin_port({{"ADMIN_PORT", "1002"}, {"MARCHPROXY_ADMIN__PORT", "1003"}}, {}));
    EXPECT_EQ(1004, admin_port({{"ADMIN_PORT", "1002"}, {"MARCHPROXY_ADMIN__PORT", "1003"}}, {{"admin.port", "1004"}}));
}

TEST(Overlay, WorksWithoutAFile) {
    const Loaded loaded = load({"", {{"LISTEN_PORT", "90"}, {"LOG_LEVEL", "debug"}}, {{"stream.workers", "2"}}});
    EXPECT_EQ("", listed(loaded));
    EXPECT_EQ(90, loaded.snapshot.settings.listen_port);
    EXPECT_EQ(LogLevel::debug, loaded.snapshot.settings.log.level);
    EXPECT_EQ(2U, loaded.snapshot.settings.stream.workers);
}

TEST(Overlay, AnEmptyShortVariableIsUnset) {
    EXPECT_EQ(1001, admin_port({{"ADMIN_PORT", ""}}, {}));
    EXPECT_EQ("environment MARCHPROXY_ADMIN__PORT: \"\" is not a whole number of 0 or more\n",
              problems({{"MARCHPROXY_ADMIN__PORT", ""}}));
}

TEST(Overlay, TruthAsNumbersInVariablesAndFlags) {
    EXPECT_FALSE(load({"", {{"ENABLE_METRICS", "0"}}, {}}).snapshot.settings.telemetry.metrics);
    EXPECT_EQ("", problems({{"ENABLE_METRICS", "1"}, {"ENABLE_QOS", "0"}}));
}

TEST(Overlay, ProblemsNameTheVariableOrFlag) {
    EXPECT_EQ("environment ADMIN_PORT: \"x\" is not a whole number of 0 or more\n", problems({{"ADMIN_PORT", "x"}}));
    EXPECT_EQ("flag --admin-port: \"70000\" is out of range; allowed: 1..65535\n",
              problems({}, {{"admin.port", "70000"}}));
    EXPECT_THAT(problems({{"ENABLE_OTEL", "true"}}),
                StartsWith("environment ENABLE_OTEL: exporting spans (tracing) is not in this version"));
    EXPECT_THAT(problems({}, {{"telemetry.tracing.enabled", "true"}}), HasSubstr("remove the flag or set it to false"));
    EXPECT_THAT(problems({}, {{"no.such", "1"}}), StartsWith("flag for no.such: there is no such key"));
}

TEST(Overlay, UnknownVariables) {
    EXPECT_EQ("environment MARCHPROXY_STREAM__WORKESR: names no key; did you mean MARCHPROXY_STREAM__WORKERS?\n",
              problems({{"MARCHPROXY_STREAM__WORKESR", "1"}}));
    EXPECT_THAT(problems({{"MARCHPROXY_BANANA", "1"}}),
                StartsWith("environment MARCHPROXY_BANANA: names no key; unset it"));
    EXPECT_THAT(problems({{"MARCHPROXY_SERVICES", "1"}}), HasSubstr("names no key"));
    EXPECT_THAT(problems({{"MARCHPROXY_SERVICES__N__NAME", "a"}}), HasSubstr("names no key"));
    EXPECT_EQ("", problems({{"PATH", "/bin"},
                            {"MARCHPROXYISH", "1"},
                            {"MARCHPROXY_CONFIG", "x"},
                            {"MARCHPROXY_INTERNAL_READY", "3"}}));
}

TEST(Overlay, KubernetesServiceLinksArePassedOver) {
    EXPECT_EQ("", problems({{"MARCHPROXY_SERVICE_HOST", "10.0.0.1"},
                            {"MARCHPROXY_SERVICE_PORT", "80"},
                            {"MARCHPROXY_PORT", "tcp://10.0.0.1:80"},
                            {"MARCHPROXY_PORT_80_TCP", "tcp://10.0.0.1:80"},
                            {"MARCHPROXY_PORT_80_TCP_ADDR", "10.0.0.1"},
                            {"MARCHPROXY_ADMIN_PORT_8081_TCP_PROTO", "tcp"}}));
}

TEST(Overlay, ListsAndTheirElements) {
    const Loaded loaded =
        load_text("services: [{ name: a, listen: 127.0.0.1:1, endpoints: [{ address: b:1 }] }]\n", "f",
                  {"",
                   {{"MARCHPROXY_SERVICES__0__NAME", "renamed"},
                    {"MARCHPROXY_SERVICES__0__ACCESS__ALLOW", "10.0.0.0/8,::1"},
                    {"MARCHPROXY_SERVICES__0__ACCESS__DENY", ""},
                    {"MARCHPROXY_SERVICES__0__ENDPOINTS__0__WEIGHT", "7"},
                    {"MARCHPROXY_SERVICES__1__NAME", "added"},
                    {"MARCHPROXY_SERVICES__1__LISTEN", "127.0.0.1:2"},
                    {"MARCHPROXY_SERVICES__1__ENDPOINTS__0__ADDRESS", "c:2"}},
                   {}});
    ASSERT_EQ("", listed(loaded));
    ASSERT_EQ(2U, loaded.snapshot.services.size());
    EXPECT_EQ("renamed", loaded.snapshot.services[0].name);
    EXPECT_EQ(2U, loaded.snapshot.services[0].access.allow.size());
    EXPECT_TRUE(loaded.snapshot.services[0].access.deny.empty());
    EXPECT_EQ(7U, loaded.snapshot.services[0].endpoints[0].weight);
    EXPECT_EQ("c:2", to_string(loaded.snapshot.services[1].endpoints[0].address));
}

TEST(Overlay, ElementsAreAddedInTheOrderOfTheirNumbers) {
    Variables environment;
    for (int i = 0; i < 12; ++i)
        environment["MARCHPROXY_PATHS__" + std::to_string(i) + "__NAME"] = "path-" + std::to_string(i);
    const Loaded loaded = load({"", environment, {}});
    EXPECT_EQ("", listed(loaded));
    EXPECT_EQ("path-10", loaded.snapshot.paths.at(10).name);
    EXPECT_EQ("environment MARCHPROXY_PATHS__7__NAME: there are 0 of paths; the next is number 0\n",
              problems({{"MARCHPROXY_PATHS__7__NAME", "a"}}));
    EXPECT_THAT(problems({{"MARCHPROXY_SERVICES__0__NAME", "a"}}),
                HasSubstr("environment MARCHPROXY_SERVICES__0__NAME: services[0].listen is missing"));
}

TEST(Overlay, AnOverriddenValueMustStillBeOfItsType) {
    EXPECT_EQ("f:1:16: admin.port: \"x\" is not a whole number of 0 or more\n",
              problems({{"ADMIN_PORT", "1002"}}, {}, "admin: { port: x }"));
    // What it asks for does not matter any more.
    EXPECT_EQ("", problems({}, {{"qos.enabled", "false"}}, "qos: { enabled: true }"));
    EXPECT_THAT(problems({{"ADMIN_PORT", "1002"}}, {}, "admin: 5"),
                HasSubstr("environment ADMIN_PORT: cannot be set: admin is not a map in the file"));
}

TEST(Overlay, TheFirstOfSeveralShortNamesWins) {
    const Variables both{{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"}, {"JAEGER_ENDPOINT", "nonsense"}};
    EXPECT_THAT(problems(both),
                StartsWith("environment OTEL_EXPORTER_OTLP_ENDPOINT: exporting spans (tracing) is not"));
}

TEST(Overlay, SecretsAreNotRepeatedInProblems) {
    EXPECT_THAT(problems({{"MARCHPROXY_ADMIN__TOKEN", "s3cr3t word"}}), testing::Not(HasSubstr("s3cr3t")));
}

}  // namespace
}  // namespace marchproxy::config
