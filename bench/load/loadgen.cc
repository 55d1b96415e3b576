// loadgen: one thread, one epoll, as few system calls a request as there can be, so that what differs between two
// runs is the proxy in between. Prints one JSON object.
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "modes.h"
#include "sockets.h"

namespace marchproxy::bench {

nlohmann::json latency_json(const Histogram& histogram) {
    const auto microseconds = [&](double fraction) { return static_cast<double>(histogram.quantile(fraction)) / 1000; };
    return {{"p50", microseconds(0.5)},
            {"p99", microseconds(0.99)},
            {"p999", microseconds(0.999)},
            {"max", static_cast<double>(histogram.maximum()) / 1000},
            {"count", histogram.count()}};
}

namespace {

struct CommandLine {
    std::string target;
    Timing timing;
    PingPong pingpong;
    Fresh fresh;
    Idle idle;
    Udp udp;
    int cpu = 0;
};

CLI::App* add_mode(CLI::App& app, CommandLine& line, const char* name, const char* description) {
    CLI::App* mode = app.add_subcommand(name, description);
    mode->add_option("--target", line.target, "address:port to talk to")->required();
    return mode;
}

CLI::App* add_timed_mode(CLI::App& app, CommandLine& line, const char* name, const char* description) {
    CLI::App* mode = add_mode(app, line, name, description);
    mode->add_option("--seconds", line.timing.seconds, "time that counts")->check(CLI::Range(0.1, 600.0));
    mode->add_option("--warmup", line.timing.warmup, "load before it")->check(CLI::Range(0.0, 60.0));
    return mode;
}

nlohmann::json run(int argc, char** argv, CLI::App& app) {
    CommandLine line;
    app.require_subcommand(1);

    CLI::App* pingpong = add_timed_mode(app, line, "pingpong", "64 bytes there and back on kept connections");
    pingpong->add_option("--connections", line.pingpong.connections)->check(CLI::Range(1, 100'000));
    pingpong->add_option("--rate", line.pingpong.rate, "requests a second over all; 0: closed loop")
        ->check(CLI::NonNegativeNumber);

    CLI::App* fresh = add_timed_mode(app, line, "connect", "a fresh connection for each 64 bytes there and back");
    fresh->add_option("--concurrency", line.fresh.concurrency)->check(CLI::Range(1, 10'000));
    fresh->add_option("--sources", line.fresh.sources, "client addresses to use")->check(CLI::Range(1, 250));

    CLI::App* idle = add_mode(app, line, "idle", "open connections and hold them until stdin ends");
    idle->add_option("--connections", line.idle.connections)->check(CLI::Range(1, 1'000'000));

    CLI::App* udp = add_timed_mode(app, line, "udp", "64-byte datagrams to an echo server");
    udp->add_option("--clients", line.udp.clients)->check(CLI::Range(1, 10'000));
    udp->add_option("--window", line.udp.window, "datagrams under way over all clients; 0: flood");

    CLI::App* awake = app.add_subcommand("awake", "keep a processor from halting until stdin ends");
    awake->add_option("--cpu", line.cpu)->check(CLI::Range(0, 1023));

    app.parse(argc, argv);
    if (awake->parsed()) return run_awake(line.cpu);
    const sockaddr_in target = parse_endpoint(line.target);
    line.pingpong.target = line.fresh.target = line.idle.target = line.udp.target = target;
    line.pingpong.timing = line.fresh.timing = line.udp.timing = line.timing;
    if (pingpong->parsed()) return run_pingpong(line.pingpong);
    if (fresh->parsed()) return run_fresh(line.fresh);
    if (idle->parsed()) return run_idle(line.idle);
    return run_udp(line.udp);
}

}  // namespace
}  // namespace marchproxy::bench

int main(int argc, char** argv) {
    prctl(PR_SET_TIMERSLACK, 1);  // paced requests leave when they are due, not 50 us later
    CLI::App app("Load for the benchmarks");
    try {
        std::cout << marchproxy::bench::run(argc, argv, app).dump() << std::endl;
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    } catch (const std::exception& error) {
        std::cerr << "loadgen: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
