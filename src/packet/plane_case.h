// What the tests of the packet plane in a process begin with: a namespace with an interface, a snapshot, packets at it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "packet/capability.h"
#include "packet/device.h"
#include "packet/frame_rows.h"
#include "packet/plan_cases.h"
#include "packet/plane.h"
#include "packet/test_namespace.h"

namespace marchproxy::packet {

struct Finished final : flow::Sink {
    void finished(std::vector<flow::Record>& batch) override {
        std::move(batch.begin(), batch.end(), std::back_inserter(records));
        batch.clear();
    }
    std::vector<flow::Record> records;
};

// `near` is the interface: clients at 198.51.100.0/24 and endpoints in 10.9.0.0/24 are behind it.
class PlaneCase : public testing::Namespace {
  protected:
    void SetUp() override {
        Namespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        if (const std::string lacking = missing(probe_capabilities()); !lacking.empty()) GTEST_SKIP() << lacking;
        mount_bpffs();
        pin_ = bpffs + "/marchproxy";
        ASSERT_TRUE(testing::run("sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.lo.forwarding=0"));
        ASSERT_TRUE(testing::run("ip address add 10.9.0.1/24 dev near && ip route add 198.51.100.0/24 via 10.9.0.2"));
        for (const char* neighbour : {"10.9.0.2", "10.9.0.3"})
            ASSERT_TRUE(testing::run("ip neigh replace " + std::string(neighbour) +
                                     " lladdr 02:00:00:00:00:02 nud permanent dev near"));
    }

    Snapshot snapshot() const {
        Snapshot made;
        // Generic, as libxdp's dispatcher would be tried before a driver's own, which takes as long as loading.
        made.settings.packet = {.interfaces = {"near"}, .mode = PacketMode::generic, .max_flows = 1000, .pin = pin_};
        made.services.push_back(service("web", "203.0.113.1:80", {"10.9.0.2:8080"}));
        return made;
    }
    Snapshot without_packet_services() const {
        Snapshot made = snapshot();
        made.services[0].plane = PlaneChoice::stream;
        return made;
    }
    static Result<void> prepare(Plane& plane, Snapshot next) {
        return plane.prepare(std::make_shared<const Snapshot>(std::move(next)), {});
    }
    static void run(Plane& plane, Snapshot next) {
        const auto prepared = prepare(plane, std::move(next));
        ASSERT_TRUE(prepared.ok()) << prepared.error();
        plane.apply();
    }

    // A client's first packet, as it comes at the interface.
    void send_syn(uint16_t client_port) {
        send_from_client(from_client().tcp(client_port, 80, testing::syn).payload(""));
    }
    static testing::Frame from_client() {
        return testing::eth()
            .from({2, 0, 0, 0, 0, 2}, hardware_address("near").value_or(testing::Mac{}))
            .ipv4("198.51.100.7", "203.0.113.1");
    }
    // By one socket: closing one takes the kernel a grace period.
    void send_from_client(const testing::Bytes& frame) {
        if (!clients_) clients_ = Descriptor(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_ifindex = static_cast<int>(::if_nametoindex("far"));
        ASSERT_EQ(::sendto(clients_.get(), frame.data(), frame.size(), 0, reinterpret_cast<const sockaddr*>(&address),
                           sizeof address),
                  static_cast<ssize_t>(frame.size()));
    }
    // What the control thread does, for as long as it takes.
    template <class Condition>
    static bool turn_until(Plane& plane, Condition condition, bool* moved = nullptr) {
        for (int time = 0; time < 800; ++time) {
            const bool now = plane.turn();
            if (moved) *moved = *moved || now;
            if (condition()) return true;
            ::usleep(10'000);
        }
        return false;
    }
    void begin_flow(Plane& plane, uint16_t client_port, size_t flows_then = 1) {
        send_syn(client_port);
        EXPECT_TRUE(turn_until(plane, [&] { return plane.active_flows({}).size() == flows_then; }))
            << plane.active_flows({}).size() << " flows";
    }
    std::vector<std::string> pinned() const {
        std::vector<std::string> names;
        std::error_code none;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(pin_, none))
            names.push_back(entry.path().filename());
        return names;
    }
    static bool lets_programs_ask() { return testing::run("sysctl -n net.ipv4.conf.lo.forwarding | grep -q 1"); }
    static bool attached() { return testing::run("ip -d link show near | grep -q prog/xdp"); }

    Descriptor clients_;
    std::string pin_;
    std::vector<std::string> lines_;
    telemetry::Log log_{LogLevel::info, LogFormat::text, [this](std::string_view line) { lines_.emplace_back(line); }};
    Finished flows_;
    qos::Shapers shapers_{1};
    routing::EndpointStates endpoint_states_;
};

}  // namespace marchproxy::packet
