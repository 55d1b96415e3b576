// What the packet plane says of itself, as people and programs read it.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "admin/doctor.h"
#include "admin/fake_view.h"
#include "admin/health.h"
#include "admin/json.h"
#include "admin/metrics.h"
#include "admin/reports.h"
#include "telemetry/exposition.h"

namespace marchproxy::admin {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

packet::Status running() {
    packet::Status status{.running = true, .reason = "1 services", .took_over = true, .flow_capacity = 10'000'000};
    status.memory_bytes = uint64_t{1} << 30;
    status.interfaces.push_back({.name = "eth0",
                                 .way = "XDP in the driver",
                                 .queues = "AF_XDP zero-copy",
                                 .program_id = 42,
                                 .adopted = true,
                                 .refused = {"XDP by libxdp: it has no multi-prog support"}});
    status.interfaces.push_back({.name = "eth1", .problem = "no interface eth1"});
    return status;
}

struct PacketPlane : testing::Test {
    FakeView view;

    telemetry::ServiceStatus& add_packet_service() {
        telemetry::ServiceStatus& web = view.add_service("web");
        web.plane = "packet";
        web.plane_reason = "nothing of it needs sockets";
        return web;
    }
    std::string metrics() const {
        telemetry::MetricSet set;
        fill(set, view);
        return telemetry::expose(set.take_families(), telemetry::ExpositionFormat::prometheus_text);
    }
};

TEST_F(PacketPlane, IsInTheStatusWithEveryInterface) {
    view.plane.packet = running();
    const json plane = status_json(view)["packet_plane"];
    EXPECT_EQ(plane["running"], true);
    EXPECT_EQ(plane["reason"], "1 services");
    EXPECT_EQ(plane["took_over"], true);
    EXPECT_EQ(plane["flow_capacity"], 10'000'000);
    EXPECT_EQ(plane["memory_bytes"], 1 << 30);
    ASSERT_EQ(plane["interfaces"].size(), 2u);
    EXPECT_EQ(plane["interfaces"][0], json({{"name", "eth0"},
                                            {"way", "XDP in the driver"},
                                            {"problem", nullptr},
                                            {"program_id", 42},
                                            {"adopted", true},
                                            {"queues", "AF_XDP zero-copy"},
                                            {"refused", {"XDP by libxdp: it has no multi-prog support"}}}));
    EXPECT_TRUE(plane["interfaces"][1]["way"].is_null());
    EXPECT_EQ(plane["interfaces"][1]["problem"], "no interface eth1");
}

TEST_F(PacketPlane, IsReportedToPeopleWithTheWayOfEachInterface) {
    add_packet_service();
    view.plane.packet = running();
    const std::string report = status_report(status_json(view));
    EXPECT_THAT(report, HasSubstr("packet plane on: 1 services; room for 10000000 flows"));
    EXPECT_THAT(report, HasSubstr(", taken over from an earlier process"));
    EXPECT_THAT(report, testing::ContainsRegex("eth0 +XDP in the driver +42 +XDP by libxdp"));
    EXPECT_THAT(report, testing::ContainsRegex("eth1 +- +0 +no interface eth1"));
    EXPECT_THAT(report, testing::ContainsRegex("web +packet +yes +0 +nothing of it needs sockets"));
    view.plane.packet.took_over = false;
    EXPECT_THAT(status_report(status_json(view)), Not(HasSubstr("taken over")));
}

TEST_F(PacketPlane, SaysWhyItIsOff) {
    view.plane.packet.reason = "CAP_BPF: missing";
    const json plane = status_json(view)["packet_plane"];
    EXPECT_EQ(plane["running"], false);
    EXPECT_EQ(plane["interfaces"], json::array());
    const std::string report = status_report(status_json(view));
    EXPECT_THAT(report, HasSubstr("packet plane off: CAP_BPF: missing\n"));
    EXPECT_THAT(report, Not(HasSubstr("ATTACHED AS")));
}

TEST_F(PacketPlane, CountsThePacketsOfTcpServicesToo) {
    EXPECT_THAT(metrics(), Not(HasSubstr("marchproxy_packets_total{")));
    telemetry::ServiceStatus& web = add_packet_service();
    EXPECT_EQ(web.protocol, Protocol::tcp);
    web.received_packets = 7;
    web.sent_packets = 9;
    web.dropped[static_cast<size_t>(Verdict::access_denied)] = 3;
    const std::string text = metrics();
    EXPECT_THAT(text, HasSubstr("marchproxy_packets_total{service=\"web\",direction=\"received\"} 7\n"));
    EXPECT_THAT(text, HasSubstr("marchproxy_packets_total{service=\"web\",direction=\"sent\"} 9\n"));
    EXPECT_THAT(text,
                HasSubstr("marchproxy_dropped_total{service=\"web\",plane=\"packet\",reason=\"access_denied\"} 3\n"));
}

TEST_F(PacketPlane, CountsThePacketsOfNoService) {
    view.plane.packet.running = true;
    EXPECT_THAT(metrics(), Not(HasSubstr("marchproxy_dropped_total{")));
    view.plane.packet.dropped[static_cast<size_t>(Verdict::malformed)] = 6;
    EXPECT_THAT(metrics(),
                HasSubstr("marchproxy_dropped_total{service=\"\",plane=\"packet\",reason=\"malformed\"} 6\n"));
    EXPECT_THAT(status_report(status_json(view)), HasSubstr("packets of no service dropped: 6 malformed\n"));
}

TEST_F(PacketPlane, IsNotReadyWhereAServiceWaitsForAnInterface) {
    telemetry::ServiceStatus& web = add_packet_service();
    web.listening = false;
    web.problem = "the packet plane is on no interface (eth9: there is none of that name)";
    EXPECT_THAT(not_ready_because(view.process(), view.status(), view.snapshot().get()),
                ElementsAre("service web: the packet plane is on no interface (eth9: there is none of that name)"));
}

TEST_F(PacketPlane, ShowsPressureWhereThereWasSome) {
    telemetry::ServiceStatus& web = add_packet_service();
    EXPECT_THAT(metrics(), Not(HasSubstr("syn_cookies_total{")));
    EXPECT_THAT(metrics(), Not(HasSubstr("uncounted_sources_total{")));
    web.cookies_sent = 7;
    web.cookies_proven = 3;
    web.uncounted_sources = 5;
    const std::string text = metrics();
    EXPECT_THAT(text, HasSubstr("marchproxy_syn_cookies_total{service=\"web\",result=\"sent\"} 7\n"));
    EXPECT_THAT(text, HasSubstr("marchproxy_syn_cookies_total{service=\"web\",result=\"proven\"} 3\n"));
    EXPECT_THAT(text, HasSubstr("marchproxy_uncounted_sources_total{service=\"web\"} 5\n"));
}

TEST_F(PacketPlane, HasNoPacketsOfATcpServiceOfTheStreamPlane) {
    view.add_service("web");
    EXPECT_THAT(metrics(), Not(HasSubstr("marchproxy_packets_total{")));
}

packet::Capability there(const char* what) {
    return {.what = what, .available = true, .reason = "it is there", .advice = {}};
}
packet::Capability lacking(const char* what) {
    return {.what = what, .available = false, .reason = "not found", .advice = "do something"};
}

TEST(PacketPlaneDoctor, IsContentWithAMachineThatHasEverything) {
    const auto findings = examine(std::vector{there("kernel 6.1"), there("CAP_BPF")});
    ASSERT_EQ(findings.size(), 1u);
    EXPECT_EQ(findings[0].state, Finding::State::good);
    EXPECT_EQ(findings[0].name, "packet plane");
    EXPECT_THAT(findings[0].found, HasSubstr("can be used here"));
    EXPECT_EQ(findings[0].advice, "");
}

TEST(PacketPlaneDoctor, NamesEachCapabilityThatIsMissingAndWhatToDo) {
    const auto findings = examine(std::vector{there("kernel 6.1"), lacking("CAP_BPF")});
    ASSERT_EQ(findings.size(), 2u);
    EXPECT_EQ(findings[0].state, Finding::State::improvable);
    EXPECT_THAT(findings[0].found, HasSubstr("cannot be used here"));
    EXPECT_THAT(findings[0].advice, HasSubstr("below"));
    EXPECT_EQ(findings[1].name, "packet plane, CAP_BPF");
    EXPECT_EQ(findings[1].found, "not found");
    EXPECT_EQ(findings[1].advice, "do something");
    EXPECT_THAT(findings[1].meaning, HasSubstr("needs it"));
}

}  // namespace
}  // namespace marchproxy::admin
