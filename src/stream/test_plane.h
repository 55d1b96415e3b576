// A plane with one service and an endpoint that echoes, for tests.
#pragma once

#include <gtest/gtest.h>

#include <cassert>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "stream/plane.h"
#include "stream/test_sockets.h"

namespace marchproxy::stream::testing {

using namespace std::chrono_literals;

struct Flows : flow::Sink {
    std::mutex mutex;
    std::vector<flow::Record> records;
    void finished(std::vector<flow::Record>& batch) override {
        std::lock_guard lock(mutex);
        records.insert(records.end(), batch.begin(), batch.end());
        batch.clear();
    }
    size_t count() {
        std::lock_guard lock(mutex);
        return records.size();
    }
};

// An endpoint that echoes, one thread a connection.
class EchoServer {
  public:
    EchoServer() : listener_(bound_socket(SOCK_STREAM)), acceptor_([this] { run(); }) {}
    ~EchoServer() {
        shutdown(listener_, SHUT_RDWR);
        acceptor_.join();
        for (std::thread& thread : threads_)
            thread.join();
    }
    uint16_t port() const { return local_address(listener_).port; }

  private:
    void run() {
        for (;;) {
            const int descriptor = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            if (descriptor < 0) return;
            threads_.emplace_back([descriptor] {
                Fd connection(descriptor);
                char buffer[65536];
                for (ssize_t size; (size = recv(connection, buffer, sizeof buffer, 0)) > 0;)
                    write_bytes(connection, std::string(buffer, static_cast<size_t>(size)));
            });
        }
    }
    Fd listener_;
    std::vector<std::thread> threads_;
    std::thread acceptor_;
};

// Never one that was given before: a listener and an endpoint with the same port would be a proxy that is its own
// endpoint.
inline uint16_t free_port() {
    static std::set<uint16_t> given;
    for (;;) {
        const uint16_t port = local_address(bound_socket(SOCK_STREAM)).port;
        if (given.insert(port).second) return port;
        assert(given.size() < 10'000);
    }
}

inline bool eventually(const std::function<bool()>& condition) {
    for (int i = 0; i < 500; ++i) {
        if (condition()) return true;
        std::this_thread::sleep_for(10ms);
    }
    return false;
}

class PlaneTest : public ::testing::Test {
  protected:
    PlaneTest() {
        service.name = "web";
        service.listen = loopback(free_port());
        service.endpoints = {{{"127.0.0.1", server.port()}, "onprem", 100}};
    }

    Result<void> apply() {
        auto snapshot = std::make_shared<Snapshot>();
        snapshot->settings = settings;
        if (listed) snapshot->services = {service};
        snapshot->paths = paths;
        snapshot->path_table = PathTable(paths);
        shapers.configure(snapshot->settings.qos);
        return plane.apply(snapshot, resolution, snapshot_shares);
    }
    Fd connect() { return connect_to(service.listen); }
    telemetry::ServiceStatus status() { return plane.status().services.at(0); }
    uint64_t dropped(Verdict verdict) { return status().dropped[static_cast<size_t>(verdict)]; }
    uint64_t ended(Verdict verdict) {
        uint64_t count = 0;
        for (const telemetry::PathCounters& path : status().paths)
            count += path.ended[static_cast<size_t>(verdict)];
        return count;
    }
    // Answers once: proves that the connection reaches an endpoint.
    static bool echoes(int descriptor, const std::string& text = "ping") {
        return write_bytes(descriptor, text) && read_bytes(descriptor, text.size()) == text;
    }
    // Sends all of it and then the end, and reads as much meanwhile.
    static std::string echoed_to_the_end(int descriptor, const std::string& bytes) {
        std::thread writer([&] {
            write_bytes(descriptor, bytes);
            shutdown(descriptor, SHUT_WR);
        });
        std::string echoed = read_bytes(descriptor, bytes.size());
        writer.join();
        return echoed;
    }
    static bool is_closed(int descriptor) {
        char byte;
        return wait_readable(descriptor) && recv(descriptor, &byte, 1, 0) <= 0;
    }

    EchoServer server;
    telemetry::Log log{LogLevel::error, LogFormat::text, [](std::string_view) {}};
    Flows flows;
    Settings settings;
    Service service;
    std::vector<Path> paths;
    Resolution resolution;
    routing::SharesByService snapshot_shares;
    bool listed = true;
    qos::Shapers shapers{2};
    routing::EndpointStates endpoint_states;
    Plane plane{2, log, flows, shapers, endpoint_states};
};

}  // namespace marchproxy::stream::testing
