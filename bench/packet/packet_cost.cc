// packet_cost [--flows N,N] [--rounds N] [--only REGEX]: what a packet costs in the packet plane, by BPF_PROG_TEST_RUN,
// above the bench's own floor; beside it the same program on the kernel's hash maps. One JSON line a figure:
// {bench, subject, unit, values}.
#include <chrono>

#include "bench/packet/world.h"

namespace marchproxy::bench {
namespace {

// Fills a kernel hash map with the same flows.
void fill_hash(bpf_map* map, uint32_t flows) {
    struct Cell {
        uint64_t target, traffic;
    };
    constexpr uint32_t batch = 1 << 16;
    std::vector<uint64_t> keys;
    std::vector<Cell> cells;
    for (uint32_t n = 0; n < flows; ++n) {
        keys.push_back(uint64_t{ntohl(client_address_be(n))} << 30 | uint64_t{ntohs(client_port_be(n))} << 14 | 1);
        cells.push_back({uint64_t{abi::flow_established} << flow_state_shift |
                             uint64_t{1 + n % endpoint_count} << flow_endpoint_shift |
                             uint64_t{1} << flow_source_shift | uint64_t{1024 + n / endpoint_count} << flow_port_shift,
                         0});
        if (keys.size() < batch && n + 1 < flows) continue;
        uint32_t count = static_cast<uint32_t>(keys.size());
        must(bpf_map_update_batch(bpf_map__fd(map), keys.data(), cells.data(), &count, nullptr), "filling a hash map");
        keys.clear();
        cells.clear();
    }
}

// One pass over the whole table, a flow of it.
void sweep(const Table& table, const std::string& suffix, Bench& bench) {
    table.take("packet-sweep" + suffix, "marchproxy", [&] {
        uint64_t live = 0;
        const auto begin = std::chrono::steady_clock::now();
        for (uint32_t first = 0; first < bench.programs.flow_buckets(); first += abi::sweep_buckets)
            live += must(bench.programs.sweep(first, abi::sweep_buckets)).live;
        const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
        return took.count() / static_cast<double>(std::max<uint64_t>(live, 1));
    });
}

void memory(const Table& table, const std::string& suffix, const Bench& bench) {
    const double bytes = static_cast<double>(bench.programs.flow_cells() / abi::flow_chunk_cells * 32768);
    table.print("packet-memory" + suffix, "marchproxy", "B a direction of a flow", {bytes / bench.capacity});
}

void denied(const Table& table, const std::string& suffix, Bench& bench) {
    abi::packet_service service = Bench::service();
    service.flags = abi::service_has_access | abi::service_access_allows;
    must(bench.programs.set_service(1, service));
    must(bench.programs.set_access(1, must(Prefix::parse("0.0.0.0/1")), false));  // where all clients are
    table.take("packet-denied" + suffix, "marchproxy",
               [&] { return bench.measure(bench.programs.xdp(), packets_a_run); });
    must(bench.programs.set_service(1, Bench::service()));
}

constexpr const char* rows[] = {"packet-empty",  "packet-floor", "packet-established", "packet-new",
                                "packet-denied", "packet-sweep", "packet-memory"};

void with_flows(const Table& table, uint32_t flows, const std::string& objects) {
    const std::string suffix = fmt::format("-{}", flows);
    const auto wanted = [&](const char* row) { return table.wanted(row + suffix); };
    if (std::none_of(std::begin(rows), std::end(rows), wanted)) return;
    Bench bench(std::max(flows, 1'000'000u) + 1'000'000, objects);
    memory(table, suffix, bench);
    table.take("packet-empty" + suffix, "empty",
               [&] { return bench.repeat(bench.traffic.program("empty"), packets_a_run); });
    bench.settings->flows = flows;
    table.take("packet-floor" + suffix, "empty",
               [&] { return bench.measure(bench.traffic.program("empty"), packets_a_run); });

    uint32_t first = flows + 1;
    table.take("packet-new" + suffix, "marchproxy", [&] {
        bench.settings->in_order = 1;
        bench.settings->first = first;
        bench.settings->next = 0;
        first += 100'000;
        const double took = bench.measure(bench.programs.xdp(), 100'000);
        bench.settings->in_order = 0;
        return took;
    });
    if (!wanted("packet-established") && !wanted("packet-sweep") && !wanted("packet-denied")) return;
    bench.settings->first = 0;
    bench.begin_flows(0, flows);
    const auto counters = must(bench.programs.service_counters(1));
    fmt::print(stderr, "{} flows begun; refused: table full {}, no port {}\n", uint64_t{counters.flows},
               uint64_t{counters.dropped[abi::packet_verdict_table_full]},
               uint64_t{counters.dropped[abi::packet_verdict_local_ports]});
    bench.settings->first = 0;
    table.take("packet-established" + suffix, "marchproxy",
               [&] { return bench.measure(bench.programs.xdp(), packets_a_run); });
    sweep(table, suffix, bench);
    if (wanted("packet-denied")) denied(table, suffix, bench);
    for (const std::string kind : {"hash", "lru_hash"}) {
        if (!wanted("packet-established")) continue;
        Object other(fmt::format("{}/on_{}.bpf.o", objects, kind));
        other.share(bench.programs);
        bpf_map__set_max_entries(other.map("client_cells"), kind == "hash" ? flows + 64 : flows + flows / 4 + 64);
        other.load();
        fill_hash(other.map("client_cells"), flows);
        table.take("packet-established" + suffix, kind,
                   [&] { return bench.measure(other.program("packet_xdp"), packets_a_run); });
    }
}

}  // namespace
}  // namespace marchproxy::bench

int main(int argc, char** argv) {
    using namespace marchproxy::bench;
    return run_bench(argc, argv, "packet_cost", "What a packet costs in the packet plane, in nanoseconds",
                     {.flows = {1, 1'000'000, 10'000'000}}, [](const Options& options) {
                         make_network();
                         for (const uint32_t count : options.flows)
                             with_flows(Table(options.only, options.rounds), count, options.objects);
                     });
}
