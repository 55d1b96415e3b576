#include "config/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "config/print.h"
#include "config/suggest.h"
#include "config/testing.h"

namespace marchproxy::config {
namespace {

TEST(Options, TheReferencePageIsCurrent) {
    const auto page = repository / "docs/reference/configuration.md";
    if (std::getenv("MARCHPROXY_UPDATE_DOCS") != nullptr) std::ofstream(page) << reference_markdown();
    EXPECT_EQ(contents(page), reference_markdown())
        << page << " is not current: run this test with MARCHPROXY_UPDATE_DOCS=1";
}

TEST(Options, NamesAreUniqueAndEveryRowIsDocumented) {
    std::set<std::string> keys, variables;
    for (const Option& option : options()) {
        EXPECT_TRUE(keys.insert(option.key).second) << option.key;
        EXPECT_TRUE(variables.insert(environment_name(option.key)).second) << option.key;
        EXPECT_FALSE(option.documentation.empty()) << option.key;
    }
}

TEST(Options, TheContractsFlagsAndVariables) {
    std::map<std::string, std::pair<std::string, std::string>> found;
    for (const Option& option : options())
        if (!option.flag.empty()) found[option.key] = {std::string(option.flag), std::string(option.environment)};
    const std::map<std::string, std::pair<std::string, std::string>> contract{
        {"manager.url", {"-m,--manager-url", "MANAGER_URL"}},
        {"manager.cluster_api_key", {"-k,--cluster-api-key", "CLUSTER_API_KEY"}},
        {"listen.port", {"-p,--listen-port", "LISTEN_PORT"}},
        {"admin.port", {"-a,--admin-port", "ADMIN_PORT"}},
        {"log.level", {"-l,--log-level", "LOG_LEVEL"}},
        {"packet.enabled", {"--enable-ebpf", "ENABLE_EBPF"}},
        {"qos.enabled", {"--enable-qos", "ENABLE_QOS"}},
        {"multicloud.enabled", {"--enable-multicloud", "ENABLE_MULTICLOUD"}},
        {"telemetry.tracing.enabled", {"--enable-otel", "ENABLE_OTEL"}},
        {"telemetry.metrics.enabled", {"--enable-metrics", "ENABLE_METRICS"}},
        {"numa.enabled", {"--numa-optimization", "NUMA_OPTIMIZATION"}},
        {"telemetry.tracing.endpoint", {"--otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT,JAEGER_ENDPOINT"}},
        {"stream.workers", {"--workers", "WORKERS"}},
    };
    EXPECT_EQ(contract, found);
}

TEST(Options, EnvironmentNames) {
    EXPECT_EQ("MARCHPROXY_STREAM__IDLE_TIMEOUT", environment_name("stream.idle_timeout"));
    EXPECT_EQ("MARCHPROXY_SERVICES__N__ENDPOINTS__N__WEIGHT", environment_name("services[].endpoints[].weight"));
}

TEST(Options, WhatNeedsARestart) {
    Snapshot running, next;
    EXPECT_TRUE(restart_needed(running, next).empty());
    next.settings.log.level = LogLevel::debug;
    next.settings.listen_port = 1;
    next.services.emplace_back();
    EXPECT_TRUE(restart_needed(running, next).empty());
    next.settings.stream.workers = 9;
    next.settings.stream.buffer = Bytes{4096};
    EXPECT_EQ((std::vector<std::string>{"stream.workers", "stream.buffer"}), restart_needed(running, next));
}

TEST(Print, TheContractsUnitsAndNoSecrets) {
    Snapshot snapshot;
    snapshot.settings.admin.token = "s3cr3t";
    snapshot.settings.manager.cluster_api_key = "s3cr3t";
    snapshot.settings.qos.link_rate = Rate{5000};
    snapshot.settings.multicloud.locality = Location{1, 2};
    snapshot.paths.push_back({.name = "aws", .bandwidth = Rate{7}});
    Service service;
    service.name = "web";
    service.listen = *SocketAddress::parse("127.0.0.1:80");
    service.limits.new_connections = Frequency{20};
    service.qos.rate.up = Rate{3};
    service.access.allow = {*Prefix::parse("10.0.0.0/8")};
    Endpoint& endpoint = service.endpoints.emplace_back();
    endpoint.address = *HostPort::parse("db:5432");
    endpoint.path = "aws";
    endpoint.weight = 3;
    snapshot.services.push_back(service);

    const nlohmann::json json = to_json(snapshot);
    EXPECT_THAT(json.dump(), testing::Not(testing::HasSubstr("s3cr3t")));
    EXPECT_EQ("***", json["admin"]["token"]);
    EXPECT_EQ("***", json["manager"]["cluster_api_key"]);
    EXPECT_EQ("", to_json(Snapshot())["admin"]["token"]);
    EXPECT_EQ(30.0, json["drain_timeout"]);
    EXPECT_EQ(1048576, json["stream"]["buffer"]);
    EXPECT_EQ(5000, json["qos"]["link_rate"]);
    EXPECT_EQ(2.0, json["multicloud"]["locality"]["lon"]);
    EXPECT_EQ(7, json["paths"][0]["bandwidth"]);
    const nlohmann::json& web = json["services"][0];
    EXPECT_EQ("127.0.0.1:80", web["listen"]);
    EXPECT_EQ(20.0, web["limits"]["new_connections"]);
    EXPECT_TRUE(web["limits"]["connections"].is_null());
    EXPECT_EQ((nlohmann::json{{"up", 3}, {"down", nullptr}}), web["qos"]["rate"]);
    EXPECT_EQ("10.0.0.0/8", web["access"]["allow"][0]);
    EXPECT_EQ((nlohmann::json{{"address", "db:5432"}, {"path", "aws"}, {"weight", 3}}), web["endpoints"][0]);
}

TEST(Print, EveryRowIsPrinted) {
    const nlohmann::json json = to_json(Snapshot());
    for (const Option& option : options()) {
        if (option.key.find('[') != std::string::npos) continue;
        std::string pointer = "/" + option.key;
        std::replace(pointer.begin(), pointer.end(), '.', '/');
        EXPECT_TRUE(json.contains(nlohmann::json::json_pointer(pointer))) << option.key;
    }
}

TEST(Suggest, Distance) {
    EXPECT_EQ(0U, edit_distance("listen", "listen"));
    EXPECT_EQ(1U, edit_distance("listne", "listen"));
    EXPECT_EQ(1U, edit_distance("lisen", "listen"));
    EXPECT_EQ(2U, edit_distance("adress", "addresss"));
    EXPECT_EQ(3U, edit_distance("", "abc"));
}

TEST(Suggest, OnlyWhatIsNear) {
    EXPECT_EQ("weight", nearest("wieght", {"address", "path", "weight"}));
    EXPECT_EQ("", nearest("color", {"name", "listen"}));
    EXPECT_EQ("", nearest(std::string(10'000, 'a'), {"a"}));
}

}  // namespace
}  // namespace marchproxy::config
