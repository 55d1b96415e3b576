#include "stream/plane.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <thread>

#include "stream/test_plane.h"

namespace marchproxy::stream {
namespace {

using namespace testing;
using namespace std::chrono_literals;

TEST_F(PlaneTest, CarriesAConnectionAndRecordsIt) {
    ASSERT_TRUE(apply());
    Fd client = connect();
    const std::string bytes = random_bytes(3 << 20);
    EXPECT_TRUE(echoed_to_the_end(client, bytes) == bytes);
    EXPECT_TRUE(is_closed(client));
    ASSERT_TRUE(eventually([&] { return flows.count() == 1; }));
    const flow::Record& record = flows.records[0];
    EXPECT_EQ(record.origin->service, "web");
    EXPECT_EQ(record.origin->path, "onprem");
    EXPECT_EQ(record.client, local_address(client));
    EXPECT_EQ(record.endpoint, loopback(server.port()));
    EXPECT_EQ(record.received_bytes, bytes.size());
    EXPECT_EQ(record.sent_bytes, bytes.size());
    EXPECT_EQ(record.end_reason, Verdict::finished);
    EXPECT_EQ(ended(Verdict::finished), 1u);
    EXPECT_EQ(status().active_connections, 0u);
}

TEST_F(PlaneTest, TriesTheNextEndpointUnseen) {
    service.endpoints.insert(service.endpoints.begin(), {{"127.0.0.1", free_port()}, "aws", 100});
    ASSERT_TRUE(apply());
    for (int i = 0; i < 8; ++i)
        EXPECT_TRUE(echoes(connect()));
    EXPECT_FALSE(status().endpoints[0].up);
    EXPECT_EQ(status().endpoints[0].last_error, "Connection refused");
    EXPECT_TRUE(status().endpoints[1].up);
}

TEST_F(PlaneTest, EndsAClientWhoseEndpointsAllRefuse) {
    service.endpoints = {{{"127.0.0.1", free_port()}, "", 100}};
    ASSERT_TRUE(apply());
    EXPECT_TRUE(is_closed(connect()));
    EXPECT_TRUE(eventually([&] { return ended(Verdict::connect_refused) == 1; }));
}

TEST_F(PlaneTest, DoesNotRetryWhereTheServiceSaysSo) {
    service.routing.retry = Retry::none;
    service.routing.policy = Policy::round_robin;
    service.endpoints.insert(service.endpoints.begin(), {{"127.0.0.1", free_port()}, "", 100});
    ASSERT_TRUE(apply());
    int served = 0;
    for (int i = 0; i < 2; ++i) {
        try {
            Fd client = connect();
            served += write_bytes(client, "ping") && read_bytes(client, 4) == "ping";
        } catch (const std::runtime_error&) {
        }
    }
    EXPECT_LT(served, 2);
}

TEST_F(PlaneTest, ReloadReachesEstablishedConnections) {
    ASSERT_TRUE(apply());
    Fd client = connect();
    ASSERT_TRUE(echoes(client));
    service.limits.connections = 1;
    service.endpoints.push_back({{"127.0.0.1", free_port()}, "", 100});
    ASSERT_TRUE(apply());
    EXPECT_TRUE(echoes(client)) << "a reload that does not concern the connection must not end it";
    EXPECT_TRUE(is_closed(connect())) << "the established connection counts under the new limit";
    EXPECT_EQ(dropped(Verdict::connection_limit), 1u);
    service.access.deny = {*Prefix::parse("127.0.0.0/8")};
    ASSERT_TRUE(apply());
    EXPECT_TRUE(is_closed(client)) << "denied by the reload";
    EXPECT_EQ(ended(Verdict::access_denied), 1u);
}

TEST_F(PlaneTest, IdleTimeoutChangedByReloadReachesEstablishedConnections) {
    ASSERT_TRUE(apply());
    Fd client = connect();
    ASSERT_TRUE(echoes(client));
    service.idle_timeout = 50ms;
    ASSERT_TRUE(apply());
    EXPECT_TRUE(is_closed(client));
    EXPECT_EQ(ended(Verdict::idle_timeout), 1u);
}

TEST_F(PlaneTest, LimitsASourceAlsoForThoseWhoCameBefore) {
    ASSERT_TRUE(apply());
    Fd first = connect();
    ASSERT_TRUE(echoes(first));
    service.limits.connections_per_source = 2;
    ASSERT_TRUE(apply());
    Fd second = connect();
    EXPECT_TRUE(echoes(second));
    EXPECT_TRUE(is_closed(connect()));
    EXPECT_EQ(dropped(Verdict::source_limit), 1u);
    first.reset();
    EXPECT_TRUE(eventually([&] { return status().active_connections == 1; }));
    EXPECT_TRUE(echoes(connect()));
}

TEST_F(PlaneTest, LimitsHowFastASourceBeginsConnections) {
    service.limits.new_connections_per_source = Frequency{0.01};
    ASSERT_TRUE(apply());
    EXPECT_TRUE(echoes(connect()));
    EXPECT_TRUE(is_closed(connect()));
    EXPECT_EQ(dropped(Verdict::source_rate), 1u);
    service.limits.new_connections_per_source = Frequency{1000};
    ASSERT_TRUE(apply());
    EXPECT_TRUE(echoes(connect())) << "a higher limit holds at once";
}

// As the kernel tells it of a socket that listens (tcp(7), TCP_INFO).
uint32_t backlog_of(const Plane& plane) {
    tcp_info info{};
    socklen_t size = sizeof info;
    const std::vector<ListeningSocket> sockets = plane.listeners();
    return getsockopt(sockets.at(0).descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_sacked : 0;
}

// What a client has been told, by the segments it makes (tcp(7), TCP_MAXSEG).
int segment_of(int descriptor) {
    int segment = 0;
    socklen_t size = sizeof segment;
    return getsockopt(descriptor, IPPROTO_TCP, TCP_MAXSEG, &segment, &size) == 0 ? segment : 0;
}

TEST_F(PlaneTest, TellsClientsTheLargestSegment) {
    service.mss = 1000;
    ASSERT_TRUE(apply());
    const auto first = connect();
    ASSERT_TRUE(echoes(first));
    EXPECT_LE(segment_of(first), 1000);
    service.mss = 500;
    ASSERT_TRUE(apply());
    const auto second = connect();
    ASSERT_TRUE(echoes(second));
    EXPECT_LE(segment_of(second), 500) << "as a reload has it";
    service.mss.reset();
    ASSERT_TRUE(apply());
    const auto third = connect();
    ASSERT_TRUE(echoes(third));
    EXPECT_GT(segment_of(third), 1000);
}

TEST_F(PlaneTest, ListensWithTheBacklogThatAReloadBrings) {
    service.limits.backlog = 7;
    ASSERT_TRUE(apply());
    EXPECT_EQ(backlog_of(plane), 7u);
    service.limits.backlog = 5;
    ASSERT_TRUE(apply());
    EXPECT_EQ(backlog_of(plane), 5u);
    service.limits.backlog.reset();
    ASSERT_TRUE(apply());
    EXPECT_GT(backlog_of(plane), 7u);
    EXPECT_TRUE(echoes(connect()));
}

TEST_F(PlaneTest, ARemovedServiceKeepsItsConnectionsForTheDrainTimeout) {
    settings.drain_timeout = 300ms;
    ASSERT_TRUE(apply());
    Fd client = connect();
    ASSERT_TRUE(echoes(client));
    listed = false;
    ASSERT_TRUE(apply());
    EXPECT_THROW(connect(), std::runtime_error);
    EXPECT_TRUE(echoes(client));
    EXPECT_TRUE(is_closed(client));
    EXPECT_TRUE(eventually([&] { return flows.count() == 1; }));
    EXPECT_EQ(flows.records[0].end_reason, Verdict::service_removed);
}

TEST_F(PlaneTest, AnOccupiedPortLeavesWhatRunsAlone) {
    ASSERT_TRUE(apply());
    Fd client = connect();
    const SocketAddress before = service.listen;
    Fd other = bound_socket(SOCK_STREAM);
    service.listen = local_address(other);
    const Result<void> result = apply();
    ASSERT_FALSE(result);
    EXPECT_NE(result.error().find("service 'web' cannot listen on tcp " + to_string(service.listen)), std::string::npos)
        << result.error();
    EXPECT_NE(result.error().find("another process holds the port"), std::string::npos);
    service.listen = before;
    EXPECT_TRUE(echoes(client));
    EXPECT_TRUE(echoes(connect()));
}

TEST_F(PlaneTest, DrainsAnEndpointByHand) {
    EchoServer second;
    service.endpoints.push_back({{"127.0.0.1", second.port()}, "", 100});
    ASSERT_TRUE(apply());
    const auto state = endpoint_states.of("web", loopback(server.port()), "onprem");
    state->close(routing::closed_by_hand);
    std::vector<Fd> clients;
    for (int i = 0; i < 6; ++i) {
        clients.push_back(connect());
        ASSERT_TRUE(echoes(clients.back()));
    }
    EXPECT_EQ(status().endpoints[0].active_connections, 0u);
    EXPECT_EQ(status().endpoints[1].active_connections, 6u);
    ASSERT_TRUE(apply());
    EXPECT_TRUE(status().endpoints[0].draining) << "a reload must not undo it";
    state->open(routing::closed_by_hand);
    for (int i = 0; i < 4; ++i) {
        clients.push_back(connect());
        ASSERT_TRUE(echoes(clients.back()));
    }
    EXPECT_GT(status().endpoints[0].active_connections, 0u);
}

TEST_F(PlaneTest, StopsAcceptingAndEndsTheRest) {
    ASSERT_TRUE(apply());
    Fd client = connect();
    ASSERT_TRUE(echoes(client));
    plane.stop_accepting();
    EXPECT_THROW(connect(), std::runtime_error);
    EXPECT_TRUE(echoes(client));
    EXPECT_EQ(plane.active_connections(), 1u);
    plane.end_all(Verdict::drained);
    EXPECT_TRUE(is_closed(client));
    EXPECT_EQ(plane.active_connections(), 0u);
}

TEST_F(PlaneTest, ASecondPlaneTakesOverTheSockets) {
    ASSERT_TRUE(apply());
    std::vector<ListeningSocket> sockets = plane.listeners();
    for (ListeningSocket& socket : sockets)  // as a new process has its own
        socket.descriptor = dup(socket.descriptor);
    qos::Shapers shapers_of_heir{1};
    Plane heir(1, log, flows, shapers_of_heir, endpoint_states, sockets);
    auto snapshot = std::make_shared<Snapshot>();
    snapshot->services = {service};
    ASSERT_TRUE(heir.apply(snapshot, {}));
    plane.stop_accepting(true);
    for (int i = 0; i < 20; ++i)
        EXPECT_TRUE(echoes(connect()));
    EXPECT_TRUE(eventually([&] { return heir.status().services[0].paths.back().ended[0] == 20; }));
}

TEST_F(PlaneTest, ListsOpenConnections) {
    ASSERT_TRUE(apply());
    Fd client = connect();
    ASSERT_TRUE(echoes(client));
    const std::vector<flow::Record> records = plane.active_flows({.service = "web"});
    ASSERT_EQ(records.size(), 1u);
    EXPECT_EQ(records[0].state, flow::State::active);
    EXPECT_EQ(records[0].client, local_address(client));
    EXPECT_TRUE(plane.active_flows({.service = "other"}).empty());
}

TEST_F(PlaneTest, FollowsANameToWhereItResolves) {
    service.endpoints = {{{"db.test", server.port()}, "", 100}};
    ASSERT_TRUE(apply());
    EXPECT_TRUE(is_closed(connect()));
    EXPECT_EQ(status().endpoints.at(0).last_error, "the name has not resolved");
    resolution = {{{"db.test", server.port()}, {loopback(server.port())}}};
    ASSERT_TRUE(apply());
    EXPECT_TRUE(echoes(connect()));
    EXPECT_EQ(status().endpoints.at(0).resolved, to_string(loopback(server.port())));
}

TEST_F(PlaneTest, CarriesDatagramsAndForgetsIdleSessions) {
    Fd endpoint = bound_socket(SOCK_DGRAM);
    service.protocol = Protocol::udp;
    service.endpoints = {{{"127.0.0.1", local_address(endpoint).port}, "", 100}};
    service.idle_timeout = 200ms;
    ASSERT_TRUE(apply());
    Fd client = connect_to(service.listen, SOCK_DGRAM), other = connect_to(service.listen, SOCK_DGRAM);
    for (const Fd* from : {&client, &other}) {
        const std::string text = from == &client ? "from client" : "from the other";
        ASSERT_EQ(send(*from, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
        char buffer[100];
        sockaddr_storage source;
        socklen_t size = sizeof source;
        ASSERT_TRUE(wait_readable(endpoint));
        const ssize_t got = recvfrom(endpoint, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&source), &size);
        ASSERT_EQ(std::string(buffer, static_cast<size_t>(got)), text);
        sendto(endpoint, buffer, static_cast<size_t>(got), 0, reinterpret_cast<sockaddr*>(&source), size);
        EXPECT_EQ(read_bytes(*from, text.size()), text);
    }
    EXPECT_EQ(status().active_connections, 2u);
    EXPECT_TRUE(eventually([&] { return status().active_connections == 0; }));
    EXPECT_EQ(ended(Verdict::idle_timeout), 2u);
    EXPECT_EQ(status().received_packets, 2u);
    EXPECT_EQ(status().sent_packets, 2u);
}

TEST_F(PlaneTest, CountsDatagramsThatNobodyTakes) {
    service.protocol = Protocol::udp;
    service.endpoints = {{{"127.0.0.1", free_port()}, "", 100}};
    ASSERT_TRUE(apply());
    Fd client = connect_to(service.listen, SOCK_DGRAM);
    EXPECT_TRUE(eventually([&] {
        send(client, "x", 1, 0);
        return ended(Verdict::endpoint_unreachable) > 0;
    }));
}

}  // namespace
}  // namespace marchproxy::stream
