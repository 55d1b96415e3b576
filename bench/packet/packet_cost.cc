// packet_cost [--flows N,N] [--rounds N] [--only REGEX]: what a packet costs in the packet plane, by BPF_PROG_TEST_RUN,
// above the bench's own floor; beside it the same program on the kernel's hash maps, and the design of another
// balancer. One JSON line a figure: {bench, subject, unit, values}.
#include <chrono>
#include <thread>

#include "bench/packet/katran.h"

namespace marchproxy::bench {
namespace {

// Clients beyond those of any number of established flows: of such as begin flows, and of such as never do.
constexpr uint32_t first_new_client = 20'000'000, unknown_clients = 100'000'000, new_flows_a_run = 2'000;

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
    table.take(
        "packet-sweep" + suffix, "marchproxy",
        [&] {
            uint64_t live = 0;
            const auto begin = std::chrono::steady_clock::now();
            for (uint32_t first = 0; first < bench.programs.flow_buckets(); first += abi::sweep_buckets)
                live += must(bench.programs.sweep(first, abi::sweep_buckets)).live;
            const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
            return took.count() / static_cast<double>(std::max<uint64_t>(live, 1));
        },
        1);
}

// What the table held of so many flows, and then how many of them ended because their time was over.
void hold_and_expire(const Table& table, const std::string& suffix, Bench& bench) {
    if (!table.wanted("packet-held" + suffix) && !table.wanted("packet-expired" + suffix)) return;
    double held = 0, expired = 0, told = 0;
    const auto pass = [&](double& live, double& ended) {
        for (uint32_t first = 0; first < bench.programs.flow_buckets(); first += abi::sweep_buckets) {
            const abi::sweep swept = must(bench.programs.sweep(first, abi::sweep_buckets));
            live += swept.live + swept.kept_back;  // over, but the reports had no room
            ended += swept.ended;
            must(bench.programs.take_reports([&](const abi::flow_report& report) { told += report.ended; }));
        }
    };
    pass(held, expired);
    abi::packet_service service = Bench::service();
    service.idle_seconds = service.opening_seconds = 1;
    must(bench.programs.set_service(1, service));
    std::this_thread::sleep_for(std::chrono::seconds(3));
    double kept = 1;
    for (int passes = 0; kept > 0 && passes < 20; ++passes)
        pass(kept = 0, expired);
    table.print("packet-held" + suffix, "marchproxy", "flows", {held});
    table.print("packet-expired" + suffix, "marchproxy", "flows", {std::min(expired, told)});
    must(bench.programs.set_service(1, Bench::service()));
}

void memory(const Table& table, const std::string& suffix, const Bench& bench) {
    const double bytes = static_cast<double>(bench.programs.flow_cells() / abi::flow_chunk_cells * 32768);
    table.print("packet-memory" + suffix, "marchproxy", "B a direction of a flow", {bytes / bench.capacity});
}

// A row of packets that are all treated alike.
struct Kind {
    const char* row;
    xdp_action action;                                     // what becomes of each
    uint64_t (*counted)(const abi::packet_counters&);      // and where each is counted
    bool begins;                                           // packets of no flow yet
    void (*change)(Bench&, abi::packet_service& service);  // the service, and what is sent
};
uint64_t packets_up(const abi::packet_counters& counters) {
    return counters.packets[abi::direction_up];
}
constexpr Kind kinds[] = {
    {"packet-established", XDP_REDIRECT, packets_up, false, [](Bench&, abi::packet_service&) {}},
    {"packet-denied", XDP_DROP,
     [](const abi::packet_counters& counters) -> uint64_t {
         return counters.dropped[abi::packet_verdict_access_denied];
     },
     false,
     [](Bench& bench, abi::packet_service& service) {
         service.flags = abi::service_has_access;
         bench.deny({must(Prefix::parse("0.0.0.0/1"))});  // where all clients are
     }},
    {"packet-rate-limited", XDP_DROP,
     [](const abi::packet_counters& counters) -> uint64_t { return counters.dropped[abi::packet_verdict_rate_limit]; },
     true, [](Bench&, abi::packet_service& service) { service.new_flow_step = 1'000'000'000; }},
    {"packet-packets-limited", XDP_DROP,
     [](const abi::packet_counters& counters) -> uint64_t { return counters.dropped[abi::packet_verdict_packet_rate]; },
     false,
     [](Bench& bench, abi::packet_service& service) {
         service.flags = abi::service_limits_packets;
         abi::packet_limits limits{};
         limits.packet_batch = 1;
         limits.packet_batch_step = 1'000'000'000'000;
         must(bench.programs.set_limits(1, limits));
         must(bench.programs.set_service(1, service));
         bench.send(bench.programs.xdp());  // the one that the limit lets in
     }},
    {"packet-syn-cookie", XDP_TX, [](const abi::packet_counters& counters) -> uint64_t { return counters.cookies; },
     true,
     [](Bench& bench, abi::packet_service& service) {
         service.protocol = IPPROTO_TCP;
         service.flags = abi::service_limits_flows;
         abi::packet_limits limits{};
         limits.proven_from = 1;
         must(bench.programs.set_limits(1, limits));
         bench.settings->syn = 1;
     }},
    {"packet-dsr-ipip", XDP_REDIRECT, packets_up, false,
     [](Bench&, abi::packet_service& service) { service.forwarding = abi::forwarding_dsr_ipip; }},
    {"packet-dsr-gue", XDP_REDIRECT, packets_up, false,
     [](Bench&, abi::packet_service& service) { service.forwarding = abi::forwarding_dsr_gue; }},
};

// A figure of packets that became something else would be one of nothing.
double measure_kind(const Kind& kind, Bench& bench) {
    const uint64_t before = kind.counted(must(bench.programs.service_counters(1)));
    const Bench::Sent sent = bench.send(bench.programs.xdp(), packets_a_run);
    const uint64_t counted = kind.counted(must(bench.programs.service_counters(1))) - before;
    if (sent.verdict != static_cast<uint32_t>(kind.action) || counted != packets_a_run)
        throw std::runtime_error(fmt::format("{}: {} of {} packets became what they should; the last ended with {}",
                                             kind.row, counted, packets_a_run, sent.verdict));
    return sent.nanoseconds;
}

void take_kind(const Table& table, const Kind& kind, const std::string& suffix, Bench& bench) {
    if (!table.wanted(kind.row + suffix)) return;
    abi::packet_service service = Bench::service();
    kind.change(bench, service);
    must(bench.programs.set_service(1, service));
    if (kind.begins) {
        bench.settings->first = unknown_clients - bench.settings->flows;
        bench.send(bench.programs.xdp());  // the one that a limit lets in
        bench.settings->first = unknown_clients;
    }
    table.take(kind.row + suffix, "marchproxy", [&] { return measure_kind(kind, bench); });
    bench.settings->first = 0;
    bench.settings->syn = 0;
    must(bench.programs.set_service(1, Bench::service()));
}

// One run after the other of packets that begin flows, in a table of so many. `begun`: how many have, up to now.
void take_new(const Table& table, const std::string& row, const char* subject, Bench& bench, int program,
              const std::function<uint64_t()>& begun) {
    uint32_t first = first_new_client;
    table.take(row, subject, [&] {
        const uint64_t before = begun();
        bench.settings->in_order = 1;
        bench.settings->first = first;
        bench.settings->next = 0;
        first += new_flows_a_run;
        const double took = bench.measure(program, new_flows_a_run);
        bench.settings->in_order = 0;
        bench.settings->first = 0;
        if (const uint64_t now = begun() - before; now != new_flows_a_run)
            throw std::runtime_error(fmt::format("{}, {}: {} of {} flows began", row, subject, now, new_flows_a_run));
        return took;
    });
}

void katran(const Table& table, uint32_t flows, const std::string& suffix, Bench& bench, const std::string& objects) {
    if (!table.wanted("packet-established" + suffix) && !table.wanted("packet-new" + suffix)) return;
    Katran katran(objects, static_cast<uint32_t>(bench.capacity));
    katran.check(bench);
    take_new(table, "packet-new" + suffix, Katran::subject, bench, katran.program(),
             [&] { return uint64_t{katran.counted().misses}; });
    if (!table.wanted("packet-established" + suffix)) return;
    bench.begin_flows(katran.program(), 0, flows);
    const abi::katran_counters before = katran.counted();
    table.take("packet-established" + suffix, Katran::subject,
               [&] { return bench.measure(katran.program(), packets_a_run); });
    const abi::katran_counters after = katran.counted();
    fmt::print(stderr, "katran-design: {} of {} packets of established flows missed their flow\n",
               after.misses - before.misses, after.packets - before.packets);
}

void on_kernel_hash(const Table& table, uint32_t flows, const std::string& kind, Bench& bench,
                    const std::string& objects) {
    const std::string row = fmt::format("packet-established-{}", flows);
    if (!table.wanted(row)) return;
    Object other(fmt::format("{}/on_{}.bpf.o", objects, kind));
    share_maps(bench.programs, other);
    bpf_map__set_max_entries(other.map("client_cells"), kind == "hash" ? flows + 64 : flows + flows / 4 + 64);
    other.load();
    fill_hash(other.map("client_cells"), flows);
    table.take(row, kind, [&] { return bench.measure(other.program("packet_xdp"), packets_a_run); });
}

// One random line of as much memory, read by a packet that does nothing else.
void one_line(const Table& table, const std::string& suffix, Bench& bench, const std::string& objects) {
    if (!table.wanted("packet-line" + suffix)) return;
    Object line(objects + "/line.bpf.o");
    share_maps(bench.programs, line);
    const abi::flow_table_settings settings{
        .key = {1, 2},
        .chunks = static_cast<uint32_t>(bench.programs.flow_cells() / abi::flow_chunk_cells),
        .alignment = 0};
    must(bpf_map__set_initial_value(line.map(".rodata"), &settings, sizeof settings), "telling the table's size");
    line.load();
    table.take("packet-line" + suffix, "line", [&] { return bench.measure(line.program("line"), packets_a_run); });
}

bool any_wanted(const Table& table, const std::string& suffix, std::initializer_list<const char*> rows) {
    return std::any_of(rows.begin(), rows.end(), [&](const char* row) { return table.wanted(row + suffix); });
}

bool needs_established(const Table& table, const std::string& suffix) {
    return any_wanted(table, suffix, {"packet-sweep", "packet-held", "packet-expired"}) ||
           std::any_of(std::begin(kinds), std::end(kinds),
                       [&](const Kind& kind) { return table.wanted(kind.row + suffix); });
}

void begin_established(Bench& bench, uint32_t flows) {
    bench.begin_flows(0, flows);
    const auto counters = must(bench.programs.service_counters(1));
    fmt::print(stderr, "{} flows begun; refused: table full {}, no port {}\n", uint64_t{counters.flows},
               uint64_t{counters.dropped[abi::packet_verdict_table_full]},
               uint64_t{counters.dropped[abi::packet_verdict_local_ports]});
}

void with_flows(const Table& table, uint32_t flows, const std::string& objects) {
    const std::string suffix = fmt::format("-{}", flows);
    if (!any_wanted(table, suffix, {"packet-empty", "packet-floor", "packet-line", "packet-new", "packet-memory"}) &&
        !needs_established(table, suffix))
        return;
    Bench bench(std::max(flows, 1'000'000u) + 1'000'000, objects);
    memory(table, suffix, bench);
    table.take("packet-empty" + suffix, "empty",
               [&] { return bench.repeat(bench.traffic.program("empty"), packets_a_run); });
    bench.settings->flows = flows;
    table.take("packet-floor" + suffix, "empty",
               [&] { return bench.measure(bench.traffic.program("empty"), packets_a_run); });
    one_line(table, suffix, bench, objects);
    take_new(table, "packet-new" + suffix, "marchproxy", bench, bench.programs.xdp(),
             [&] { return uint64_t{must(bench.programs.service_counters(1)).flows}; });

    katran(table, flows, suffix, bench, objects);
    if (!needs_established(table, suffix)) return;
    begin_established(bench, flows);
    for (const Kind& kind : kinds)
        take_kind(table, kind, suffix, bench);
    sweep(table, suffix, bench);
    for (const char* kind : {"hash", "lru_hash"})
        on_kernel_hash(table, flows, kind, bench, objects);
    hold_and_expire(table, suffix, bench);
}

// Packets from addresses that a list of so many refuses, one entry each; beside the kernel's trie with the same ones.
void listed(const Table& table, uint32_t count, const std::string& objects) {
    const std::string row = fmt::format("packet-listed-{}", count);
    if (!table.wanted(row)) return;
    Bench bench(1'000'000, objects);
    bench.settings->flows = count;
    table.take(row, "empty", [&] { return bench.measure(bench.traffic.program("empty"), packets_a_run); });

    std::vector<Prefix> prefixes;
    for (uint32_t n = 0; n < count; ++n)
        prefixes.push_back({IpAddress::v4(ntohl(client_address_be(n))), 128});
    Object trie(objects + "/lpm_trie.bpf.o");
    trie.load();
    for (const Prefix& prefix : prefixes) {
        const struct {
            uint32_t length, service_be;
            abi::address address;
        } key{32 + 128, htonl(1), packet::to_abi(prefix.ip)};
        const uint8_t refused = 0;
        must(bpf_map_update_elem(bpf_map__fd(trie.map("listed")), &key, &refused, BPF_ANY), "filling the trie");
    }
    table.take(row, "lpm_trie", [&] { return bench.measure(trie.program("lpm_trie"), packets_a_run); });

    abi::packet_service service = Bench::service();
    service.flags = abi::service_has_access;
    bench.deny(prefixes);
    must(bench.programs.set_service(1, service));
    const Kind& denied = *std::find_if(std::begin(kinds), std::end(kinds),
                                       [](const Kind& kind) { return kind.row == std::string("packet-denied"); });
    table.take(row, "marchproxy", [&] { return measure_kind(denied, bench); });
}

}  // namespace
}  // namespace marchproxy::bench

int main(int argc, char** argv) {
    using namespace marchproxy::bench;
    return run_bench(argc, argv, "packet_cost", "What a packet costs in the packet plane, in nanoseconds",
                     {.flows = {1, 1'000'000, 10'000'000}}, [](const Options& options) {
                         pin_to_one_core();
                         make_network();
                         for (const uint32_t count : options.flows)
                             with_flows(Table(options.only, options.rounds), count, options.objects);
                         for (const uint32_t count : {1, 1'000, 100'000, 1'000'000})
                             listed(Table(options.only, options.rounds), count, options.objects);
                     });
}
