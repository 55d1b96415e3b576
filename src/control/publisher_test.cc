#include "control/publisher.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "control/handover.h"
#include "flow/store.h"

namespace marchproxy::control {
namespace {

using std::chrono::milliseconds;

const IpAddress loopback = IpAddress::v4(INADDR_LOOPBACK);

// Binds a port of the kernel's choice; whoever closes it may expect it to stay free for a while.
Descriptor bound(SocketAddress& address) {
    Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage storage{};
    socklen_t length = SocketAddress{loopback, 0}.to(storage);
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&storage), length), 0);
    length = sizeof storage;
    EXPECT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&storage), &length), 0);
    address = SocketAddress::from(storage);
    return socket;
}

uint16_t free_port() {
    SocketAddress address;
    bound(address);
    return address.port;
}

std::string get(uint16_t port) {
    const Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval patience{5, 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_storage storage{};
    const socklen_t length = SocketAddress{loopback, port}.to(storage);
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) return "refused";
    const std::string request = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
    ::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL);
    std::string answer;
    char buffer[4096];
    for (ssize_t size; (size = ::recv(socket.get(), buffer, sizeof buffer, 0)) > 0;)
        answer.append(buffer, static_cast<size_t>(size));
    return answer;
}

class PublisherTest : public testing::Test {
  protected:
    PublisherTest() {
        resolver.hosts_file = hosts_file.string();
        resolver.servers = "127.0.0.1:9";
        resolver.hosts_interval = milliseconds(20);
    }
    ~PublisherTest() override {
        publisher.reset();
        std::filesystem::remove(hosts_file);
    }
    void start() {
        publisher = std::make_unique<Publisher>(
            gateways, shapers, plane, packet, pilot, log, board, [this] { moved = true; }, resolver);
    }

    static Snapshot with(const std::string& name, uint16_t port, const HostPort& endpoint) {
        Snapshot snapshot;
        Service service;
        service.name = name;
        service.listen = {loopback, port};
        service.endpoints.push_back({endpoint, "", 100});
        snapshot.services.push_back(std::move(service));
        return snapshot;
    }

    std::filesystem::path hosts_file =
        std::filesystem::temp_directory_path() / ("publisher-hosts-" + std::to_string(::getpid()));
    ResolverOptions resolver;
    std::atomic<bool> moved{false};
    telemetry::Log log{LogLevel::error, LogFormat::text, [](std::string_view) {}};
    flow::Store store{flow::StoreOptions{}};
    gateways::Gateways gateways;
    qos::Shapers shapers{2};
    routing::EndpointStates endpoint_states;
    stream::Plane plane{1, log, store, shapers, endpoint_states};
    packet::Plane packet{log, store, shapers, endpoint_states, 1};
    Pilot pilot{plane, packet, endpoint_states, log, [] {}};
    Board board;
    std::unique_ptr<Publisher> publisher;
};

TEST_F(PublisherTest, WithoutServicesTheEmbeddedDefaultAnswersUntilThereIsOne) {
    start();
    Snapshot empty;
    empty.settings.listen_address = loopback;
    empty.settings.listen_port = free_port();
    ASSERT_TRUE(publisher->publish(empty).ok());
    EXPECT_TRUE(publisher->runs_embedded_default());
    EXPECT_NE(get(empty.settings.listen_port).find(" answered (provider "), std::string::npos);
    ASSERT_NE(board.snapshot(), nullptr);
    EXPECT_EQ(board.snapshot()->version, 1u);

    ASSERT_TRUE(publisher->publish(empty).ok()) << "the same upstreams go on";
    EXPECT_NE(get(empty.settings.listen_port).find(" answered (provider "), std::string::npos);

    ASSERT_TRUE(publisher->publish(with("web", free_port(), {"127.0.0.1", 9})).ok());
    EXPECT_FALSE(publisher->runs_embedded_default());
    EXPECT_EQ(get(empty.settings.listen_port), "refused");
    EXPECT_EQ(board.snapshot()->version, 3u);
}

TEST_F(PublisherTest, AnOccupiedPortLeavesWhatRuns) {
    start();
    ASSERT_TRUE(publisher->publish(with("web", free_port(), {"127.0.0.1", 9})).ok());
    SocketAddress occupied;
    const Descriptor holder = bound(occupied);
    ASSERT_EQ(::listen(holder.get(), 1), 0);

    const auto refused = publisher->publish(with("other", occupied.port, {"name.test", 9}));
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().find(std::to_string(occupied.port)), std::string::npos);
    EXPECT_EQ(board.snapshot()->version, 1u);
    EXPECT_EQ(board.snapshot()->services[0].name, "web");

    Snapshot empty;
    empty.settings.listen_address = loopback;
    empty.settings.listen_port = occupied.port;
    const auto by_default = publisher->publish(empty);
    ASSERT_FALSE(by_default.ok());
    EXPECT_NE(by_default.error().find("--listen-port"), std::string::npos);
    EXPECT_FALSE(publisher->runs_embedded_default());
}

TEST_F(PublisherTest, ANameThatMovesMovesItsEndpoint) {
    std::ofstream(hosts_file) << "127.0.0.2 web.test\n";
    start();
    ASSERT_TRUE(publisher->publish(with("web", free_port(), {"web.test", 80})).ok());
    const auto resolved = [this] { return plane.status().services.at(0).endpoints.at(0).resolved; };
    EXPECT_EQ(resolved(), "127.0.0.2:80");

    moved = false;
    std::ofstream(hosts_file) << "127.0.0.33 web.test\n";
    for (const TimePoint end = Clock::now() + std::chrono::seconds(5); !moved && Clock::now() < end;)
        std::this_thread::sleep_for(milliseconds(5));
    ASSERT_TRUE(moved);
    EXPECT_EQ(resolved(), "127.0.0.2:80") << "the plane hears of it on the control thread only";
    publisher->follow_names();
    EXPECT_EQ(resolved(), "127.0.0.33:80");
}

}  // namespace
}  // namespace marchproxy::control
