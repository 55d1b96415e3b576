// The measurements of loadgen. Each runs to its end on the calling thread and returns what it prints as JSON;
// latencies are microseconds, rates per second. They throw Failure when the peer breaks the exchange.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <nlohmann/json.hpp>

#include "histogram.h"

namespace marchproxy::bench {

struct Timing {
    double warmup = 0.3;   // seconds of load before counting starts
    double seconds = 2.0;  // counted
};

struct PingPong {
    sockaddr_in target{};
    unsigned connections = 1;
    double rate = 0;  // requests a second over all connections; 0: each sends as soon as the reply is there
    Timing timing;
};

struct Fresh {
    sockaddr_in target{};
    unsigned concurrency = 32;
    unsigned sources = 8;  // client addresses 127.0.0.2 ...: keeps TIME_WAIT from filling one address's ports
    Timing timing;
};

struct Idle {
    sockaddr_in target{};
    unsigned connections = 10'000;
};

struct Udp {
    sockaddr_in target{};
    unsigned clients = 1;
    unsigned window = 128;  // datagrams under way, over all clients; 0: flood without waiting
    Timing timing;
};

// Kept connections: 64 bytes out, 64 bytes back, again. With a rate, latency counts from the moment the request was
// due, whether or not its connection was free then (Tene's "coordinated omission").
nlohmann::json run_pingpong(const PingPong& options);

// Fresh connections: connect, 64 bytes out, 64 bytes back, close; latency is the whole of it.
nlohmann::json run_fresh(const Fresh& options);

// Opens connections, one exchange on each, prints {"open": N} and holds them until standard input ends.
nlohmann::json run_idle(const Idle& options);

// 64-byte datagrams to an echo server and back.
nlohmann::json run_udp(const Udp& options);

// Keeps a processor from halting until standard input ends, by spinning at SCHED_IDLE: whatever else wants to run there
// runs at once. A halted virtual processor takes 30-50 us to wake, which is more than a proxy takes.
nlohmann::json run_awake(int cpu);

nlohmann::json latency_json(const Histogram& histogram);

}  // namespace marchproxy::bench
