// How a plane does what steering says: shares, endpoints that are dead, sources of paths.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "stream/sockets.h"
#include "stream/test_plane.h"

namespace marchproxy::stream::testing {
namespace {

using ::testing::ElementsAre;

class Steered : public PlaneTest {
  protected:
    Steered() { service.endpoints.push_back({{"127.0.0.1", second.port()}, "cloud", 100}); }
    std::vector<uint64_t> active() {
        std::vector<uint64_t> counts;
        for (const telemetry::EndpointStatus& endpoint : status().endpoints)
            counts.push_back(endpoint.active_connections);
        return counts;
    }
    void connect_some(int count) {
        for (int i = 0; i < count; ++i) {
            clients.push_back(connect());
            ASSERT_TRUE(echoes(clients.back()));
        }
    }
    void first_is_down() { plane.endpoint_down("web", loopback(server.port()), "onprem"); }
    EchoServer second;
    std::vector<Fd> clients;
};

TEST_F(Steered, NewConnectionsFollowTheShares) {
    snapshot_shares = {{"web", {.of = {0, 1000}, .order = {1, 0}}}};
    ASSERT_TRUE(apply());
    connect_some(4);
    EXPECT_THAT(active(), ElementsAre(0, 4)) << "from the first on";
    plane.steer({{"web", {.of = {3000, 1000}, .order = {0, 1}}}});
    connect_some(8);
    EXPECT_THAT(active(), ElementsAre(6, 6));
    plane.steer({{"web", {.of = {1}, .order = {0}}}, {"other", {.of = {1}, .order = {0}}}});
    connect_some(4);
    EXPECT_THAT(active(), ElementsAre(8, 8)) << "shares of another snapshot are not these endpoints'";
}

TEST_F(Steered, RecordsSayWhyItWasThisOne) {
    ASSERT_TRUE(apply());
    const DecisionPointer first = std::make_shared<Decision>(), later = std::make_shared<Decision>();
    EXPECT_TRUE(echoes(connect()));
    plane.steer({}, {{"web", first}, {"other", later}});
    connect_some(1);
    plane.steer({}, {{"web", later}});
    clients.clear();
    ASSERT_TRUE(eventually([&] { return flows.count() == 2; }));
    EXPECT_EQ(flows.records[0].decision, nullptr) << "nobody had decided yet";
    EXPECT_EQ(flows.records[1].decision, first) << "as it was when it was chosen";
}

TEST_F(Steered, WhatIsClosedIsLeftAtOnceAndTakenWhereNobodyElseIs) {
    ASSERT_TRUE(apply());
    const auto state = endpoint_states.of("web", loopback(server.port()), "onprem");
    state->close(routing::closed_by_probe);
    connect_some(4);
    EXPECT_THAT(active(), ElementsAre(0, 4));
    EXPECT_FALSE(status().endpoints[0].up);
    endpoint_states.of("web", loopback(second.port()), "cloud")->close(routing::closed_outlier);
    connect_some(2);
    EXPECT_EQ(active()[0] + active()[1], 6U);
}

TEST_F(Steered, ConnectionsOfADeadEndpointAreResetAndNoOthers) {
    ASSERT_TRUE(apply());
    connect_some(4);
    ASSERT_THAT(active(), ElementsAre(2, 2));
    first_is_down();
    EXPECT_THAT(active(), ElementsAre(0, 2));
    EXPECT_EQ(ended(Verdict::endpoint_down), 2U);
    int closed = 0;
    for (const Fd& client : clients)
        closed += wait_readable(client, 200) ? 1 : 0;
    EXPECT_EQ(closed, 2);
}

TEST_F(Steered, TheyAreKeptWhereTheServiceSaysSo) {
    service.routing.on_down = OnDown::keep;
    ASSERT_TRUE(apply());
    connect_some(4);
    first_is_down();
    EXPECT_THAT(active(), ElementsAre(2, 2));
    for (const Fd& client : clients)
        EXPECT_TRUE(echoes(client));
}

// A listener whose queue is full lets nobody in and refuses nobody.
TEST_F(Steered, AConnectToADeadEndpointGoesOnWithTheNextOne) {
    Fd full = bound_socket(SOCK_STREAM);
    ASSERT_EQ(listen(full, 0), 0);
    std::vector<Fd> waiting;
    for (int i = 0; i < 4; ++i) {
        waiting.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        sockaddr_storage address;
        const socklen_t size = local_address(full).to(address);
        ::connect(waiting.back(), reinterpret_cast<sockaddr*>(&address), size);
    }
    service.endpoints[0].address.port = local_address(full).port;
    snapshot_shares = {{"web", {.of = {1000, 0}, .order = {0, 1}}}};
    ASSERT_TRUE(apply());
    const Fd client = connect();
    ASSERT_TRUE(eventually([&] { return active()[0] == 1; }));
    EXPECT_FALSE(wait_readable(client, 100));
    const TimePoint since = Clock::now();
    plane.endpoint_down("web", local_address(full), "onprem");
    EXPECT_TRUE(echoes(client));
    EXPECT_LT(Clock::now() - since, 2s) << "long before connect_timeout";
    EXPECT_THAT(active(), ElementsAre(0, 1));
    EXPECT_EQ(status().failovers, 1U);
}

TEST_F(Steered, ConnectionsComeFromTheSourceOfTheirPath) {
    Fd listener = bound_socket(SOCK_STREAM);
    ASSERT_EQ(listen(listener, 10), 0);
    paths = {{.name = "onprem", .source = IpAddress::v4(0x7f000009)}};
    service.endpoints = {{{"127.0.0.1", local_address(listener).port}, "onprem", 100}};
    ASSERT_TRUE(apply());
    const Fd client = connect();
    ASSERT_TRUE(wait_readable(listener));
    sockaddr_storage peer;
    socklen_t size = sizeof peer;
    const Fd accepted(accept(listener, reinterpret_cast<sockaddr*>(&peer), &size));
    EXPECT_EQ(SocketAddress::from(peer).ip, IpAddress::v4(0x7f000009));
}

TEST_F(Steered, APathWhoseSourceIsNotHereIsLeftForAnother) {
    paths = {{.name = "onprem", .source = IpAddress::v4(0x0b0b0b0b)}, {.name = "cloud"}};
    ASSERT_TRUE(apply());
    connect_some(4);
    EXPECT_THAT(active(), ElementsAre(0, 4));
}

TEST_F(Steered, FailuresAreCountedWithTheEndpoint) {
    service.endpoints = {{{"127.0.0.1", free_port()}, "onprem", 100}, {{"127.0.0.1", second.port()}, "cloud", 100}};
    settings.multicloud.enabled = true;
    ASSERT_TRUE(apply());
    connect_some(4);
    const auto good = endpoint_states.of("web", loopback(second.port()), "cloud");
    const auto bad = endpoint_states.of("web", {loopback(0).ip, service.endpoints[0].address.port}, "onprem");
    EXPECT_EQ(good->attempts, 4U);
    EXPECT_EQ(good->failures, 0U);
    EXPECT_GE(bad->attempts, 2U);
    EXPECT_EQ(bad->failures, bad->attempts);
    clients.clear();
    EXPECT_TRUE(eventually([&] { return good->segments >= 8; })) << "a SYN and a segment each";
    EXPECT_EQ(good->retransmissions, 0U);
    EXPECT_GT(good->round_trip_us, 0U);
    EXPECT_LT(good->round_trip_us, 100'000U);
}

TEST_F(Steered, AResetBeforeTheFirstByteIsAFailureAndOneAfterItIsNot) {
    Fd listener = bound_socket(SOCK_STREAM);
    ASSERT_EQ(listen(listener, 10), 0);
    service.endpoints = {{{"127.0.0.1", local_address(listener).port}, "onprem", 100}};
    ASSERT_TRUE(apply());
    const auto state = endpoint_states.of("web", local_address(listener), "onprem");
    for (const bool answers : {true, false}) {
        const Fd client = connect();
        ASSERT_TRUE(wait_readable(listener));
        Fd accepted(accept(listener, nullptr, nullptr));
        if (answers) {
            write_bytes(accepted, "x");
            ASSERT_EQ(read_bytes(client, 1), "x");
        }
        reset_on_close(accepted);
        accepted = Fd(-1);
        EXPECT_TRUE(is_closed(client));
    }
    EXPECT_TRUE(eventually([&] { return state->failures == 1; }));
}

// --- another endpoint takes over -----------------------------------------------------------------------------------

// The first endpoint takes connections and does with them what a test says; the second echoes.
class TakenOver : public Steered {
  protected:
    void SetUp() override {
        ASSERT_EQ(listen(listener, 10), 0);
        service.endpoints[0].address.port = local_address(listener).port;
        snapshot_shares = {{"web", {.of = {1000, 0}, .order = {0, 1}}}};
    }
    // The client's connection, and the endpoint's end of it, once the first has it and has heard `request`.
    void begin(const std::string& request) {
        ASSERT_TRUE(apply());
        client.emplace(connect());
        write_bytes(*client, request);
        ASSERT_TRUE(wait_readable(listener));
        accepted.emplace(accept(listener, nullptr, nullptr));
        ASSERT_EQ(read_bytes(*accepted, request.size()), request);
    }
    void reset() {
        reset_on_close(*accepted);
        accepted.reset();
    }
    Fd listener = bound_socket(SOCK_STREAM);
    std::optional<Fd> client, accepted;
};

TEST_F(TakenOver, WhereNothingWasSaid) {
    begin("");
    reset();
    EXPECT_TRUE(echoes(*client));
    EXPECT_EQ(status().failovers, 1U);
    EXPECT_EQ(ended(Verdict::endpoint_reset), 0U);
}

TEST_F(TakenOver, WhereNothingWasSaidToOneThatProbesHaveFoundDead) {
    begin("");
    plane.endpoint_down("web", local_address(listener), "onprem");
    EXPECT_TRUE(echoes(*client));
}

TEST_F(TakenOver, NotWhereSomethingWasSaidAndTheServiceDoesNotSaySo) {
    begin("GET /");
    reset();
    EXPECT_TRUE(is_closed(*client));
    EXPECT_EQ(ended(Verdict::endpoint_reset), 1U);
}

TEST_F(TakenOver, NotWhereTheServiceWantsNoRetry) {
    service.routing.retry = Retry::none;
    begin("");
    reset();
    EXPECT_TRUE(is_closed(*client));
}

TEST_F(TakenOver, ARequestWithoutAnAnswerIsSaidAgain) {
    service.routing.retry = Retry::unanswered;
    begin("GET /one ");
    reset();
    EXPECT_EQ(read_bytes(*client, 9), "GET /one ");
    EXPECT_TRUE(echoes(*client, "and two"));
    EXPECT_EQ(status().failovers, 1U);
    EXPECT_EQ(ended(Verdict::endpoint_reset), 0U);
}

TEST_F(TakenOver, ARequestAnsweredByAnEndIsSaidAgainWhileTheClientWaits) {
    service.routing.retry = Retry::unanswered;
    begin("GET /one ");
    accepted.reset();
    EXPECT_EQ(read_bytes(*client, 9), "GET /one ");
}

TEST_F(TakenOver, AClientThatHasEndedGetsTheEndThatTheEndpointGave) {
    service.routing.retry = Retry::unanswered;
    begin("log line");
    shutdown(*client, SHUT_WR);
    char byte;
    ASSERT_TRUE(wait_readable(*accepted));
    ASSERT_EQ(recv(*accepted, &byte, 1, 0), 0);
    accepted.reset();
    EXPECT_TRUE(is_closed(*client));
    EXPECT_EQ(status().failovers, 0U);
    EXPECT_EQ(ended(Verdict::finished), 1U);
}

TEST_F(TakenOver, TheHeaderOfTheClientComesFirstAgain) {
    service.routing.retry = Retry::unanswered;
    service.proxy_protocol = ProxyProtocol::v1;
    ASSERT_TRUE(apply());
    client.emplace(connect());
    write_bytes(*client, "ask");
    ASSERT_TRUE(wait_readable(listener));
    accepted.emplace(accept(listener, nullptr, nullptr));
    std::string heard;
    while (!heard.ends_with("ask"))
        heard += read_bytes(*accepted, 1);
    reset();
    EXPECT_EQ(read_bytes(*client, heard.size()), heard);
}

TEST_F(TakenOver, WhatHasAnAnswerIsNot) {
    service.routing.retry = Retry::unanswered;
    begin("GET /");
    write_bytes(*accepted, "2");
    ASSERT_EQ(read_bytes(*client, 1), "2");
    reset();
    EXPECT_TRUE(is_closed(*client));
    EXPECT_EQ(status().failovers, 0U);
}

TEST_F(TakenOver, WhatIsMoreThanTheServiceKeepsIsNot) {
    service.routing.retry = Retry::unanswered;
    service.routing.replay = {1024};
    begin(std::string(1025, 'x'));
    reset();
    EXPECT_TRUE(is_closed(*client));
    EXPECT_EQ(ended(Verdict::endpoint_reset), 1U);
}

}  // namespace
}  // namespace marchproxy::stream::testing
