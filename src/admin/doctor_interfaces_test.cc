// What `doctor` says of the packet plane's interfaces.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "admin/doctor.h"
#include "admin/fake_view.h"
#include "admin/json.h"
#include "config/print.h"

namespace marchproxy::admin {
namespace {

using packet::Attachment;
using packet::InterfaceStatus;
using packet::Survey;
using packet::Way;
using State = Finding::State;
using testing::HasSubstr;
using testing::SizeIs;

Survey card(PacketMode mode = PacketMode::automatic, const std::string& driver = "virtio_net") {
    return {.name = "eth0",
            .exists = true,
            .driver = driver,
            .mtu = 1500,
            .candidates = packet::candidates_for(mode, driver)};
}

// What is done to a survey or a status before it is examined, and what is said then.
struct Row {
    const char* name;
    Survey survey;
    State state;
    const char *found, *meaning, *advice;
};

void expect(const Row& row, const std::vector<InterfaceStatus>& running) {
    const auto findings = examine(std::vector{row.survey}, running);
    ASSERT_THAT(findings, SizeIs(1));
    EXPECT_EQ(findings[0].name, "packet plane, interface eth0") << row.name;
    EXPECT_EQ(findings[0].state, row.state) << row.name;
    EXPECT_THAT(findings[0].found, HasSubstr(row.found)) << row.name;
    EXPECT_THAT(findings[0].meaning, HasSubstr(row.meaning)) << row.name;
    EXPECT_THAT(findings[0].advice, HasSubstr(row.advice)) << row.name;
    EXPECT_EQ(findings[0].advice.empty(), row.state == State::good) << row.name;
}

Survey with(Survey survey, void (*change)(Survey&)) {
    change(survey);
    return survey;
}

TEST(DoctorInterfaces, SayWhatAStartWouldDo) {
    const Row rows[] = {
        {"not there", {.name = "eth0"}, State::improvable, "none of this name", "when it appears", "ip link"},
        {"a card", card(), State::good,
         "driver virtio_net, MTU 1500; nothing is attached; a start would first try XDP native, beside others",
         "XDP native, beside others; XDP native; XDP generic; TC ingress (tcx); TC ingress (clsact)", ""},
        {"no driver's name", card(PacketMode::generic, ""), State::good, "MTU 1500; nothing is attached",
         "tried in this order: XDP generic", ""},
        {"veth", card(PacketMode::automatic, "veth"), State::good, "a start would first try TC ingress (tcx)",
         "Not XDP native: a veth pair", ""},
        {"a large MTU", with(card(), [](Survey& s) { s.mtu = 9000; }), State::improvable,
         "MTU 9000; nothing is attached; a start would come to XDP generic", "tried in this order: ", "mtu 1500"},
        {"another's",
         with(card(),
              [](Survey& s) {
                  s.other = {12, "other"};
              }),
         State::improvable, "another XDP program, id 12 'other', is there; a start would come to TC ingress (tcx)", "",
         "ip link set dev eth0 xdp off"},
        {"another's, native",
         with(card(PacketMode::native),
              [](Survey& s) {
                  s.other = {12, ""};
              }),
         State::improvable, "another XDP program, id 12, is there; a start could not attach", "", "packet.mode: tc"},
        {"libxdp's dispatcher",
         with(card(),
              [](Survey& s) {
                  s.other = {12, "xdp_dispatcher"};
              }),
         State::good, "a start would first try XDP native, beside others", "", ""},
        {"not to be seen",
         with(card(),
              [](Survey& s) {
                  s.other.id = 12;
                  s.unseen = "/sys/fs/bpf/x: Permission denied";
              }),
         State::good, "an XDP program, id 12, is there (whose is not to be seen: /sys/fs/bpf/x: Permission denied)", "",
         ""},
        {"ours",
         with(card(), [](Survey& s) { s.own = Attachment{.interface = "eth0", .way = Way::generic, .program_id = 7}; }),
         State::good,
         "attached as XDP generic, program 7, by a process that has ended or answers elsewhere; a start goes", "", ""},
        {"ours, in another mode",
         with(card(PacketMode::tc),
              [](Survey& s) { s.own = Attachment{.interface = "eth0", .way = Way::generic, .program_id = 7}; }),
         State::good, "a start would first try TC ingress (tcx)", "", ""},
    };
    for (const Row& row : rows)
        expect(row, {});
}

TEST(DoctorInterfaces, SayWhatTheRunningProxySays) {
    const InterfaceStatus best{.name = "eth0", .way = "XDP native, beside others", .program_id = 7};
    expect({"the best", card(), State::good,
            "driver virtio_net, MTU 1500; the running proxy is attached as XDP native, beside others, program 7",
            "no better way was refused", ""},
           {best});
    InterfaceStatus alone{.name = "eth0", .way = "XDP native", .program_id = 7};
    alone.refused = {"XDP native, beside others: the kernel refuses libxdp's dispatcher"};
    expect(
        {"alone", card(), State::good, "XDP native, program 7", "no better: XDP native, beside others: the kernel", ""},
        {alone});
    InterfaceStatus slower = alone;
    slower.way = "XDP generic";
    slower.refused.emplace_back("XDP native: the driver of eth0 has no XDP of its own");
    expect(
        {"slower", card(), State::improvable, "attached as XDP generic", "the driver of eth0 has no XDP", "has no XDP"},
        {slower});
    InterfaceStatus veth = alone;
    veth.way = "TC ingress (tcx)";
    veth.refused = {"XDP native: a veth pair hands over packets merged"};
    expect(
        {"veth", card(PacketMode::automatic, "veth"), State::good, "attached as TC ingress (tcx)", "a veth pair", ""},
        {veth});
    InterfaceStatus adopted = best;
    adopted.adopted = true;
    expect({"adopted", card(), State::good, "program 7", "an earlier process had attached it", ""}, {adopted});
    const InterfaceStatus refused{.name = "eth0", .problem = "the packet plane cannot attach to eth0; stop the other"};
    expect({"refused", card(), State::improvable, "the running proxy has not attached to it", "do not come",
            "stop the other"},
           {refused});
    expect({"in another namespace",
            {.name = "eth0"},
            State::good,
            "not in this network namespace; the running proxy is",
            "",
            ""},
           {best});
    InterfaceStatus other = best;
    other.name = "eth1";
    expect({"of another interface", card(), State::good, "a start would first try", "", ""}, {other});
}

TEST(DoctorInterfaces, UnderstandWhatAProxySays) {
    FakeView view;
    Snapshot next;
    next.settings.packet = {.interfaces = {"eth0", "eth1"}, .mode = PacketMode::tc, .pin = "/sys/fs/bpf/other"};
    view.publish(next);
    view.plane.packet = {.running = true, .reason = "1 services"};
    view.plane.packet.interfaces.push_back(
        {.name = "eth0", .way = "TC ingress (tcx)", .program_id = 42, .adopted = true, .refused = {"XDP native: no"}});
    view.plane.packet.interfaces.push_back({.name = "eth1", .problem = "no interface eth1"});
    const RunningPlane running = running_plane(status_json(view), config::to_json(next));
    EXPECT_TRUE(running.on);
    EXPECT_EQ(running.reason, "1 services");
    EXPECT_EQ(running.settings.interfaces, next.settings.packet.interfaces);
    EXPECT_EQ(running.settings.mode, PacketMode::tc);
    EXPECT_EQ(running.settings.pin, "/sys/fs/bpf/other");
    ASSERT_THAT(running.interfaces, SizeIs(2));
    EXPECT_EQ(running.interfaces[0].way, "TC ingress (tcx)");
    EXPECT_EQ(running.interfaces[0].program_id, 42u);
    EXPECT_TRUE(running.interfaces[0].adopted);
    EXPECT_EQ(running.interfaces[0].refused, std::vector<std::string>{"XDP native: no"});
    EXPECT_EQ(running.interfaces[1].way, "");
    EXPECT_EQ(running.interfaces[1].problem, "no interface eth1");

    const Finding finding = examine(running, "http://127.0.0.1:8081");
    EXPECT_EQ(finding.found, "answers at http://127.0.0.1:8081; its packet plane is on: 1 services");
    EXPECT_THROW((void)running_plane(nlohmann::json::object(), nlohmann::json::object()), nlohmann::json::exception);
}

}  // namespace
}  // namespace marchproxy::admin
