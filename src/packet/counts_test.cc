#include "packet/counts.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>

#include <numeric>
#include <optional>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint32_t indexes = 8;

class CountsTest : public ::testing::Test {
  protected:
    static void SetUpTestSuite() {
        if (::geteuid() != 0 || !testing::load_xdp()) return;
        auto loaded = Programs::load(
            {.flows = 1, .services = indexes, .endpoints = indexes, .ring_slots = 64, .report_bytes = 1 << 14});
        ASSERT_TRUE(loaded.ok()) << loaded.error();
        programs.emplace(std::move(*loaded));
    }
    static void TearDownTestSuite() { programs.reset(); }
    void SetUp() override {
        if (!programs) GTEST_SKIP() << "the kernel takes no BPF programs from this process";
        for (uint32_t index = 0; index < indexes; ++index) {
            ASSERT_TRUE(programs->clear_service(index).ok());
            ASSERT_TRUE(programs->clear_endpoint(index).ok());
        }
    }

    // As packets would, on two CPUs.
    template <class T>
    static void write(const char* map, uint32_t index, const T& counters) {
        std::vector<T> values(static_cast<size_t>(libbpf_num_possible_cpus()));
        auto* first = reinterpret_cast<__u64*>(&values.front());
        auto* last = reinterpret_cast<__u64*>(&values.back());
        const auto* wanted = reinterpret_cast<const __u64*>(&counters);
        for (size_t word = 0; word < sizeof(T) / sizeof(__u64); ++word) {
            first[word] += wanted[word] / 2;
            last[word] += wanted[word] - wanted[word] / 2;
        }
        ASSERT_EQ(bpf_map_update_elem(programs->map(map), &index, values.data(), BPF_ANY), 0);
    }
    // Everything of a service, or an endpoint, at `flows` times as much.
    static void service_has(uint32_t index, uint64_t flows, uint64_t ended = 0) {
        abi::packet_counters counters{.packets = {3 * flows, 5 * flows},
                                      .bytes = {100 * flows, 1000 * flows},
                                      .flows = flows,
                                      .ended = ended,
                                      .stateless = 0,
                                      .uncounted = 11 * flows,
                                      .cookies = 13 * flows,
                                      .proven = 17 * flows,
                                      .dropped = {}};
        counters.dropped[abi::packet_verdict_access_denied] = 7 * flows;
        write("service_counts", index, counters);
    }
    static void endpoint_has(uint32_t index, uint64_t flows, uint64_t ended = 0) {
        write("endpoint_counts", index,
              abi::endpoint_counters{.packets = {3 * flows, 5 * flows},
                                     .bytes = {100 * flows, 1000 * flows},
                                     .flows = flows,
                                     .ended = ended});
    }
    telemetry::ServiceStatus status_of(const std::string& name) {
        counts.read(*programs);
        telemetry::ServiceStatus status;
        counts.fill(name, status);
        return status;
    }
    // Flows by path; 999 where bytes and flows do not belong together.
    std::map<std::string, uint64_t> flows_of(const std::string& name) {
        std::map<std::string, uint64_t> flows;
        for (const telemetry::PathCounters& path : status_of(name).paths)
            flows[path.path] = path.received_bytes == 100 * path.decisions && path.sent_bytes == 1000 * path.decisions
                                   ? path.decisions
                                   : 999;
        return flows;
    }

    using Flows = std::map<std::string, uint64_t>;
    static inline std::optional<Programs> programs;
    Counts counts;
};

TEST_F(CountsTest, BeginWithWhatThisProcessSees) {
    service_has(1, 100, 90);
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}, {2, "aws"}}}});
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 0}}));
    EXPECT_EQ(status_of("web").received_packets, 0u);
    EXPECT_EQ(status_of("web").dropped[static_cast<size_t>(Verdict::access_denied)], 0u);
    EXPECT_EQ(counts.live_of_service(1), 10u) << "those live, whoever counted them";

    service_has(1, 103, 101);
    const telemetry::ServiceStatus web = status_of("web");
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 3}}));
    EXPECT_EQ(web.received_packets, 9u);
    EXPECT_EQ(web.sent_packets, 15u);
    EXPECT_EQ(web.uncounted_sources, 33u);
    EXPECT_EQ(web.cookies_sent, 39u);
    EXPECT_EQ(web.cookies_proven, 51u);
    EXPECT_EQ(web.dropped[static_cast<size_t>(Verdict::access_denied)], 21u);
    EXPECT_EQ(std::accumulate(web.dropped.begin(), web.dropped.end(), uint64_t{0}), 21u) << "and nothing else";
    EXPECT_EQ(counts.live_of_service(1), 2u);
    EXPECT_THAT(counts.names(), ElementsAre("web"));
}

TEST_F(CountsTest, HaveWhatWasDroppedOfNoService) {
    constexpr auto denied = static_cast<size_t>(Verdict::access_denied);
    service_has(0, 4);
    counts.read(*programs);
    EXPECT_EQ(counts.dropped_of_none()[denied], 0u) << "counted by the process before";
    service_has(0, 6);
    counts.read(*programs);
    EXPECT_EQ(counts.dropped_of_none()[denied], 14u);
    EXPECT_THAT(counts.names(), IsEmpty());
}

TEST_F(CountsTest, OfAServiceWithoutEndpointsHaveAPathWithoutName) {
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {}}});
    service_has(1, 2);
    EXPECT_EQ(flows_of("web"), (Flows{{"", 2}}));
}

TEST_F(CountsTest, TellPathsApartByTheirEndpoints) {
    endpoint_has(1, 50);
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}, {2, "gcp"}, {3, "gcp"}}}});
    service_has(1, 6);
    endpoint_has(1, 51);
    endpoint_has(2, 2, 1);
    endpoint_has(3, 3);
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 1}, {"gcp", 5}}));
    EXPECT_EQ(status_of("web").received_packets, 18u);
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 1}, {"gcp", 5}})) << "read again, nothing is counted twice";
    EXPECT_EQ(counts.live_of_endpoint(2), 1u);
    EXPECT_EQ(counts.live_of_endpoint(3), 3u);
    EXPECT_EQ(counts.live_of_endpoint(7), 0u);
}

TEST_F(CountsTest, NeverFallWhenAReloadTakesAnEndpointOrAPathAway) {
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}, {2, "gcp"}}}});
    service_has(1, 5);
    endpoint_has(1, 2);
    endpoint_has(2, 3);
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}}}});
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 2}, {"gcp", 3}})) << "what was carried until the reload is read first";
    service_has(1, 9);
    endpoint_has(1, 6);
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 6}, {"gcp", 3}}));
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}, {3, "azure"}}}});
    service_has(1, 11);
    endpoint_has(1, 7);
    endpoint_has(3, 1);
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 7}, {"azure", 1}, {"gcp", 3}}));
}

TEST_F(CountsTest, OfARemovedServiceStayAndItsNumberBeginsAnewForAnother) {
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}, {2, "gcp"}}}});
    service_has(1, 5);
    endpoint_has(1, 5);
    counts.read(*programs);
    counts.configure(*programs, {});
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 5}, {"gcp", 0}}));

    counts.forget_service(1);
    counts.forget_endpoint(1);
    ASSERT_TRUE(programs->clear_service(1).ok());
    ASSERT_TRUE(programs->clear_endpoint(1).ok());
    counts.configure(*programs, {{.name = "api", .index = 1, .paths = {{1, "aws"}, {2, "gcp"}}}});
    EXPECT_EQ(flows_of("api"), (Flows{{"aws", 0}, {"gcp", 0}}));
    service_has(1, 2);
    endpoint_has(1, 2);
    EXPECT_EQ(flows_of("api"), (Flows{{"aws", 2}, {"gcp", 0}}));
    EXPECT_EQ(status_of("api").received_packets, 6u);
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 5}, {"gcp", 0}}));
    EXPECT_EQ(status_of("web").received_packets, 15u);
    EXPECT_THAT(counts.names(), ElementsAre("api", "web"));
}

TEST_F(CountsTest, GiveASharedEndpointToTheFirstServiceAndToNoOtherTwice) {
    counts.configure(*programs, {{.name = "api", .index = 2, .paths = {{1, "aws"}, {2, "gcp"}}},
                                 {.name = "web", .index = 1, .paths = {{1, "aws"}, {3, "azure"}}}});
    endpoint_has(1, 4);
    endpoint_has(2, 1);
    endpoint_has(3, 2);
    EXPECT_EQ(flows_of("api"), (Flows{{"aws", 4}, {"gcp", 1}}));
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 0}, {"azure", 2}}));
}

TEST_F(CountsTest, KnowTheFlowsOfEndpointsThatNoServiceHasAnyMore) {
    endpoint_has(5, 9, 6);
    counts.configure(*programs, {}, {5});
    EXPECT_EQ(counts.live_of_endpoint(5), 3u);
    endpoint_has(5, 9, 9);
    counts.read(*programs);
    EXPECT_EQ(counts.live_of_endpoint(5), 0u);
    EXPECT_THAT(counts.names(), IsEmpty());
}

TEST_F(CountsTest, TellHowFlowsEndedAndHowLongTheyWere) {
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}}}});
    counts.flow_ended("web", "aws", Verdict::finished, seconds(2));
    counts.flow_ended("web", "aws", Verdict::idle_timeout, seconds(60));
    const telemetry::ServiceStatus web = status_of("web");
    ASSERT_EQ(web.paths.size(), 1u);
    EXPECT_EQ(web.paths[0].ended[static_cast<size_t>(Verdict::finished)], 1u);
    EXPECT_EQ(web.paths[0].ended[static_cast<size_t>(Verdict::idle_timeout)], 1u);
    EXPECT_EQ(std::accumulate(web.duration.counts.begin(), web.duration.counts.end(), uint64_t{0}), 2u);
    EXPECT_EQ(web.duration.sum_nanoseconds, 62'000'000'000u);
}

TEST_F(CountsTest, OutliveTheMapsTheyWereReadFrom) {
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}}}});
    service_has(1, 5);
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 5}}));
    counts.clear_configuration();
    service_has(1, 1);  // of maps made anew
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 5}}));
    EXPECT_EQ(counts.live_of_service(1), 0u);
    counts.configure(*programs, {{.name = "web", .index = 1, .paths = {{1, "aws"}}}});
    service_has(1, 3);
    EXPECT_EQ(flows_of("web"), (Flows{{"aws", 7}}));
}

}  // namespace
}  // namespace marchproxy::packet
