// Rates, priorities and marks as clients and endpoints of the stream plane see them.
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "stream/marking.h"
#include "stream/test_plane.h"

namespace marchproxy::stream {
namespace {

using namespace testing;
using namespace std::chrono_literals;

// What an IP header's second byte was, and what came with it.
struct Received {
    std::string bytes;
    int traffic_class = -1;
};

void send_marked(int descriptor, const std::string& bytes, uint8_t traffic_class) {
    const int value = traffic_class;
    setsockopt(descriptor, IPPROTO_IP, IP_TOS, &value, sizeof value);
    send(descriptor, bytes.data(), bytes.size(), 0);
}

Received receive_marked(int descriptor, SocketAddress* from = nullptr) {
    const int on = 1;
    setsockopt(descriptor, IPPROTO_IP, IP_RECVTOS, &on, sizeof on);
    if (!wait_readable(descriptor)) return {};
    Received received{.bytes = std::string(65536, '\0')};
    iovec piece{received.bytes.data(), received.bytes.size()};
    sockaddr_storage name;
    alignas(cmsghdr) std::array<std::byte, 128> control;
    msghdr header{.msg_name = &name,
                  .msg_namelen = sizeof name,
                  .msg_iov = &piece,
                  .msg_iovlen = 1,
                  .msg_control = control.data(),
                  .msg_controllen = control.size(),
                  .msg_flags = 0};
    const ssize_t size = recvmsg(descriptor, &header, 0);
    received.bytes.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
    if (from) *from = SocketAddress::from(name);
    for (cmsghdr* entry = CMSG_FIRSTHDR(&header); entry; entry = CMSG_NXTHDR(&header, entry))
        if (entry->cmsg_level == IPPROTO_IP && entry->cmsg_type == IP_TOS)
            received.traffic_class = static_cast<uint8_t>(*CMSG_DATA(entry));
    return received;
}

class PlaneQosTest : public PlaneTest {
  protected:
    Fd connect_marked(uint8_t dscp) const {
        Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        mark(client, true, dscp);
        sockaddr_storage address;
        const socklen_t size = service.listen.to(address);
        EXPECT_EQ(::connect(client, reinterpret_cast<sockaddr*>(&address), size), 0);
        return client;
    }
    PlaneQosTest() { settings.qos.enabled = true; }

    void be_udp() {
        service.protocol = Protocol::udp;
        service.endpoints = {{{"127.0.0.1", local_address(endpoint).port}, "", 100}};
    }

    telemetry::QosStatus qos(bool up) {
        const telemetry::ServiceStatus all = status();
        const auto found = std::find_if(all.qos.begin(), all.qos.end(), [&](const auto& of) { return of.up == up; });
        return found == all.qos.end() ? telemetry::QosStatus{} : *found;
    }

    // Bits a second that `clients` connections get echoed together in `time`, each sending as fast as it may.
    double echoed(unsigned clients, Duration time) {
        std::vector<Fd> connections;
        for (unsigned i = 0; i < clients; ++i)
            connections.push_back(connect());
        std::atomic<bool> over{false};
        std::atomic<uint64_t> bytes{0};
        std::vector<std::thread> threads;
        for (Fd& connection : connections) {
            threads.emplace_back([&] {
                const std::string piece(16384, 'x');
                while (!over && send(connection, piece.data(), piece.size(), MSG_NOSIGNAL) > 0)
                    continue;
            });
            threads.emplace_back([&] {
                std::string buffer(65536, '\0');
                for (ssize_t size; (size = recv(connection, buffer.data(), buffer.size(), 0)) > 0 && !over;)
                    bytes += static_cast<uint64_t>(size);
            });
        }
        std::this_thread::sleep_for(200ms);  // bursts and windows
        const auto begin = Clock::now();
        const uint64_t before = bytes;
        std::this_thread::sleep_for(time);
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        const double rate = static_cast<double>(bytes - before) * 8 / seconds;
        over = true;
        for (Fd& connection : connections)
            shutdown(connection, SHUT_RDWR);
        for (std::thread& thread : threads)
            thread.join();
        return rate;
    }

    Fd endpoint = bound_socket(SOCK_DGRAM);
};

TEST_F(PlaneQosTest, HoldsAServiceToItsRateHoweverManyConnectionsItHas) {
    service.qos.rate = {.up = Rate{40'000'000}, .down = std::nullopt};
    ASSERT_TRUE(apply());
    for (const unsigned clients : {1U, 8U})
        EXPECT_NEAR(echoed(clients, 1s), 40e6, 3e6) << clients;
    EXPECT_EQ(qos(true).rate, Rate{40'000'000});
    EXPECT_EQ(qos(true).dropped_full + qos(true).dropped_late, 0U);
}

TEST_F(PlaneQosTest, SaysThatItIsOffWhereAServiceAsksForIt) {
    settings.qos.enabled = false;
    ASSERT_TRUE(apply());
    EXPECT_TRUE(plane.status().notes.empty());
    service.qos.rate.up = Rate{1'000'000};
    ASSERT_TRUE(apply());
    ASSERT_EQ(plane.status().notes.size(), 1U);
    EXPECT_NE(plane.status().notes[0].find("qos keys of 1 services rest"), std::string::npos);
}

// What a client sent, and its endpoint has not: a sender who is given megabytes to fill fills them, and whatever it
// sends then comes as much later.
TEST_F(PlaneQosTest, LittleWaitsInFrontOfARate) {
    service.qos.rate.up = Rate{20'000'000};
    service.mss = 1448;  // as in a network; loopback's segments are longer than the queue is to be
    ASSERT_TRUE(apply());
    Fd client = connect();
    const int own = 32768;
    setsockopt(client, SOL_SOCKET, SO_SNDBUF, &own, sizeof own);
    std::atomic<uint64_t> sent{0};
    std::thread writer([&] {
        const std::string piece(8192, 'x');
        for (ssize_t size; (size = send(client, piece.data(), piece.size(), MSG_NOSIGNAL)) > 0;)
            sent += static_cast<uint64_t>(size);
    });
    uint64_t received = 0;
    std::vector<uint64_t> waiting;
    for (const auto end = Clock::now() + 3s; Clock::now() < end;) {
        received += read_bytes(client, 16384).size();
        waiting.push_back(sent - received);
    }
    shutdown(client, SHUT_RDWR);
    writer.join();
    EXPECT_GT(received, 20e6 / 8 * 3 * .9);
    std::nth_element(waiting.begin(), waiting.begin() + waiting.size() / 2, waiting.end());
    EXPECT_LT(waiting[waiting.size() / 2], 150'000U);  // 60 ms, most of it the test's own buffers
}

TEST_F(PlaneQosTest, EachDirectionHasItsOwnRate) {
    service.qos.rate = {.up = std::nullopt, .down = Rate{20'000'000}};
    ASSERT_TRUE(apply());
    EXPECT_NEAR(echoed(2, 1s), 20e6, 2e6);
}

TEST_F(PlaneQosTest, LosesNothingAndKeepsTheOrder) {
    service.qos.rate = {.up = Rate{400'000'000}, .down = Rate{300'000'000}};
    settings.qos.link_rate = Rate{350'000'000};
    ASSERT_TRUE(apply());
    const std::string bytes = random_bytes(20 << 20);
    Fd client = connect();
    EXPECT_TRUE(echoed_to_the_end(client, bytes) == bytes);
    EXPECT_TRUE(is_closed(client));
    EXPECT_EQ(qos(true).processed_bytes, bytes.size());
    EXPECT_EQ(qos(false).processed_bytes, bytes.size());
    EXPECT_EQ(qos(true).queued_bytes, 0U);
}

TEST_F(PlaneQosTest, AReloadReachesEstablishedConnections) {
    service.qos.rate = {.up = Rate{1'000'000}, .down = std::nullopt};
    ASSERT_TRUE(apply());
    const std::string bytes = random_bytes(4 << 20);  // more than half a minute at that rate
    Fd client = connect();
    std::thread writer([&] { write_bytes(client, bytes); });
    std::string got = read_bytes(client, 10'000);
    const auto begin = Clock::now();
    service.qos.rate.up = Rate{1'000'000'000};
    ASSERT_TRUE(apply());
    got += read_bytes(client, bytes.size() - got.size());
    EXPECT_LT(Clock::now() - begin, 2s);
    writer.join();
    EXPECT_TRUE(got == bytes);

    service.qos.rate.up = Rate{1000};
    ASSERT_TRUE(apply());
    std::thread another([&] { write_bytes(client, random_bytes(200'000)); });
    EXPECT_LT(read_bytes(client, 5000).size(), 5001U);
    settings.qos.enabled = false;  // whoever waited goes on
    ASSERT_TRUE(apply());
    EXPECT_EQ(read_bytes(client, 195'000).size(), 195'000U);
    another.join();
    EXPECT_TRUE(status().qos.empty());
}

TEST_F(PlaneQosTest, ConnectionsThatWaitCanEnd) {
    service.qos.rate = {.up = Rate{1000}, .down = Rate{1000}};
    ASSERT_TRUE(apply());
    for (int i = 0; i < 20; ++i) {
        Fd client = connect();
        write_bytes(client, random_bytes(100'000));
        if (i % 2) {
            const linger reset{.l_onoff = 1, .l_linger = 0};
            setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
    }
    ASSERT_TRUE(eventually([&] { return plane.active_connections() <= 10; }));  // the reset ones
    plane.end_all(Verdict::drained);
    EXPECT_EQ(plane.active_connections(), 0U);
    EXPECT_EQ(qos(true).queued_bytes, 0U);
}

TEST_F(PlaneQosTest, P0IsServedWhileP3FillsTheLink) {
    settings.qos.link_rate = Rate{100'000'000};
    settings.qos.floor_p3 = Share{0.05};
    service.qos.priority = Priority::p3;
    Service urgent = service;
    urgent.name = "urgent";
    urgent.listen = loopback(free_port());
    urgent.qos.priority = Priority::p0;
    auto snapshot = std::make_shared<Snapshot>();
    snapshot->settings = settings;
    snapshot->services = {service, urgent};
    shapers.configure(settings.qos);
    ASSERT_TRUE(plane.apply(snapshot, {}));
    std::atomic<double> bulk{0};
    std::thread load([&] { bulk = echoed(4, 1s); });
    std::this_thread::sleep_for(300ms);
    Fd client = connect_to(urgent.listen);
    std::vector<Duration> delays;
    for (int i = 0; i < 200; ++i) {
        const auto begin = Clock::now();
        ASSERT_TRUE(echoes(client));
        delays.push_back(Clock::now() - begin);
    }
    load.join();
    std::nth_element(delays.begin(), delays.begin() + 100, delays.end());
    EXPECT_LT(delays[100], 5ms);  // behind the 100 Mbit/s that four connections fill it would be tens of them
    EXPECT_GT(bulk, 50e6);        // nearly all of it, less what a busy machine and its sanitizers cost
}

TEST_F(PlaneQosTest, MarksTcpOnBothLegs) {
    service.qos.priority = Priority::p1;
    Fd listener = bound_socket(SOCK_STREAM);
    report_marks(listener, true, true);
    service.endpoints = {{{"127.0.0.1", local_address(listener).port}, "", 100}};
    ASSERT_TRUE(apply());
    Fd client = connect();
    Fd accepted(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(arrived_mark(accepted, true), 34);  // AF41

    service.qos.dscp = 10;
    ASSERT_TRUE(apply());
    Fd second = connect();
    Fd accepted_second(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(arrived_mark(accepted_second, true), 10);
}

TEST_F(PlaneQosTest, KeepsATrustedMarkAndItsPriority) {
    service.qos.trust = true;
    Fd listener = bound_socket(SOCK_STREAM);
    report_marks(listener, true, true);
    service.endpoints = {{{"127.0.0.1", local_address(listener).port}, "", 100}};
    ASSERT_TRUE(apply());
    Fd client = connect_marked(46);
    Fd accepted(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(arrived_mark(accepted, true), 46);
    write_bytes(client, "urgent");
    EXPECT_EQ(read_bytes(accepted, 6), "urgent");
    ASSERT_TRUE(eventually([&] { return qos(true).processed_bytes > 0; }));
    EXPECT_EQ(qos(true).priority, Priority::p0);
}

// A rule turns the client's mark into another, and its priority.
TEST_F(PlaneQosTest, RulesSayWhatAMarkStandsFor) {
    service.qos.rules = {{.arrived = 8, .priority = Priority::p1, .dscp = 1}};
    Fd listener = bound_socket(SOCK_STREAM);
    report_marks(listener, true, true);
    service.endpoints = {{{"127.0.0.1", local_address(listener).port}, "", 100}};
    ASSERT_TRUE(apply());
    Fd scavenger = connect_marked(8);
    Fd accepted(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(arrived_mark(accepted, true), 1);
    write_bytes(scavenger, "bulk");
    EXPECT_EQ(read_bytes(accepted, 4), "bulk");
    ASSERT_TRUE(eventually([&] { return qos(true).processed_bytes > 0; }));
    EXPECT_EQ(qos(true).priority, Priority::p1);
    Fd other = connect_marked(46);
    Fd accepted_other(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(arrived_mark(accepted_other, true), 0) << "no rule's: as the service says";
}

TEST_F(PlaneQosTest, MarksDatagramsAndLeavesEcnAlone) {
    be_udp();
    service.qos.priority = Priority::p2;
    for (const bool shaped : {false, true}) {
        if (shaped) service.qos.rate.up = service.qos.rate.down = Rate{100'000'000};
        ASSERT_TRUE(apply());
        Fd client = connect_to(service.listen, SOCK_DGRAM);
        for (uint8_t ecn = 0; ecn < 4; ++ecn) {
            send_marked(client, "there", static_cast<uint8_t>(46 << 2 | ecn));
            SocketAddress from;
            const Received there = receive_marked(endpoint, &from);
            EXPECT_EQ(there.bytes, "there");
            EXPECT_EQ(there.traffic_class, 18 << 2 | ecn) << shaped;
            Fd answer = connect_to(from, SOCK_DGRAM);
            sockaddr_storage to;
            const socklen_t size = from.to(to);
            const int mark = 8 << 2 | ecn;
            setsockopt(endpoint, IPPROTO_IP, IP_TOS, &mark, sizeof mark);
            sendto(endpoint, "back", 4, 0, reinterpret_cast<sockaddr*>(&to), size);
            const Received back = receive_marked(client);
            EXPECT_EQ(back.bytes, "back");
            EXPECT_EQ(back.traffic_class, 18 << 2 | ecn) << shaped;
        }
    }
}

TEST_F(PlaneQosTest, DropsDatagramsBeyondTheRateAndCountsThem) {
    be_udp();
    service.qos.rate.up = Rate{10'000'000};
    ASSERT_TRUE(apply());
    Fd client = connect_to(service.listen, SOCK_DGRAM);
    std::atomic<uint64_t> bytes{0};
    std::atomic<bool> over{false};
    std::thread receiver([&] {
        std::string buffer(2000, '\0');
        while (!over)
            if (wait_readable(endpoint, 20)) bytes += static_cast<uint64_t>(recv(endpoint, buffer.data(), 2000, 0));
    });
    const std::string datagram = random_bytes(1000);
    uint64_t before = 0;
    const auto begin = Clock::now();
    TimePoint measured{};
    while (Clock::now() < begin + 1500ms) {  // some 30 Mbit/s
        for (int i = 0; i < 4; ++i)
            send(client, datagram.data(), datagram.size(), 0);
        std::this_thread::sleep_for(1ms);
        if (before == 0 && Clock::now() > begin + 500ms) {
            before = bytes;
            measured = Clock::now();
        }
    }
    const double rate =
        static_cast<double>(bytes - before) * 8 / std::chrono::duration<double>(Clock::now() - measured).count();
    EXPECT_NEAR(rate, 10e6, 1e6);
    EXPECT_GT(qos(true).dropped_late, 100U);
    EXPECT_EQ(dropped(Verdict::queue_delay), qos(true).dropped_late);
    std::this_thread::sleep_for(200ms);
    over = true;
    receiver.join();
    EXPECT_EQ(qos(true).queued_bytes, 0U);
}

TEST_F(PlaneQosTest, SessionsThatWaitCanEnd) {
    be_udp();
    service.qos.rate.up = Rate{1000};
    ASSERT_TRUE(apply());
    for (int i = 0; i < 10; ++i) {
        Fd client = connect_to(service.listen, SOCK_DGRAM);
        for (int j = 0; j < 20; ++j)
            send_marked(client, "waits", 0);
    }
    ASSERT_TRUE(eventually([&] { return plane.active_connections() == 10; }));
    plane.end_all(Verdict::drained);
    EXPECT_EQ(plane.active_connections(), 0U);
}

}  // namespace
}  // namespace marchproxy::stream
