// packet_rate: 64-byte UDP packets of many flows from one network namespace to another as fast as one core can, and how
// many arrive as they should. Sent as live frames (BPF_F_TEST_XDP_LIVE_FRAMES) and taken from the wire by an XDP
// program, with no socket and no buffer of the kernel's on either side, so that what lies between is the larger part of
// the work. Prints {"sent", "arrived", "seconds", "busy_seconds"}; the last is the whole machine's.
#include <fcntl.h>
#include <linux/if_link.h>
#include <net/if.h>

#include <chrono>
#include <fstream>

#include "bench/packet/drawing.h"
#include "model/address.h"
#include "model/descriptor.h"

namespace marchproxy::bench {
namespace {

constexpr uint32_t batch = 64, packets_a_call = 64'000;

struct CommandLine {
    std::string from{}, to{}, next_hop{}, target{}, expect{}, objects = ".";
    uint32_t flows = 10'000;
    double seconds = 1, warmup = 0.3;
};

// "NAMESPACE:INTERFACE": goes there. Returns the interface's index.
unsigned enter(const std::string& place) {
    const size_t colon = place.find(':');
    if (colon == std::string::npos) throw std::runtime_error(place + ": not NAMESPACE:INTERFACE");
    const std::string path = "/run/netns/" + place.substr(0, colon);
    const Descriptor space(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    must(space.get(), path.c_str());
    must(setns(space.get(), CLONE_NEWNET), path.c_str());
    const unsigned index = if_nametoindex(place.c_str() + colon + 1);
    if (index == 0) throw std::runtime_error(place + ": no such interface");
    return index;
}

void read_v4(const std::string& text, __u32& address_be, __u16& port_be) {
    const SocketAddress socket = must(SocketAddress::parse(text));
    if (!socket.ip.is_v4()) throw std::runtime_error(text + ": no IPv4 address");
    std::memcpy(&address_be, &socket.ip.bytes[12], sizeof address_be);
    port_be = htons(socket.port);
}

void configure(struct traffic* settings, const CommandLine& line) {
    read_v4(line.target, settings->service, settings->service_port);
    read_v4(line.expect, settings->endpoint, settings->endpoint_port);
    settings->flows = line.flows;
    settings->live = 1;
    unsigned bytes[6];
    if (std::sscanf(line.next_hop.c_str(), "%x:%x:%x:%x:%x:%x", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4],
                    &bytes[5]) != 6)
        throw std::runtime_error(line.next_hop + ": no MAC address, as 02:00:00:00:00:01");
    std::copy(std::begin(bytes), std::end(bytes), settings->interface);
}

// Of all processors since the machine started; without waiting, idling, and what the host took for others
// (proc_stat(5)).
double busy_seconds() {
    std::ifstream input("/proc/stat");
    std::string cpu;
    uint64_t user = 0, nice = 0, system = 0, idle = 0, waiting = 0, interrupts = 0, soft_interrupts = 0;
    input >> cpu >> user >> nice >> system >> idle >> waiting >> interrupts >> soft_interrupts;
    return static_cast<double>(user + nice + system + interrupts + soft_interrupts) /
           static_cast<double>(sysconf(_SC_CLK_TCK));
}

struct Sent {
    uint64_t packets = 0;
    double seconds = 0;
};
Sent send(Traffic& traffic, unsigned interface, double seconds) {
    frame in = blank_frame();
    xdp_md context{.data_end = sizeof in, .ingress_ifindex = interface};
    Sent sent;
    const auto begin = std::chrono::steady_clock::now();
    while (sent.seconds < seconds) {
        LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = &in, .data_size_in = sizeof in, .ctx_in = &context,
                    .ctx_size_in = sizeof context, .repeat = packets_a_call, .flags = BPF_F_TEST_XDP_LIVE_FRAMES,
                    .batch_size = batch);
        must(bpf_prog_test_run_opts(traffic.program("draw"), &options), "injecting frames");
        sent.packets += packets_a_call;
        sent.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    return sent;
}

void measure(const CommandLine& line) {
    pin_to_one_core();
    Traffic traffic(line.objects);
    configure(traffic.settings, line);
    traffic.choose(traffic.program("bounce"));
    must(bpf_xdp_attach(static_cast<int>(enter(line.to)), traffic.program("sink"), XDP_FLAGS_DRV_MODE, nullptr),
         "attaching to the far end");
    const unsigned interface = enter(line.from);
    send(traffic, interface, line.warmup);  // every flow begins, every next hop becomes known
    usleep(50'000);
    const volatile __u64& arrived = traffic.settings->arrived;
    const uint64_t before = arrived;
    const double busy = busy_seconds();
    const Sent sent = send(traffic, interface, line.seconds);
    const double spent = busy_seconds() - busy;
    usleep(50'000);
    fmt::print("{{\"sent\": {}, \"arrived\": {}, \"seconds\": {:.4f}, \"busy_seconds\": {:.2f}}}\n", sent.packets,
               arrived - before, sent.seconds, spent);
}

}  // namespace
}  // namespace marchproxy::bench

int main(int argc, char** argv) {
    marchproxy::bench::CommandLine line;
    CLI::App app{"Small packets of many flows from one network namespace to another"};
    app.add_option("--from", line.from, "NAMESPACE:INTERFACE that sends")->required();
    app.add_option("--to", line.to, "NAMESPACE:INTERFACE at which they are to arrive")->required();
    app.add_option("--next-hop", line.next_hop, "MAC address that they are sent to")->required();
    app.add_option("--target", line.target, "address:port that they are sent to")->required();
    app.add_option("--expect", line.expect, "address:port with which they are to arrive")->required();
    app.add_option("--flows", line.flows)->check(CLI::Range(1, 10'000'000));
    app.add_option("--seconds", line.seconds, "time that counts")->check(CLI::Range(0.1, 600.0));
    app.add_option("--warmup", line.warmup, "load before it")->check(CLI::Range(0.0, 60.0));
    app.add_option("--objects", line.objects, "where the bench's BPF objects lie");
    CLI11_PARSE(app, argc, argv);
    try {
        marchproxy::bench::measure(line);
    } catch (const std::exception& error) {
        fmt::print(stderr, "packet_rate: {}\n", error.what());
        return 1;
    }
    return 0;
}
