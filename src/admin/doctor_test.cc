#include "admin/doctor.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

namespace marchproxy::admin {
namespace {

using testing::HasSubstr;
using testing::Not;

Machine good_machine() {
    Machine machine;
    machine.kernel = "6.1.0-18-amd64";
    machine.descriptors = 1024;
    machine.most_descriptors = 1'048'576;
    machine.somaxconn = 4096;
    machine.first_local_port = 32768;
    machine.last_local_port = 60999;
    machine.congestion_control = "cubic";
    machine.congestion_controls = "reno cubic bbr";
    machine.pipe_max_size = 1 << 20;
    machine.pipe_user_pages_soft = 16384;
    machine.receive_buffer_max = machine.send_buffer_max = 8 << 20;
    machine.udp_receive_offload = machine.udp_send_offload = true;
    machine.processors = 2;
    return machine;
}

TEST(Doctor, FindsNothingWrongWithAGoodMachine) {
    for (const Finding& finding : examine(good_machine())) {
        EXPECT_EQ(finding.state, Finding::State::good) << finding.name;
        EXPECT_EQ(finding.advice, "") << finding.name;
        EXPECT_NE(finding.meaning, "") << finding.name;
    }
}

struct Row {
    const char* name;
    void (*spoil)(Machine&);
    Finding::State state;
    const char* advice;
};

TEST(Doctor, NamesWhatIsWrongAndWhatToDo) {
    using State = Finding::State;
    const Row rows[] = {
        {"kernel", [](Machine& m) { m.kernel = "5.15.0"; }, State::bad, "6.1"},
        {"kernel", [](Machine& m) { m.kernel = ""; }, State::bad, "6.1"},
        {"descriptors", [](Machine& m) { m.most_descriptors = 1024; }, State::bad, "LimitNOFILE"},
        {"descriptors", [](Machine& m) { m.most_descriptors = 10'000; }, State::improvable, "LimitNOFILE"},
        {"net.core.somaxconn", [](Machine& m) { m.somaxconn = 128; }, State::improvable, "somaxconn=4096"},
        {"net.ipv4.ip_local_port_range", [](Machine& m) { m.first_local_port = 50'000; }, State::improvable, "10000"},
        {"net.ipv4.ip_local_port_range", [](Machine& m) { m.last_local_port = 0; }, State::improvable, "10000"},
        {"net.ipv4.tcp_congestion_control", [](Machine& m) { m.congestion_controls = "cubic"; }, State::improvable,
         "bbr"},
        {"fs.pipe-max-size, fs.pipe-user-pages-soft", [](Machine& m) { m.pipe_max_size = 65536; }, State::improvable,
         "1048576"},
        {"net.core.rmem_max, net.core.wmem_max", [](Machine& m) { m.receive_buffer_max = 212992; }, State::improvable,
         "rmem_max"},
        {"UDP GRO and GSO", [](Machine& m) { m.udp_send_offload = false; }, State::improvable, "UDP_SEGMENT"},
        {"net.netfilter.nf_conntrack_max", [](Machine& m) { m.tracked_connections_max = 65536; }, State::improvable,
         "notrack"},
    };
    for (const Row& row : rows) {
        Machine machine = good_machine();
        row.spoil(machine);
        for (const Finding& finding : examine(machine)) {
            EXPECT_EQ(finding.state, finding.name == row.name ? row.state : State::good)
                << row.name << ' ' << finding.name;
            if (finding.name == row.name) {
                EXPECT_THAT(finding.advice, HasSubstr(row.advice));
            }
        }
    }
}

TEST(Doctor, LooksAtThisMachine) {
    const Machine machine = inspect_machine();
    EXPECT_NE(machine.kernel, "");
    EXPECT_GT(machine.descriptors, 0u);
    EXPECT_GT(machine.last_local_port, machine.first_local_port);
    EXPECT_GT(machine.processors, 0u);
    EXPECT_EQ(findings_json(examine(machine)).size(), examine(machine).size());
}

TEST(Doctor, SaysWhatItCouldNotReadInsteadOfFailing) {
    const auto findings = examine(inspect_machine("/nowhere"));
    EXPECT_EQ(findings.front().state, Finding::State::bad);
    EXPECT_THAT(findings_report(findings), HasSubstr("kernel"));
}

}  // namespace
}  // namespace marchproxy::admin
