#include "telemetry/status.h"

#include <gmock/gmock.h>

#include <numeric>

namespace marchproxy::telemetry {
namespace {

using std::chrono::milliseconds;

HistogramValues observed(std::initializer_list<int> times) {
    Histogram histogram;
    for (const int time : times)
        histogram.observe(milliseconds(time));
    return histogram.values();
}
uint64_t count_of(const HistogramValues& values) {
    return std::accumulate(values.counts.begin(), values.counts.end(), uint64_t{0});
}

ServiceStatus counted(std::string_view plane, uint64_t times) {
    ServiceStatus status{.name = "web", .plane = plane};
    status.active_connections = 1 * times;
    status.failovers = 2 * times;
    status.received_packets = 3 * times;
    status.sent_packets = 4 * times;
    status.cookies_sent = 10 * times;
    status.cookies_proven = 11 * times;
    status.uncounted_sources = 12 * times;
    status.dropped[static_cast<size_t>(Verdict::access_denied)] = 5 * times;
    status.duration = observed({10});
    PathCounters path{.path = "aws", .decisions = 6 * times, .received_bytes = 7 * times, .sent_bytes = 8 * times};
    path.ended[static_cast<size_t>(Verdict::finished)] = 9 * times;
    path.connect_latency = observed({1});
    status.paths.push_back(path);
    return status;
}

TEST(Absorb, AddsEveryCounterOfTheOtherPlane) {
    ServiceStatus status = counted("packet", 1);
    absorb(status, counted("stream", 10));
    EXPECT_EQ(status.active_connections, 11u);
    EXPECT_EQ(status.failovers, 22u);
    EXPECT_EQ(status.received_packets, 33u);
    EXPECT_EQ(status.sent_packets, 44u);
    EXPECT_EQ(status.cookies_sent, 110u);
    EXPECT_EQ(status.cookies_proven, 121u);
    EXPECT_EQ(status.uncounted_sources, 132u);
    EXPECT_EQ(status.dropped[static_cast<size_t>(Verdict::access_denied)], 55u);
    EXPECT_EQ(count_of(status.duration), 2u);
    ASSERT_EQ(status.paths.size(), 1u);
    EXPECT_EQ(status.paths[0].decisions, 66u);
    EXPECT_EQ(status.paths[0].received_bytes, 77u);
    EXPECT_EQ(status.paths[0].sent_bytes, 88u);
    EXPECT_EQ(status.paths[0].ended[static_cast<size_t>(Verdict::finished)], 99u);
    EXPECT_EQ(count_of(status.paths[0].connect_latency), 2u);
}

TEST(Absorb, LeavesWhatIsOfThePlaneThatHasTheServiceNow) {
    ServiceStatus status = counted("packet", 1);
    status.plane_reason = "nothing of it needs sockets";
    status.listening = true;
    status.endpoints.push_back({.address = "10.0.0.1:80"});
    ServiceStatus other = counted("stream", 1);
    other.plane_reason = "removed by a reload";
    other.endpoints.push_back({.address = "10.0.0.2:80"});
    absorb(status, other);
    EXPECT_EQ(status.plane, "packet");
    EXPECT_EQ(status.plane_reason, "nothing of it needs sockets");
    EXPECT_TRUE(status.listening);
    ASSERT_EQ(status.endpoints.size(), 1u);
    EXPECT_EQ(status.endpoints[0].address, "10.0.0.1:80");
}

TEST(Absorb, KeepsPathsThatOnlyTheOtherPlaneUsed) {
    ServiceStatus status = counted("packet", 1), other = counted("stream", 1);
    other.paths.push_back({.path = "gcp", .decisions = 5, .received_bytes = 50});
    other.paths.push_back({.path = ""});
    absorb(status, other);
    ASSERT_EQ(status.paths.size(), 3u);
    EXPECT_EQ(status.paths[0].path, "aws");
    EXPECT_EQ(status.paths[1].path, "gcp");
    EXPECT_EQ(status.paths[1].received_bytes, 50u);
    EXPECT_EQ(status.paths[2].path, "");
}

TEST(Joined, ShowsEachServiceOnceAsThePlaneInWhichItListens) {
    const auto one = [](const char* name, const char* plane, bool listening, uint64_t connections) {
        return ServiceStatus{.name = name, .plane = plane, .listening = listening, .active_connections = connections};
    };
    const auto services = joined({one("moved here", "packet", true, 1), one("moved away", "packet", false, 2)},
                                 {one("moved away", "stream", true, 10), one("moved here", "stream", false, 20),
                                  one("always there", "stream", true, 30)});
    ASSERT_EQ(services.size(), 3u);
    const auto expect = [](const ServiceStatus& status, const char* name, const char* plane, uint64_t connections) {
        EXPECT_EQ(status.name, name);
        EXPECT_EQ(status.plane, plane) << name;
        EXPECT_TRUE(status.listening) << name;
        EXPECT_EQ(status.active_connections, connections) << name;
    };
    expect(services[0], "moved here", "packet", 21);
    expect(services[1], "moved away", "stream", 12);
    expect(services[2], "always there", "stream", 30);
}

}  // namespace
}  // namespace marchproxy::telemetry
