#include "control/pilot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "costs/ledger.h"
#include "flow/store.h"

namespace marchproxy::control {
namespace {

using namespace std::chrono_literals;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Listens on loopback; the kernel takes probes' connections.
class Listener {
  public:
    Listener() {
        sockaddr_storage storage;
        socklen_t size = SocketAddress{IpAddress::v4(0x7f000001), 0}.to(storage);
        EXPECT_EQ(bind(descriptor_, reinterpret_cast<sockaddr*>(&storage), size), 0);
        EXPECT_EQ(listen(descriptor_, 100), 0);
        getsockname(descriptor_, reinterpret_cast<sockaddr*>(&storage), &size);
        address = SocketAddress::from(storage);
    }
    ~Listener() { close(); }
    void close() {
        if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
    }
    SocketAddress address;

  private:
    int descriptor_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
};

struct PilotTest : testing::Test {
    PilotTest() {
        for (const Listener& listener : listeners)
            service.endpoints.push_back({{"127.0.0.1", listener.address.port}, "", 1});
        service.name = "web";
        service.routing.policy = Policy::cost;
        for (size_t i = 0; i < listeners.size(); ++i) {
            service.endpoints[i].path = "p" + std::to_string(i);
            paths.push_back({.name = service.endpoints[i].path,
                             .provider = i == 0 ? "aws" : "gcp",
                             .region = "r" + std::to_string(i),
                             .cost_per_gb = Tariff::flat(prices[i])});
        }
        multicloud.enabled = true;
        multicloud.probe.interval = 100ms;
        multicloud.probe.timeout = 90ms;
        multicloud.slow_start = 0s;
        multicloud.cost_book.clear();
    }
    // A cost book in which the path has cost so much this month.
    void spent(const std::string& path, double dollars) {
        multicloud.cost_book = directory + "/costs.db";
        costs::Entries entries;
        entries.amounts[{costs::day_of(std::chrono::system_clock::now()), "web", path, "aws", "r0"}] = {0, 0, 0,
                                                                                                        dollars};
        ASSERT_TRUE((*costs::Ledger::open(multicloud.cost_book))->add(entries));
    }
    void budget(const std::string& name, AtLimit at_limit) {
        multicloud.budgets.push_back({.name = name, .scope = {}, .dollars = 100, .at_limit = at_limit});
    }
    ~PilotTest() override { std::filesystem::remove_all(directory); }
    std::vector<uint32_t> shares() { return prepared["web"].of; }
    void follow() {
        auto snapshot = std::make_shared<Snapshot>();
        snapshot->settings.multicloud = multicloud;
        snapshot->services = {service};
        snapshot->paths = paths;
        snapshot->path_table = PathTable(paths);
        prepared = pilot.prepare(snapshot, {});
        pilot.take_over();
    }
    admin::Explanation explained() { return *pilot.explain("web", IpAddress::v4(0x0a010203)); }
    std::string chosen() {
        const admin::Explanation told = explained();
        return told.chosen ? told.candidates[*told.chosen].path : "nobody";
    }
    bool eventually(const std::function<bool()>& condition) {
        for (int i = 0; i < 1000; ++i) {
            pilot.turn(Clock::now());
            if (condition()) return true;
            std::this_thread::sleep_for(5ms);
        }
        return false;
    }

    static constexpr std::array prices{0.02, 0.05, 0.09};
    const std::string directory = [] {
        char name[] = "/tmp/marchproxy-pilot-XXXXXX";
        return std::string(mkdtemp(name));
    }();
    std::array<Listener, 3> listeners;
    Service service;
    std::vector<Path> paths;
    MulticloudSettings multicloud;
    routing::SharesByService prepared;
    telemetry::Log log{LogLevel::error, LogFormat::text, [](std::string_view) {}};
    flow::Store store{flow::StoreOptions{}};
    qos::Shapers shapers{2};
    routing::EndpointStates states;
    stream::Plane stream{1, log, store, shapers, states};
    packet::Plane packet{log, store, shapers, states, 1};
    std::atomic<int> woken{0};
    Pilot pilot{stream, packet, states, log, [this] { ++woken; }};
};

TEST_F(PilotTest, SaysWithWhichSharesASnapshotWouldBegin) {
    follow();
    EXPECT_THAT(shares(), ElementsAre(1000, 0, 0));
    paths[0].cost_per_gb = Tariff::flat(0.5);
    follow();
    EXPECT_THAT(shares(), ElementsAre(0, 1000, 0));
}

TEST_F(PilotTest, SteersNobodyWhereItIsOff) {
    multicloud.enabled = false;
    follow();
    EXPECT_TRUE(prepared.empty());
    EXPECT_LT(pilot.due(), TimePoint::max()) << "what paths carry is booked all the same";
    EXPECT_FALSE(pilot.probes());
    EXPECT_FALSE(explained().steered);
    EXPECT_THAT(pilot.notes(), Contains(HasSubstr("multicloud: off, so its keys rest")));
    multicloud = {.cost_book = {}};
    follow();
    EXPECT_THAT(pilot.notes(), IsEmpty());
}

TEST_F(PilotTest, WhatHasNoBudgetLeftTakesNothingNew) {
    spent("p0", 99);
    budget("month", AtLimit::stop_new);
    multicloud.budgets[0].scope.path = "p0";
    follow();
    EXPECT_EQ(chosen(), "p0");
    EXPECT_EQ(pilot.paths()[0].bill.month_dollars, 99);
    spent("p0", 1);
    follow();
    EXPECT_EQ(chosen(), "p1");
    EXPECT_EQ(explained().candidates[0].reason, "takes nothing new: a budget is spent");
    EXPECT_THAT(pilot.notes(), Contains(HasSubstr("budget month: 100.00 of 100.00 dollars are spent")));
    multicloud.budgets[0].dollars = 200;
    follow();
    EXPECT_EQ(chosen(), "p0") << "more may be spent now";
}

TEST_F(PilotTest, ABudgetCanHaveCostDecide) {
    service.routing.policy = Policy::weighted_round_robin;
    spent("p2", 100);
    budget("all", AtLimit::prefer_cheaper);
    follow();
    pilot.turn(Clock::now());
    const admin::Explanation told = explained();
    EXPECT_THAT(told.notes, ElementsAre(HasSubstr("cost decides")));
    EXPECT_EQ(told.policy, Policy::weighted_round_robin);
    EXPECT_EQ(told.candidates[0].share, 1);
    EXPECT_EQ(told.candidates[2].reason, "is 350% above the best");
    multicloud.budgets[0].at_limit = AtLimit::warn;
    follow();
    pilot.turn(Clock::now());
    EXPECT_NEAR(explained().candidates[2].share, 1 / 3.0, 0.01);
    EXPECT_THAT(explained().notes, IsEmpty());
}

TEST_F(PilotTest, LeavesWhatProbesFindDeadAndSaysWhy) {
    follow();
    ASSERT_TRUE(eventually([&] { return pilot.paths()[0].round_trip.has_value(); }));
    EXPECT_EQ(chosen(), "p0");
    EXPECT_EQ(pilot.paths()[0].loss_ratio, 0);
    EXPECT_FALSE(pilot.paths()[0].changed);
    listeners[0].close();
    ASSERT_TRUE(eventually([&] { return chosen() == "p1"; }));
    EXPECT_GT(woken, 0);
    const admin::Explanation told = explained();
    EXPECT_FALSE(told.candidates[0].up);
    EXPECT_THAT(told.candidates[0].reason, HasSubstr("its probes fail: Connection refused"));
    EXPECT_EQ(told.candidates[1].reason, "is the best");
    EXPECT_EQ(told.candidates[1].share, 1);
    EXPECT_EQ(told.candidates[2].reason, "is 80% above the best");
    EXPECT_TRUE(pilot.paths()[0].changed);
    follow();
    EXPECT_THAT(shares(), ElementsAre(0, 1000, 0)) << "a reload knows it too";
    multicloud.enabled = false;
    follow();
    EXPECT_EQ(states.of("web", listeners[0].address, "p0")->closed, 0) << "nobody asks any more";
}

TEST_F(PilotTest, DrainsAndTakesBack) {
    follow();
    EXPECT_TRUE(pilot.drain(admin::Drainable::path, "p0", true));
    EXPECT_EQ(chosen(), "p1");
    EXPECT_TRUE(pilot.paths()[0].draining);
    EXPECT_TRUE(pilot.drain(admin::Drainable::provider, "gcp", true));
    EXPECT_EQ(chosen(), "nobody");
    follow();
    EXPECT_EQ(chosen(), "nobody") << "a reload does not undo it";
    EXPECT_TRUE(pilot.drain(admin::Drainable::provider, "gcp", false));
    EXPECT_TRUE(pilot.drain(admin::Drainable::region, "r1", true));
    EXPECT_EQ(chosen(), "p2");
    EXPECT_TRUE(pilot.drain(admin::Drainable::path, "p0", false));
    EXPECT_EQ(chosen(), "p0");
    EXPECT_TRUE(pilot.drain(admin::Drainable::endpoint, to_string(listeners[0].address), true));
    EXPECT_EQ(chosen(), "p2");
    follow();
    EXPECT_EQ(chosen(), "p2") << "nor that of an endpoint";
    const Drains kept = pilot.drains();
    EXPECT_TRUE(pilot.drain(admin::Drainable::endpoint, to_string(listeners[0].address), false));
    EXPECT_EQ(chosen(), "p0");
    pilot.take_drains(kept);
    follow();
    EXPECT_EQ(chosen(), "p2") << "as the process before had it";
    for (const auto what :
         {admin::Drainable::endpoint, admin::Drainable::path, admin::Drainable::provider, admin::Drainable::region})
        EXPECT_FALSE(pilot.drain(what, "mars", true));
}

TEST_F(PilotTest, LeavesAloneWhatConnectionsFindBadAndTriesItAgainWhenTheirTimeIsOver) {
    service.routing.policy = Policy::round_robin;
    follow();
    const auto bad = states.of("web", listeners[1].address, "p1");
    pilot.turn(Clock::now());
    bad->attempts += 10;
    bad->failures += 10;
    states.of("web", listeners[0].address, "p0")->attempts += 100;
    ASSERT_TRUE(eventually([&] { return bad->closed == routing::closed_outlier; }));
    EXPECT_THAT(explained().candidates[1].reason, HasSubstr("10 of 10 connections failed"));
    pilot.turn(Clock::now() + routing::Outliers::first_time + 1s);
    EXPECT_EQ(bad->closed, 0);
}

TEST_F(PilotTest, ConnectsThatFailKeepAnEndpointOutUntilTheNextTrial) {
    service.routing.policy = Policy::round_robin;
    follow();
    const auto state = states.of("web", listeners[2].address, "p2");
    for (uint64_t i = 0; i < routing::Health::failures_to_fall; ++i)
        state->health.failed(Clock::now());
    EXPECT_EQ(explained().candidates[2].reason, "is down: connects to it failed");
    ASSERT_TRUE(eventually([&] { return explained().candidates[2].up; })) << "then one connection may try";
}

TEST_F(PilotTest, ExplainsNoUnknownService) {
    follow();
    EXPECT_EQ(pilot.explain("mail", {}).error(), "there is no service mail");
}

}  // namespace
}  // namespace marchproxy::control
