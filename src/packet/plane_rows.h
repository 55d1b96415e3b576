// For tests: rows of packets through the real programs, at both hooks.
//
// The programs run by BPF_PROG_TEST_RUN in a network namespace of the test's own, whose interfaces `front` (towards
// clients) and `back` (towards endpoints) have a gateway each, so that the kernel's route lookups succeed. The machine
// forwards nothing of its own.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/descriptor.h"
#include "packet/chunk_rows.h"
#include "packet/directory.h"
#include "packet/frame_rows.h"
#include "packet/programs.h"

namespace marchproxy::packet::testing {

enum class Hook { xdp, tc };
enum class Went { passed, dropped, sent, bounced };  // bounced: XDP_TX, out of the interface it came in by

inline const char* name_of(Went went) {
    constexpr const char* names[] = {"passed", "dropped", "sent", "bounced"};
    return names[static_cast<int>(went)];
}

// What becomes of a frame.
struct Outcome {
    Went went = Went::passed;
    Bytes frame;
    std::vector<std::pair<uint32_t, abi::packet_verdict>> refusals{};  // counters that rose: service and verdict
};

// The places of the tests' world. MACs by which expected frames leave it.
inline constexpr Mac front_mac{2, 0, 0, 0, 0xf, 1}, front_gateway{2, 0, 0, 0, 0xf, 2};
inline constexpr Mac back_mac{2, 0, 0, 0, 0xb, 1}, back_gateway{2, 0, 0, 0, 0xb, 2};
inline constexpr const char* client = "11.0.0.1";
inline constexpr const char* client6 = "2001:db8:c::1";

// Services by index: address, port 80 for each, one endpoint of the same index at port 8080.
struct Place {
    const char *service, *endpoint;
    uint8_t protocol;
    abi::packet_forwarding forwarding;
};
inline constexpr Place places[] = {
    {},
    {"10.0.0.1", "10.1.0.1", udp_protocol, abi::forwarding_nat},
    {"10.0.0.1", "10.1.0.1", tcp_protocol, abi::forwarding_nat},
    {"2001:db8:a::1", "2001:db8:e::1", udp_protocol, abi::forwarding_nat},
    {"2001:db8:a::1", "2001:db8:e::1", tcp_protocol, abi::forwarding_nat},
    {"10.0.0.2", "10.1.0.2", udp_protocol, abi::forwarding_dnat},
    {"10.0.0.2", "10.1.0.2", tcp_protocol, abi::forwarding_dnat},
    {"2001:db8:a::2", "2001:db8:e::2", udp_protocol, abi::forwarding_dnat},
    {"2001:db8:a::2", "2001:db8:e::2", tcp_protocol, abi::forwarding_dnat},
    {"10.0.0.3", "10.1.0.3", udp_protocol, abi::forwarding_dsr_ipip},
    {"10.0.0.3", "10.1.0.3", tcp_protocol, abi::forwarding_dsr_ipip},
    {"2001:db8:a::3", "2001:db8:e::3", udp_protocol, abi::forwarding_dsr_ipip},
    {"2001:db8:a::3", "2001:db8:e::3", tcp_protocol, abi::forwarding_dsr_ipip},
    {"10.0.0.4", "10.1.0.4", udp_protocol, abi::forwarding_dsr_gue},
    {"10.0.0.4", "10.1.0.4", tcp_protocol, abi::forwarding_dsr_gue},
    {"2001:db8:a::4", "2001:db8:e::4", udp_protocol, abi::forwarding_dsr_gue},
    {"2001:db8:a::4", "2001:db8:e::4", tcp_protocol, abi::forwarding_dsr_gue},
};
inline constexpr uint32_t place_count = std::size(places);
enum : uint32_t { nat_udp = 1, nat_tcp, nat_udp6, nat_tcp6, dnat_udp, dnat_tcp, dnat_udp6, dnat_tcp6 };
enum : uint32_t { ipip_udp = 9, ipip_tcp, ipip_udp6, ipip_tcp6, gue_udp, gue_tcp, gue_udp6, gue_tcp6 };
inline constexpr const char* source = "10.1.255.1";  // ours, towards endpoints
inline constexpr const char* source6 = "2001:db8:e::ffff";
inline constexpr uint16_t service_port = 80, endpoint_port = 8080;

inline abi::address address_of(const char* text) {
    return to_abi(*IpAddress::parse(text));
}

class Plane : public ::testing::TestWithParam<Hook> {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        outside_ = Descriptor(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
        if (::unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "no network namespaces here: " << std::strerror(errno);
        inside_ = true;
        stay_on_one_cpu();
        if (!add_interfaces()) GTEST_SKIP() << "no veth interfaces here";
        load();
    }
    void TearDown() override {
        if (inside_) {
            ASSERT_EQ(::setns(outside_.get(), CLONE_NEWNET), 0);
            ::sched_setaffinity(0, sizeof cpus_, &cpus_);
        }
    }

    // The whole world, without flows. What was loaded stays so for the next test, as verification takes a second or
    // two; not a table of more than one chunk, which would have to be emptied.
    void load(const Capacity& capacity = small) {
        if (!programs || !(programs->capacity() == capacity) || capacity.flows > small.flows) {
            auto loaded = Programs::load(capacity);
            if (!loaded.ok() && loaded.error().find("CAP_BPF") != std::string::npos)
                GTEST_SKIP() << "the kernel takes no BPF programs from this process: " << loaded.error();
            ASSERT_TRUE(loaded.ok()) << loaded.error();
            programs.emplace(std::move(*loaded));
        }
        vlans_.clear();
        expect(programs->set_vlans({}));
        forget_next_hops(capacity);
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
        forget_fragments();
        forget_tells();
        forget_limits();
        for (uint32_t i = 1; i < place_count; ++i) {
            set_endpoint(i, abi::endpoint_in_use | abi::endpoint_takes);
            const uint32_t slot[] = {i};
            expect(programs->set_ring(i, slot));
            expect(programs->set_service(i, service(i)));
        }
        expect(programs->set_source(1, address_of(source)));
        expect(programs->set_source(2, address_of(source6)));
        const auto directory = build_directory(entries());
        ASSERT_TRUE(directory.ok());
        expect(programs->set_directory(**directory));
    }

    // The services' addresses are the machine's own here; where they are not, `hosts` says so.
    static std::vector<abi::directory_entry> entries(bool hosts = false) {
        std::vector<abi::directory_entry> made;
        for (uint32_t i = 1; i < place_count; ++i) {
            const abi::address service = address_of(places[i].service), endpoint = address_of(places[i].endpoint);
            made.push_back({service, htons(service_port), places[i].protocol, abi::directory_service, i});
            if (places[i].forwarding < abi::forwarding_dsr_ipip)
                made.push_back({endpoint, htons(endpoint_port), places[i].protocol, abi::directory_endpoint, i});
            if (hosts && places[i].protocol == udp_protocol) made.push_back({service, 0, 0, abi::directory_host, i});
        }
        made.push_back({address_of(source), 0, 0, abi::directory_source, 1});
        made.push_back({address_of(source6), 0, 0, abi::directory_source, 2});
        return made;
    }

    static abi::packet_service service(uint32_t index) {
        abi::packet_service made{};
        made.address = address_of(places[index].service);
        made.port_be = htons(service_port);
        made.protocol = places[index].protocol;
        made.forwarding = places[index].forwarding;
        made.ring = uint64_t{index} << 32 | 1;
        return made;
    }
    // From now on `device` is a VLAN device on `parent`, as far as the programs know: a kernel need not have any. XDP
    // is to send by the one below, TC goes on giving it the packet.
    static void stands_for(const char* device, const char* parent, uint16_t id, uint16_t protocol = 0x8100) {
        const abi::packet_vlan vlan{parent ? ::if_nametoindex(parent) : 0, abi::vlan_tag(htons(protocol), htons(id))};
        vlans_[::if_nametoindex(device)] = vlan;
        expect(programs->set_vlans(vlans_));
        programs->routes_changed();
    }
    // The frame as the programs send it towards that VLAN.
    static Frame into(const Frame& frame, uint16_t id) { return GetParam() == Hook::xdp ? frame.vlan(id) : frame; }
    // Where one CPU remembers to send what is for an endpoint.
    static abi::next_hop hop_of(uint32_t endpoint) {
        std::vector<abi::next_hop> hops(static_cast<size_t>(libbpf_num_possible_cpus()));
        bpf_map_lookup_elem(programs->map("next_hops"), &endpoint, hops.data());
        for (const abi::next_hop& hop : hops)
            if (hop.interface) return hop;
        return {};
    }
    // What the programs remember of them, and of whom they asked for.
    static void forget_next_hops(const Capacity& capacity = small) {
        const std::vector<abi::next_hop> none(static_cast<size_t>(libbpf_num_possible_cpus()));
        for (uint32_t slot = 0; slot < capacity.endpoints + abi::client_hops; ++slot)
            ASSERT_EQ(bpf_map_update_elem(programs->map("next_hops"), &slot, none.data(), BPF_ANY), 0);
    }
    static void forget_fragments() { forget("fragments"); }
    static void forget(const char* hash) {
        const int map = programs->map(hash);
        std::array<uint8_t, 40> key{};
        while (bpf_map_get_next_key(map, nullptr, key.data()) == 0)
            bpf_map_delete_elem(map, key.data());
    }
    // No limits, and nothing they are measured by.
    static void forget_limits() {
        for (const char* hash : {"source_flows", "source_rates", "proofs"})
            forget(hash);
        const std::vector<uint64_t> none(static_cast<size_t>(libbpf_num_possible_cpus()));
        for (uint32_t i = 1; i < place_count; ++i) {
            expect(programs->set_limits(i, {}));
            expect(programs->set_qos(i, {}));
            set_admission(i, {});
            ASSERT_EQ(bpf_map_update_elem(programs->map("packet_credits"), &i, none.data(), BPF_ANY), 0);
        }
    }
    static abi::admission admission(uint32_t index) {
        abi::admission now{};
        EXPECT_EQ(bpf_map_lookup_elem(programs->map("admissions"), &index, &now), 0);
        return now;
    }
    static void set_admission(uint32_t index, const abi::admission& changed) {
        ASSERT_EQ(bpf_map_update_elem(programs->map("admissions"), &index, &changed, BPF_ANY), 0);
    }
    // How many senders were told what became of their packets.
    static void forget_tells() {
        const std::vector<uint64_t> none(static_cast<size_t>(libbpf_num_possible_cpus()));
        const uint32_t zero = 0;
        ASSERT_EQ(bpf_map_update_elem(programs->map("tells"), &zero, none.data(), BPF_ANY), 0);
    }
    static std::vector<abi::neighbour_report> take_neighbours() {
        std::vector<abi::neighbour_report> reports;
        EXPECT_TRUE(programs->take_neighbours([&](const auto& one) { reports.push_back(one); }).ok());
        return reports;
    }
    void set_endpoint(uint32_t index, int flags) {
        abi::packet_endpoint made{};
        made.address = address_of(places[index].endpoint);
        made.port_be = htons(endpoint_port);
        made.protocol = places[index].protocol;
        made.flags = static_cast<uint8_t>(flags);
        if (places[index].forwarding == abi::forwarding_dnat) made.dnat_service = index;
        made.source_first = made.address.word[0] ? 2 : 1;
        made.source_count = 1;
        expect(programs->set_endpoint(index, made));
    }
    static void expect(const Result<void>& result) { EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error()); }

    Outcome run(const Bytes& frame, const char* interface = "front") {
        const auto before = refusals();
        Outcome outcome = run_alone(frame, interface);
        const auto after = refusals();
        for (size_t i = 0; i < after.size(); ++i)
            for (uint64_t n = before[i]; n < after[i]; ++n)
                outcome.refusals.emplace_back(static_cast<uint32_t>(i / abi::packet_verdicts),
                                              static_cast<abi::packet_verdict>(i % abi::packet_verdicts));
        return outcome;
    }
    Outcome run_alone(const Bytes& frame, const char* interface = "front", Hook hook = GetParam()) const {
        Outcome outcome;
        outcome.frame.resize(frame.size() + 256);
        LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_out = outcome.frame.data(),
                    .data_size_in = static_cast<uint32_t>(frame.size()),
                    .data_size_out = static_cast<uint32_t>(outcome.frame.size()), .repeat = 1);
        const uint32_t index = ::if_nametoindex(interface);
        xdp_md at_xdp{.data_end = static_cast<uint32_t>(frame.size()), .ingress_ifindex = index};
        __sk_buff at_tc{};
        at_tc.ingress_ifindex = at_tc.ifindex = index;
        at_tc.gso_size = gso_size;
        const bool xdp = hook == Hook::xdp;
        options.ctx_in = xdp ? static_cast<void*>(&at_xdp) : &at_tc;
        options.ctx_size_in = xdp ? sizeof at_xdp : sizeof at_tc;
        const int error = bpf_prog_test_run_opts(xdp ? programs->xdp() : programs->tc(), &options);
        EXPECT_EQ(error, 0) << std::strerror(errno) << " of " << frame.size() << " bytes";
        outcome.frame.resize(options.data_size_out);
        outcome.went = went(options.retval);
        return outcome;
    }

    // --- what is expected ------------------------------------------------------------------------------------------

    void passes(const char* row, const Bytes& frame, const char* interface = "front") {
        const Outcome outcome = run(frame, interface);
        EXPECT_STREQ(name_of(outcome.went), "passed") << row;
        EXPECT_EQ(hex(outcome.frame), hex(frame)) << row;
        EXPECT_TRUE(outcome.refusals.empty()) << row;
    }
    void drops(const char* row, const Bytes& frame, uint32_t service, abi::packet_verdict why,
               const char* interface = "front") {
        const Outcome outcome = run(frame, interface);
        EXPECT_STREQ(name_of(outcome.went), "dropped") << row;
        ASSERT_EQ(outcome.refusals.size(), 1u) << row;
        EXPECT_EQ(outcome.refusals[0].first, service) << row;
        EXPECT_EQ(outcome.refusals[0].second, why) << row;
    }
    // From the client's side out of `back`, or from the endpoint's out of `front`.
    void goes_up(const char* row, const Bytes& frame, const Frame& expected) {
        goes(row, frame, "front", expected.from(back_mac, back_gateway));
    }
    void goes_down(const char* row, const Bytes& frame, const Frame& expected) {
        goes(row, frame, "back", expected.from(front_mac, front_gateway));
    }

    void goes(const char* row, const Bytes& frame, const char* interface, const Bytes& expected) {
        const Outcome outcome = run(frame, interface);
        EXPECT_STREQ(name_of(outcome.went), "sent") << row;
        EXPECT_EQ(hex(outcome.frame), hex(expected)) << row;
        EXPECT_EQ(is_sound(outcome.frame), is_sound(frame)) << row;
        EXPECT_TRUE(outcome.refusals.empty()) << row;
    }

    static constexpr Capacity small{
        .flows = 1, .services = 32, .endpoints = 32, .ring_slots = 64, .report_bytes = 1 << 14};
    static inline std::optional<Programs> programs;
    uint32_t gso_size = 0;  // at TC, of the next frames

  private:
    static Went went(uint32_t code) {
        if (GetParam() == Hook::xdp)
            return code == XDP_PASS       ? Went::passed
                   : code == XDP_TX       ? Went::bounced
                   : code == XDP_REDIRECT ? Went::sent
                                          : Went::dropped;
        return code == TC_ACT_SHOT ? Went::dropped : code == TC_ACT_REDIRECT ? Went::sent : Went::passed;
    }
    // Of all services at once: this is asked twice for every frame there is.
    static std::vector<uint64_t> refusals() {
        static const auto cpus = static_cast<size_t>(libbpf_num_possible_cpus());
        std::array<uint32_t, place_count> keys{};
        std::vector<abi::packet_counters> counters(place_count * cpus);
        uint32_t next = 0, count = place_count;
        EXPECT_EQ(bpf_map_lookup_batch(programs->map("service_counts"), nullptr, &next, keys.data(), counters.data(),
                                       &count, nullptr),
                  0);
        std::vector<uint64_t> all(place_count * abi::packet_verdicts);
        for (size_t i = 0; i < counters.size(); ++i)
            for (size_t why = 0; why < abi::packet_verdicts; ++why)
                all[i / cpus * abi::packet_verdicts + why] += counters[i].dropped[why];
        return all;
    }
    // Caches and limits are each CPU's own.
    void stay_on_one_cpu() {
        ::sched_getaffinity(0, sizeof cpus_, &cpus_);
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(static_cast<size_t>(::sched_getcpu()), &one);
        ::sched_setaffinity(0, sizeof one, &one);
    }
    static bool add_interfaces() {
        const char* commands =
            "set -e; for i in front back; do ip link add $i type veth peer ${i}_peer; ip link set ${i}_peer up; done;"
            "ip link set front address 02:00:00:00:0f:01; ip link set back address 02:00:00:00:0b:01;"
            "ip link set front up; ip link set back up; ip link set lo up;"
            "cd /proc/sys/net; echo 0 >ipv4/ip_forward; echo 0 >ipv6/conf/all/forwarding;"
            "echo 1 >ipv4/conf/lo/forwarding; echo 1 >ipv6/conf/lo/forwarding;"
            "way() { ip address add $2 dev $1; ip -6 address add $3 dev $1 nodad;"
            "  ip neighbour add $4 lladdr $8 nud permanent dev $1; ip neighbour add $5 lladdr $8 nud permanent dev $1;"
            "  ip route add $6 via $4; ip -6 route add $7 via $5; };"
            "way front 192.0.2.254/24 2001:db8:f::254/64 192.0.2.1 2001:db8:f::1 11.0.0.0/8 2001:db8:c::/48 "
            "02:00:00:00:0f:02;"
            "way back 198.51.100.254/24 2001:db8:b::254/64 198.51.100.1 2001:db8:b::1 10.1.0.0/16 2001:db8:e::/48 "
            "02:00:00:00:0b:02;";
        return std::system((std::string(commands)).c_str()) == 0;
    }

    static inline std::map<unsigned, abi::packet_vlan> vlans_;
    Descriptor outside_;
    cpu_set_t cpus_{};  // before
    bool inside_ = false;
};

#define INSTANTIATE_HOOKS(fixture)                                                   \
    INSTANTIATE_TEST_SUITE_P(Hooks, fixture, ::testing::Values(Hook::xdp, Hook::tc), \
                             [](const auto& hook) { return hook.param == Hook::xdp ? "xdp" : "tc"; })

}  // namespace marchproxy::packet::testing
