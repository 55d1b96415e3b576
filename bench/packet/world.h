// What the packet benches share: a network, the packet plane configured in it, the program that draws packets.
#pragma once

#include <fmt/ranges.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <regex>
#include <vector>

#include "bench/packet/drawing.h"
#include "model/address.h"
#include "packet/directory.h"
#include "packet/programs.h"

namespace marchproxy::bench {

constexpr uint32_t service_address = 0x0a000001, source_address = 0x0a000002, first_endpoint = 0x0a010001;
constexpr uint16_t service_port = 80, endpoint_port = 8080;
constexpr uint32_t endpoint_count = 400;  // enough ports for ten million flows
constexpr uint32_t ring_size = 65'537;
// A virtual processor is mostly half of a core, and whoever has the other half takes up to two fifths of it, for
// milliseconds or minutes: the same packet cost 76 and 121 ns, and so by turns did everything that keeps a core's ports
// busy. So a value is the least of several short runs, as what disturbs only ever adds.
constexpr uint32_t packets_a_run = 20'000, runs_a_value = 25;

inline abi::address mapped(uint32_t host_order) {
    return packet::to_abi(IpAddress::v4(host_order));
}

// A network of our own: clients behind one interface, endpoints behind another, neighbours known.
inline void make_network() {
    must(unshare(CLONE_NEWNET), "a network namespace (it takes root)");
    run("ip link add clients type veth peer name clients-far && ip link add endpoints type veth peer name "
        "endpoints-far");
    run("for i in lo clients clients-far endpoints endpoints-far; do ip link set $i up; done");
    run("ip address add 10.0.0.1/24 dev clients && ip address add 10.1.0.0/15 dev endpoints");
    run("sysctl -q -w net.ipv4.conf.lo.forwarding=1");
    run("ip neigh add 10.0.0.254 lladdr 02:00:00:00:00:01 dev clients nud permanent");
    run("ip route add default via 10.0.0.254 dev clients");
    for (uint32_t i = 0; i < endpoint_count; ++i)
        run(fmt::format("ip neigh add {} lladdr 02:00:00:00:00:02 dev endpoints nud permanent",
                        to_string(IpAddress::v4(first_endpoint + i))));
}

// Lets the other program take over every map that the real programs have too: one configuration for both.
inline void share_maps(const packet::Programs& programs, Object& other) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, other.get()) {
        const int descriptor = programs.map(bpf_map__name(map));
        if (!bpf_map__is_internal(map) && descriptor >= 0) must(bpf_map__reuse_fd(map, descriptor), "sharing a map");
    }
}

struct Bench {
    packet::Programs programs;
    Traffic traffic;
    struct traffic* settings = traffic.settings;

    double capacity;  // flows it was made for

    static abi::packet_service service() {
        return {.address = mapped(service_address),
                .port_be = htons(service_port),
                .protocol = IPPROTO_UDP,
                .forwarding = abi::forwarding_nat,
                .ring = ring_size,
                .seed = 1,
                .idle_seconds = 3600,
                .opening_seconds = 3600};
    }

    static packet::Programs configured(uint64_t flows) {
        auto programs = must(packet::Programs::load({.flows = flows, .ipv6_clients = false}));
        std::vector<abi::directory_entry> entries;
        for (uint32_t i = 1; i <= endpoint_count; ++i) {
            const abi::packet_endpoint endpoint{.address = mapped(first_endpoint + i - 1),
                                                .port_be = htons(endpoint_port),
                                                .protocol = IPPROTO_UDP,
                                                .flags = abi::endpoint_in_use | abi::endpoint_takes,
                                                .source_first = 1,
                                                .source_count = 1};
            must(programs.set_endpoint(i, endpoint));
            entries.push_back({.address = endpoint.address,
                               .port_be = endpoint.port_be,
                               .protocol = IPPROTO_UDP,
                               .kind = abi::directory_endpoint,
                               .index = i});
        }
        must(programs.set_source(1, mapped(source_address)));
        std::vector<uint32_t> ring(ring_size);
        for (uint32_t i = 0; i < ring_size; ++i)
            ring[i] = 1 + i % endpoint_count;
        must(programs.set_ring(0, ring));
        must(programs.set_service(1, service()));
        for (const uint8_t protocol : {IPPROTO_UDP, IPPROTO_TCP})
            entries.push_back({.address = mapped(service_address),
                               .port_be = htons(service_port),
                               .protocol = protocol,
                               .kind = abi::directory_service,
                               .index = 1});
        entries.push_back({.address = mapped(source_address), .kind = abi::directory_source, .index = 1});
        must(programs.set_directory(*must(packet::build_directory(entries))));
        return programs;
    }

    Bench(uint64_t flows, const std::string& objects)
        : programs(configured(flows)), traffic(objects), capacity(static_cast<double>(flows)) {
        settings->service = htonl(service_address);
        settings->service_port = htons(service_port);
        settings->source = htonl(source_address);
        settings->endpoint = htonl(first_endpoint);
    }

    // The service's access lists: whom they deny. It asks them once its flags say so.
    void deny(const std::vector<Prefix>& prefixes) {
        must(programs.set_access({{1, packet::access_tree(Access{.allow = {}, .deny = prefixes})}}));
    }

    // Nanoseconds a packet.
    uint32_t measure(int program, uint32_t packets) { return send(program, packets).nanoseconds; }

    // What the last of some packets became.
    struct Sent {
        uint32_t verdict = 0, size = 0, nanoseconds = 0;
        std::array<uint8_t, 256> frame{};  // encapsulated it is longer than it was
    };
    Sent send(int program, uint32_t packets = 1) {
        traffic.choose(program);
        return send_to(traffic.program("draw"), packets);
    }

    // Of a program that is given no drawn packet.
    uint32_t repeat(int program, uint32_t packets) { return send_to(program, packets).nanoseconds; }

    // Begins flows first … first + count, through the program.
    void begin_flows(uint32_t first, uint32_t count) { begin_flows(programs.xdp(), first, count); }
    void begin_flows(int program, uint32_t first, uint32_t count) {
        settings->in_order = 1;
        settings->first = first;
        settings->next = 0;
        for (uint32_t left = count; left > 0;) {
            const uint32_t now = std::min(left, 1'000'000u);
            measure(program, now);
            left -= now;
        }
        settings->in_order = 0;
        settings->first = 0;
    }

  private:
    Sent send_to(int program, uint32_t packets) {
        frame in = blank_frame(settings->syn ? IPPROTO_TCP : IPPROTO_UDP);
        xdp_md context{.data_end = sizeof in, .ingress_ifindex = if_nametoindex("clients")};
        Sent sent;
        LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = &in, .data_out = sent.frame.data(),
                    .data_size_in = sizeof in, .data_size_out = static_cast<uint32_t>(sent.frame.size()),
                    .ctx_in = &context, .ctx_size_in = sizeof context, .repeat = static_cast<int>(packets));
        must(bpf_prog_test_run_opts(program, &options), "BPF_PROG_TEST_RUN");
        sent.verdict = options.retval;
        sent.size = options.data_size_out;
        sent.nanoseconds = options.duration;
        return sent;
    }
};

class Table {
  public:
    Table(std::string only, int rounds) : only_(only), rounds_(rounds) {}

    bool wanted(const std::string& bench) const { return std::regex_search(bench, only_); }

    void take(const std::string& bench, const std::string& subject, const std::function<double()>& once,
              uint32_t runs = runs_a_value) const {
        if (!wanted(bench)) return;
        std::vector<double> values;
        for (int i = 0; i < rounds_; ++i) {
            double least = once();
            for (uint32_t more = 1; more < runs; ++more)
                least = std::min(least, once());
            values.push_back(least);
        }
        print(bench, subject, "ns", values);
    }

    void print(const std::string& bench, const std::string& subject, const char* unit,
               const std::vector<double>& values) const {
        if (!wanted(bench)) return;
        fmt::print("{{\"bench\": \"{}\", \"subject\": \"{}\", \"unit\": \"{}\", \"values\": [{:.1f}]}}\n", bench,
                   subject, unit, fmt::join(values, ", "));
        std::fflush(stdout);
    }

  private:
    std::regex only_;
    int rounds_;
};

// The command line of a packet bench, which runs `measure` with it. Returns the exit status.
struct Options {
    std::vector<uint32_t> flows;
    int rounds = 5;
    std::string only{}, objects = ".";
};
inline int run_bench(int argc, char** argv, const char* name, const char* about, Options options,
                     const std::function<void(const Options&)>& measure) {
    CLI::App app{about};
    app.add_option("--flows", options.flows)->delimiter(',');
    app.add_option("--rounds", options.rounds);
    app.add_option("--only", options.only);
    app.add_option("--objects", options.objects, "where the bench's BPF objects lie");
    CLI11_PARSE(app, argc, argv);
    try {
        measure(options);
    } catch (const std::exception& error) {
        fmt::print(stderr, "{}: {}\n", name, error.what());
        return 1;
    }
    return 0;
}

}  // namespace marchproxy::bench
