#include "probe/prober.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "probe/probe_socket.h"

namespace marchproxy::probe {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

const IpAddress here = IpAddress::v4(0x7f000001);

// A socket at a port of its own on loopback, and a thread that serves it until it goes.
class Served {
  public:
    Served(int type, std::function<void(int)> serve, uint16_t port = 0, IpAddress ip = here)
        : descriptor_(socket(ip.is_v4() ? AF_INET : AF_INET6, type, 0)) {
        const int one = 1;
        setsockopt(descriptor_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        sockaddr_storage address;
        const socklen_t size = SocketAddress{ip, port}.to(address);
        EXPECT_EQ(bind(descriptor_, reinterpret_cast<sockaddr*>(&address), size), 0) << strerror(errno);
        if (type == SOCK_STREAM) listen(descriptor_, 100);
        thread_ = std::thread([this, serve = std::move(serve)] {
            pollfd ready{descriptor_, POLLIN, 0};
            while (!over_)
                if (poll(&ready, 1, 10) > 0) serve(descriptor_);
        });
    }
    ~Served() {
        over_ = true;
        thread_.join();
        close(descriptor_);
    }
    SocketAddress address() const {
        sockaddr_storage address;
        socklen_t size = sizeof address;
        getsockname(descriptor_, reinterpret_cast<sockaddr*>(&address), &size);
        return SocketAddress::from(address);
    }

  private:
    int descriptor_;
    std::atomic<bool> over_{false};
    std::thread thread_;
};

void accept_and_close(int listener) {
    close(accept(listener, nullptr, nullptr));
}

std::function<void(int)> answer_with(std::string answer) {
    return [answer = std::move(answer)](int listener) {
        const int connection = accept(listener, nullptr, nullptr);
        char request[1024];
        if (recv(connection, request, sizeof request, 0) > 0)
            send(connection, answer.data(), answer.size(), MSG_NOSIGNAL);
        close(connection);
    };
}

void receive_from(int descriptor, std::string& text, sockaddr_storage& from, socklen_t& size) {
    char buffer[64];
    size = sizeof from;
    const ssize_t got = recvfrom(descriptor, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
    text.assign(buffer, got > 0 ? static_cast<size_t>(got) : 0);
}

// Sends back what came, so many times, and then garbage.
std::function<void(int)> answer_and_flood(int answers, int garbage) {
    return [=](int descriptor) {
        std::string text;
        sockaddr_storage from;
        socklen_t size;
        receive_from(descriptor, text, from, size);
        for (int i = 0; i < answers; ++i)
            sendto(descriptor, text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&from), size);
        for (int i = 0; i < garbage; ++i)
            sendto(descriptor, "garbage", 7, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), size);
    };
}

void echo(int descriptor) {
    answer_and_flood(1, 0)(descriptor);
}

uint16_t closed_port() {
    return Served(SOCK_STREAM, accept_and_close).address().port;
}

struct ProberTest : testing::Test {
    Target target(ProbeKind kind, const SocketAddress& address) {
        Target target{.address = address, .settings = {}, .egress = {}, .host = "a.example", .path = "wan"};
        target.settings.kind = kind;
        target.settings.interval = 100ms;
        target.settings.timeout = 80ms;
        return target;
    }
    void follow(const std::vector<Target>& targets) {
        std::vector<Wanted> wanted;
        for (const Target& one : targets) {
            states.push_back(std::make_shared<routing::EndpointState>());
            wanted.push_back({one, {states.back()}});
        }
        gauges = prober.follow(wanted);
    }
    routing::Reading reading(size_t i = 0) const { return gauges.at(i)->reading(); }
    std::string problem(size_t i = 0) const { return gauges.at(i)->problem(); }
    static bool eventually(const std::function<bool()>& condition) {
        for (int i = 0; i < 1000; ++i) {
            if (condition()) return true;
            std::this_thread::sleep_for(5ms);
        }
        return false;
    }
    bool answers(size_t i = 0) const {
        return eventually([&] { return reading(i).round_trip.has_value(); });
    }
    bool falls(size_t i = 0) const {
        return eventually([&] { return !reading(i).up; });
    }

    std::mutex mutex;
    std::string logged;
    telemetry::Log log{LogLevel::debug, LogFormat::text, [this](std::string_view line) {
                           std::lock_guard lock(mutex);
                           logged += std::string(line) + '\n';
                       }};
    std::atomic<int> changes{0};
    std::vector<std::shared_ptr<routing::EndpointState>> states;
    std::vector<std::shared_ptr<const Gauge>> gauges;
    Prober prober{log, [this] { ++changes; }};
};

TEST_F(ProberTest, TcpTellsTheRoundTripAndWhoIsGone) {
    std::optional<Served> server(std::in_place, SOCK_STREAM, accept_and_close);
    const SocketAddress address = server->address();
    follow({target(ProbeKind::tcp, address)});
    ASSERT_TRUE(answers());
    EXPECT_LT(*reading().round_trip, 80ms);
    EXPECT_TRUE(states[0]->up());
    EXPECT_GE(changes, 1) << "the first answer is news";

    for (unsigned i = 0; i < routing::Health::failures_to_fall; ++i)
        states[0]->health.failed(Clock::now());
    server.reset();
    ASSERT_TRUE(falls());
    EXPECT_TRUE(states[0]->closed & routing::closed_by_probe);
    EXPECT_EQ(problem(), "Connection refused");
    EXPECT_GT(reading().loss_ratio, 0);
    {
        std::lock_guard lock(mutex);
        EXPECT_THAT(logged, HasSubstr("probes do not get through"));
        EXPECT_THAT(logged, HasSubstr("Connection refused"));
    }

    server.emplace(SOCK_STREAM, accept_and_close, address.port);
    ASSERT_TRUE(eventually([&] { return reading().up; }));
    EXPECT_TRUE(eventually([&] { return states[0]->up(); })) << "its connects' failures are forgotten too";
    EXPECT_EQ(problem(), "");
}

TEST_F(ProberTest, HttpLooksAtStatusAndBody) {
    Served good(SOCK_STREAM, answer_with("HTTP/1.1 200 OK\r\n\r\nI am ready"));
    Served bad(SOCK_STREAM, answer_with("HTTP/1.1 503 No\r\n\r\nI am ready"));
    Served silent(SOCK_STREAM, accept_and_close);
    std::vector<Target> targets;
    for (const Served* server : {&good, &bad, &silent}) {
        targets.push_back(target(ProbeKind::http, server->address()));
        targets.back().settings.expect_body = "ready";
    }
    follow(targets);
    EXPECT_TRUE(answers(0));
    EXPECT_TRUE(falls(1));
    EXPECT_EQ(problem(1), "status 503");
    EXPECT_TRUE(falls(2));
    EXPECT_TRUE(reading(0).up);
}

// As `nc -l` does that is given an answer. Many at a time, so that answers are there when the connection is seen.
TEST_F(ProberTest, HttpHearsWhatWasSaidBeforeItAsked) {
    std::vector<int> held;  // a connection that ends says so by another event
    std::optional<Served> server(std::in_place, SOCK_STREAM, [&](int listener) {
        const int connection = accept(listener, nullptr, nullptr);
        send(connection, "HTTP/1.1 200 OK\r\n\r\n", 19, MSG_NOSIGNAL);
        held.push_back(connection);
    });
    std::vector<Target> targets(80, target(ProbeKind::http, server->address()));
    for (Target& one : targets) {
        one.settings.interval = 10ms;
        one.settings.timeout = 30s;
    }
    follow(targets);
    EXPECT_TRUE(eventually([&] {
        return std::all_of(gauges.begin(), gauges.end(), [](const auto& gauge) { return gauge->reading().probes > 3; });
    }));
    follow({});
    server.reset();
    for (const int connection : held)
        close(connection);
}

TEST_F(ProberTest, UdpTakesNothingButItsOwnEcho) {
    Served good(SOCK_DGRAM, echo);
    Served wrong(SOCK_DGRAM, [](int descriptor) {  // answers, but not to what was asked
        std::string text;
        sockaddr_storage from;
        socklen_t size;
        receive_from(descriptor, text, from, size);
        if (!text.empty()) text[0] = static_cast<char>(text[0] + 1);
        sendto(descriptor, text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&from), size);
    });
    follow({target(ProbeKind::udp, good.address()), target(ProbeKind::udp, wrong.address()),
            target(ProbeKind::udp, {here, closed_port()})});
    EXPECT_TRUE(answers(0));
    EXPECT_TRUE(falls(1));
    EXPECT_EQ(problem(1), "no answer within 80ms");
    EXPECT_TRUE(falls(2));
    EXPECT_EQ(problem(2), "Connection refused");
}

TEST_F(ProberTest, WhoFloodsIsCutOffAndTheOthersGoOn) {
    Served good(SOCK_DGRAM, echo);
    Served flood(SOCK_DGRAM, answer_and_flood(0, 2000));
    follow({target(ProbeKind::udp, good.address()), target(ProbeKind::udp, flood.address())});
    EXPECT_TRUE(falls(1));
    EXPECT_TRUE(answers(0));
    std::this_thread::sleep_for(500ms);
    EXPECT_TRUE(reading(0).up);
    EXPECT_LT(reading(0).loss_ratio, 0.5);
}

// The next target's probe may go by the same socket.
TEST_F(ProberTest, WhatComesAfterAnAnswerIsNobodys) {
    Served good(SOCK_DGRAM, echo);
    Served talks(SOCK_DGRAM, answer_and_flood(1, 200));
    std::vector<Target> targets;
    for (int i = 0; i < 10; ++i) {
        targets.push_back(target(ProbeKind::udp, i % 2 ? talks.address() : good.address()));
        targets.back().settings.timeout = 5s;  // a busy machine is no reason to lose one
    }
    follow(targets);
    ASSERT_TRUE(eventually([&] { return prober.status().answered > 100; }));
    EXPECT_EQ(prober.status().lost, 0U) << problem(0) << problem(1);
}

TEST_F(ProberTest, ManyProbesNeedFewDescriptors) {
    const auto descriptors = [] {
        const std::filesystem::directory_iterator all("/proc/self/fd");
        return std::distance(begin(all), end(all));
    };
    Served tcp(SOCK_STREAM, accept_and_close);
    Served http(SOCK_STREAM, answer_with("HTTP/1.1 200 OK\r\n\r\n"));
    Served udp(SOCK_DGRAM, echo);
    std::vector<Target> targets;
    for (int i = 0; i < 40; ++i) {
        targets.push_back(target(ProbeKind::tcp, tcp.address()));
        targets.push_back(target(ProbeKind::http, http.address()));
        targets.push_back(target(ProbeKind::udp, udp.address()));
        targets.push_back(target(ProbeKind::tcp, {here, closed_port()}));
        targets.push_back(target(ProbeKind::udp, {here, closed_port()}));
    }
    for (size_t i = 0; i < targets.size(); ++i)
        if (i % 5 < 3) targets[i].settings.timeout = 5s;
    const auto before = descriptors();
    follow(targets);
    ASSERT_TRUE(eventually([&] { return prober.status().answered > 600 && prober.status().lost > 400; }));
    // One for each that answers, at most, and what is just under way; each of the others has had several.
    EXPECT_LE(descriptors() - before, 160);
    for (size_t i = 0; i < targets.size(); ++i)
        EXPECT_EQ(reading(i).up, i % 5 < 3) << i << ": " << problem(i);
    follow({});
    EXPECT_LE(descriptors() - before, 3) << "a connection that a peer has still open";
}

TEST_F(ProberTest, LateAnswersAreLost) {
    Served late(SOCK_DGRAM, [](int descriptor) {
        std::this_thread::sleep_for(150ms);
        echo(descriptor);
    });
    follow({target(ProbeKind::udp, late.address())});
    EXPECT_TRUE(falls());
    EXPECT_FALSE(reading().round_trip);
}

TEST_F(ProberTest, IcmpAsksTheHost) {
    follow({target(ProbeKind::icmp, {here, 0}), target(ProbeKind::icmp, {*IpAddress::parse("::1"), 0})});
    if (eventually([&] { return !prober.status().notes.empty() || reading().probes > 3; }) &&
        !prober.status().notes.empty()) {
        EXPECT_TRUE(reading().up) << "whom this machine cannot ask is not down";
        EXPECT_THAT(prober.status().notes[0], HasSubstr("ping_group_range"));
        GTEST_SKIP() << prober.status().notes[0];
    }
    EXPECT_TRUE(answers(0));
    EXPECT_TRUE(answers(1));
}

// As root: it takes a raw socket to send echo replies that nobody asked for.
struct EchoFlood {
    explicit EchoFlood(const IpAddress& from) : descriptor(socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_ICMP)) {
        sockaddr_storage address;
        const socklen_t size = SocketAddress{from, 0}.to(address);
        if (descriptor < 0 || bind(descriptor, reinterpret_cast<sockaddr*>(&address), size) != 0) return;
        thread = std::thread([this] { flood(); });
    }
    ~EchoFlood() {
        over = true;
        if (thread.joinable()) thread.join();
        close(descriptor);
    }
    bool is_possible() const { return thread.joinable(); }

    // The request that comes says whom, by the kernel's identifier for the prober's socket, at 4 behind the IP header.
    void flood() {
        std::array<char, 20 + 16> packet{};
        while (!over && (recv(descriptor, packet.data(), packet.size(), 0) != static_cast<ssize_t>(packet.size()) ||
                         packet[20] != ICMP_ECHO))
            std::this_thread::sleep_for(1ms);
        std::array<uint16_t, 8> reply{};
        std::memcpy(&reply[2], &packet[24], sizeof reply[2]);
        reply[1] = static_cast<uint16_t>(~reply[2]);
        sockaddr_storage address;
        const socklen_t size = SocketAddress{here, 0}.to(address);
        while (!over)
            sendto(descriptor, reply.data(), sizeof reply, 0, reinterpret_cast<sockaddr*>(&address), size);
    }

    const int descriptor;
    std::atomic<bool> over{false};
    std::thread thread;
};

TEST_F(ProberTest, WhoFloodsWithEchoRepliesIsNotHeardAndTheOthersAre) {
    const IpAddress flooder = IpAddress::v4(0x7f000009);
    EchoFlood flood(flooder);
    if (!flood.is_possible()) GTEST_SKIP() << "no raw socket";
    std::vector<Target> targets{target(ProbeKind::icmp, {flooder, 0})};
    for (uint32_t i = 0; i < 20; ++i)
        targets.push_back(target(ProbeKind::icmp, {IpAddress::v4(0x7f00000a + i), 0}));
    for (size_t i = 1; i < targets.size(); ++i)
        targets[i].settings.timeout = 5s;
    follow(targets);
    if (eventually([&] { return !prober.status().notes.empty() || reading().probes > 3; }) &&
        !prober.status().notes.empty())
        GTEST_SKIP() << prober.status().notes[0];
    ASSERT_TRUE(falls());
    EXPECT_THAT(problem(), HasSubstr("it floods"));
    const Status before = prober.status();
    std::this_thread::sleep_for(500ms);
    EXPECT_LT(prober.status().cpu - before.cpu, 250ms) << "it costs this thread nothing any more";
    for (size_t i = 1; i < targets.size(); ++i)
        EXPECT_TRUE(reading(i).up) << i << ": " << problem(i);
    std::lock_guard lock(mutex);
    EXPECT_THAT(logged, HasSubstr("far more echo replies"));
}

TEST_F(ProberTest, ARefusalIsAnAnswerWhereTheHostIsAsked) {
    Target asked = target(ProbeKind::tcp, {here, closed_port()});
    asked.refusal_answers = true;
    follow({asked});
    EXPECT_TRUE(answers());
    EXPECT_TRUE(reading().up);
}

TEST(ProbeSocket, WhatThisMachineCannotSendIsNoSignOfTheTarget) {
    for (const int error : {EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL, EAFNOSUPPORT})
        EXPECT_EQ(outcome_of(error).kind, Outcome::Kind::unable) << strerror(error);
    for (const int error : {ECONNREFUSED, ECONNRESET, ENETUNREACH, EHOSTUNREACH, EPERM, EACCES})
        EXPECT_EQ(outcome_of(error).kind, Outcome::Kind::failed) << strerror(error);
    EXPECT_EQ(outcome_of(EMFILE).why, "Too many open files");
}

TEST_F(ProberTest, APathWhoseSourceIsNotHereIsDown) {
    Served server(SOCK_STREAM, accept_and_close);
    Target asked = target(ProbeKind::tcp, server.address());
    asked.egress.source = IpAddress::v4(0x0b0b0b0b);  // nobody's here
    follow({asked});
    EXPECT_TRUE(falls());
    EXPECT_THAT(problem(), HasSubstr("cannot speak from 11.11.11.11"));
}

TEST_F(ProberTest, ProbesComeFromTheSource) {
    std::mutex from_mutex;
    std::multiset<uint32_t> from;
    const auto times = [&](uint32_t address) {
        std::lock_guard lock(from_mutex);
        return from.count(address);
    };
    Served server(SOCK_STREAM, [&](int listener) {
        sockaddr_in peer{};
        socklen_t size = sizeof peer;
        const int connection = accept(listener, reinterpret_cast<sockaddr*>(&peer), &size);
        char request[1024];
        recv(connection, request, sizeof request, 0);
        send(connection, "HTTP/1.1 200 OK\r\n\r\n", 19, MSG_NOSIGNAL);
        close(connection);
        std::lock_guard lock(from_mutex);
        from.insert(ntohl(peer.sin_addr.s_addr));
    });
    std::vector<Target> asked(2, target(ProbeKind::http, server.address()));
    for (uint32_t i = 0; i < 2; ++i)
        asked[i].egress.source = IpAddress::v4(0x7f000009 + i);
    follow(asked);
    // More than once: what was bound stays bound while other targets are asked.
    EXPECT_TRUE(eventually([&] { return times(0x7f000009) > 3 && times(0x7f00000a) > 3; }));
    std::lock_guard lock(from_mutex);
    EXPECT_EQ(from.size(), from.count(0x7f000009) + from.count(0x7f00000a));
}

TEST_F(ProberTest, Ipv6IsAskedAgainAndAgain) {
    const IpAddress six = *IpAddress::parse("::1");
    Served tcp(SOCK_STREAM, accept_and_close, 0, six), udp(SOCK_DGRAM, echo, 0, six);
    std::vector<Target> targets;
    for (int i = 0; i < 8; ++i) {
        targets.push_back(i % 2 ? target(ProbeKind::tcp, tcp.address()) : target(ProbeKind::udp, udp.address()));
        targets.back().settings.timeout = 5s;
        if (i >= 4) targets.back().egress.source = six;
    }
    follow(targets);
    ASSERT_TRUE(eventually([&] { return prober.status().answered > 60; }));
    EXPECT_EQ(prober.status().lost, 0U) << problem(0) << problem(1) << problem(4) << problem(5);
}

TEST_F(ProberTest, ATcpProbeIsNoConnectionToAccept) {
    std::atomic<int> accepted{0};
    Served server(SOCK_STREAM, [&](int listener) {
        close(accept(listener, nullptr, nullptr));
        ++accepted;
    });
    follow({target(ProbeKind::tcp, server.address())});
    ASSERT_TRUE(answers());
    std::this_thread::sleep_for(500ms);
    EXPECT_EQ(accepted, 0);
}

TEST_F(ProberTest, WhatIsKnownStaysKnownAndWhatIsLeftIsTakenToBeThere) {
    const Target gone = target(ProbeKind::tcp, {here, closed_port()});
    follow({gone});
    ASSERT_TRUE(falls());
    const auto state = states[0];
    follow({target(ProbeKind::tcp, {here, closed_port()}), gone});
    EXPECT_FALSE(reading(1).up);
    EXPECT_TRUE(states[2]->closed & routing::closed_by_probe) << "told to the endpoint that asks for it now";
    EXPECT_EQ(state->closed, 0);
    follow({});
    EXPECT_EQ(states[2]->closed, 0);
    EXPECT_EQ(prober.status().targets, 0U);
}

TEST_F(ProberTest, ThousandsOfTargets) {
    Served server(SOCK_DGRAM, echo);
    std::vector<Target> targets(3000, target(ProbeKind::udp, server.address()));
    for (size_t i = 0; i < targets.size(); ++i) {
        targets[i].path = std::to_string(i);
        targets[i].settings.interval = 2s;
        targets[i].settings.timeout = 1s;
    }
    follow(targets);
    EXPECT_TRUE(eventually([&] { return prober.status().answered >= targets.size(); }));
    EXPECT_EQ(prober.status().targets, targets.size());
}

// The interval and three timeouts, and what the machine adds; one at a time it would be 2.1 s at least.
TEST_F(ProberTest, WhoFallsSilentIsDownSoon) {
    std::atomic<bool> silent{false};
    Served server(SOCK_DGRAM, [&](int descriptor) { answer_and_flood(silent ? 0 : 1, 0)(descriptor); });
    Target asked = target(ProbeKind::udp, server.address());
    asked.settings.interval = 1s;
    asked.settings.timeout = 100ms;
    follow({asked});
    ASSERT_TRUE(answers());
    silent = true;
    const TimePoint since = Clock::now();
    ASSERT_TRUE(falls());
    EXPECT_LT(Clock::now() - since, 1s + 3 * 100ms + 500ms);
}

}  // namespace
}  // namespace marchproxy::probe
