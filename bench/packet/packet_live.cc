// packet_live [--flows N,N] [--rounds N] [--only REGEX]: what a forwarded packet costs one core from the moment it is
// received, the kernel's work of sending it on included: frames injected at the driver's XDP hook
// (BPF_F_TEST_XDP_LIVE_FRAMES, kernel doc bpf_prog_run.rst), 64 bytes each, one thread on one core.
//
//   marchproxy  the packet plane, nat: XDP redirects to the endpoints' interface, a veth pair whose far end drops by
//   XDP nftables    the kernel's own forwarding with one DNAT rule and connection tracking, to an interface (ifb) that
//   frees
//               what it is given: less work after forwarding than the packet plane's frames have before them
//   katran-design  the baseline of katran_design.bpf.c: out of the interface that the frames came in by, which drops
//   too empty       the bench's floor: frames drawn, and dropped at once
//
// One JSON line a figure: {bench, subject, unit, values}; ns a packet of wall time on a core that does nothing else.
#include <linux/if_link.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <chrono>
#include <fstream>
#include <sstream>

#include "bench/packet/katran.h"
#include "model/descriptor.h"

namespace marchproxy::bench {
namespace {

// Frames in flight at once: the kernel's default and half its limit.
constexpr uint32_t batch = 64, packets_a_round = 2'000'000;

// Of an interface in this namespace, which /sys does not show: received packets, and of what it was given to send those
// that it freed.
struct Counted {
    uint64_t received = 0, freed = 0;
};
Counted count_of(const std::string& interface) {
    std::ifstream input("/proc/thread-self/net/dev");
    for (std::string line; std::getline(input, line);) {
        std::istringstream words(line);
        std::string name;
        words >> name;
        if (name != interface + ":") continue;
        uint64_t bytes = 0, errors = 0;
        Counted counted;
        words >> bytes >> counted.received >> errors >> counted.freed;
        return counted;
    }
    return {};
}

// The far end takes what is sent and drops it: it receives by NAPI, as it has an XDP program of its own.
void drop_at(const char* interface, int program) {
    LIBBPF_OPTS(bpf_xdp_attach_opts, options);
    must(bpf_xdp_attach(static_cast<int>(if_nametoindex(interface)), program, XDP_FLAGS_DRV_MODE, &options),
         "attaching to the far end");
}

void load_interface_address(Bench& bench) {
    const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{.ifr_ifrn = {"clients"}, .ifr_ifru = {}};
    must(ioctl(socket.get(), SIOCGIFHWADDR, &request), "asking for the interface's address");
    for (size_t i = 0; i < 6; ++i)
        bench.settings->interface[i] = static_cast<uint8_t>(request.ifr_hwaddr.sa_data[i]);
}

// Nanoseconds a frame, through `program`.
double inject(Bench& bench, int program, uint32_t packets) {
    bench.traffic.choose(program);
    frame in = blank_frame();
    xdp_md context{.data_end = sizeof in, .ingress_ifindex = if_nametoindex("clients")};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = &in, .data_size_in = sizeof in, .ctx_in = &context,
                .ctx_size_in = sizeof context, .repeat = static_cast<int>(packets), .flags = BPF_F_TEST_XDP_LIVE_FRAMES,
                .batch_size = batch);
    const auto begin = std::chrono::steady_clock::now();
    must(bpf_prog_test_run_opts(bench.traffic.program("draw"), &options), "injecting frames");
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    return took.count() / packets;
}

// A figure of packets that were lost on the way would be one of nothing.
double inject_all(Bench& bench, int program, const std::string& interface, uint64_t Counted::*counter) {
    const uint64_t before = count_of(interface).*counter;
    const double took = inject(bench, program, packets_a_round);
    usleep(20'000);
    const uint64_t arrived = count_of(interface).*counter - before;
    if (arrived < packets_a_round / 100 * 99)
        throw std::runtime_error(fmt::format("only {} of {} packets left by {}", arrived, packets_a_round, interface));
    return took;
}

void use_nftables(uint32_t flows) {
    run("ip link del endpoints && ip link add endpoints type ifb && ip link set endpoints up");
    run("ip address add 10.1.0.0/15 dev endpoints");
    run(fmt::format("ip neigh add {} lladdr 02:00:00:00:00:02 dev endpoints nud permanent",
                    to_string(IpAddress::v4(first_endpoint))));
    run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.clients.rp_filter=0");
    // Of the whole machine; the largest that this bench needs, never less than there is.
    run(
        fmt::format("sysctl -q -w net.netfilter.nf_conntrack_udp_timeout=600; m=$(sysctl -n "
                    "net.netfilter.nf_conntrack_max); [ $m -ge {0} ] || echo {0} > "
                    "/proc/sys/net/netfilter/nf_conntrack_max || true",
                    flows + 100'000));
    run(
        fmt::format("printf '%s\\n' 'table ip bench {{' 'chain pre {{' 'type nat hook prerouting priority -100;' "
                    "'ip daddr {} udp dport {} dnat to {}:{}' '}}' '}}' | nft -f -",
                    to_string(IpAddress::v4(service_address)), service_port, to_string(IpAddress::v4(first_endpoint)),
                    endpoint_port));
}

void katran(const Table& table, const std::string& name, Bench& bench, uint32_t flows, const std::string& objects) {
    Katran katran(objects, std::max(flows, 1'000'000u));
    bench.begin_flows(katran.program(), 0, flows);
    table.take(name, Katran::subject,
               [&] { return inject_all(bench, katran.program(), "clients-far", &Counted::received); });
}

void measure(const Table& table, uint32_t flows, const std::string& objects) {
    const std::string bench_name = fmt::format("packet-live-{}", flows);
    if (!table.wanted(bench_name)) return;
    Bench bench(std::max(flows, 1'000'000u), objects);
    bench.settings->flows = flows;
    bench.settings->live = 1;
    load_interface_address(bench);
    for (const char* far : {"endpoints-far", "clients-far"})
        drop_at(far, bench.traffic.program("empty"));
    bench.begin_flows(0, flows);
    table.take(bench_name, "empty", [&] { return inject(bench, bench.traffic.program("empty"), packets_a_round); });
    table.take(bench_name, "marchproxy",
               [&] { return inject_all(bench, bench.programs.xdp(), "endpoints-far", &Counted::received); });
    katran(table, bench_name, bench, flows, objects);
    use_nftables(flows);
    bench.settings->in_order = 1;
    bench.settings->next = 0;
    inject(bench, bench.traffic.program("pass"), flows);
    bench.settings->in_order = 0;
    table.take(bench_name, "nftables",
               [&] { return inject_all(bench, bench.traffic.program("pass"), "endpoints", &Counted::freed); });
}

}  // namespace
}  // namespace marchproxy::bench

int main(int argc, char** argv) {
    using namespace marchproxy::bench;
    return run_bench(argc, argv, "packet_live", "What a forwarded packet costs a core, in nanoseconds",
                     {.flows = {1, 100'000}}, [](const Options& options) {
                         pin_to_one_core();
                         for (const uint32_t count : options.flows) {
                             make_network();
                             measure(Table(options.only, options.rounds), count, options.objects);
                         }
                     });
}
