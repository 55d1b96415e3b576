// The user half of the baseline in katran_design.bpf.c: the same service and endpoints as the packet plane has in
// world.h.
#pragma once

#include "bench/packet/katran_design.h"
#include "bench/packet/world.h"

namespace marchproxy::bench {

class Katran {
  public:
    static constexpr const char* subject = "katran-design";

    // With room for so many flows on this core, on which the caller has to stay.
    Katran(const std::string& objects, uint32_t flows) : object_(objects + "/katran_design.bpf.o") {
        const uint32_t core = static_cast<uint32_t>(must(sched_getcpu(), "asking for the core"));
        bpf_map__set_max_entries(object_.map("flows"), core + 1);
        object_.load();
        const int known = must(bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "flows_of_core", sizeof(abi::katran_flow),
                                              sizeof(uint32_t), flows, nullptr),
                               "making an LRU hash");
        set("flows", core, known);
        ::close(known);

        const uint32_t number = 0;
        const abi::katran_vip vip{.address = address(service_address),
                                  .port_be = htons(service_port),
                                  .protocol = IPPROTO_UDP,
                                  .reserved = 0,
                                  .padding = 0};
        set("vips", vip, number);
        for (uint32_t i = 1; i <= endpoint_count; ++i)
            set("reals", i, address(first_endpoint + i - 1));
        for (uint32_t slot = 0; slot < abi::katran_ring_slots; ++slot)
            set("rings", slot, 1 + slot % endpoint_count);
        set("control", number, abi::katran_control{.router = {2, 0, 0, 0, 0, 2}, .reserved = {}});
    }

    int program() { return object_.program("katran_design"); }

    // That it does the whole of its work: a figure of packets that went wrong would be one of nothing.
    void check(Bench& bench) {
        Bench::Sent sent = bench.send(program());
        ethhdr ethernet;
        iphdr outer, inner;
        std::memcpy(&ethernet, sent.frame.data(), sizeof ethernet);
        std::memcpy(&outer, &sent.frame[sizeof ethernet], sizeof outer);
        std::memcpy(&inner, &sent.frame[sizeof ethernet + sizeof outer], sizeof inner);
        const uint32_t real = ntohl(outer.daddr) - first_endpoint;
        const bool right = sent.verdict == XDP_TX && sent.size == sizeof(frame) + sizeof outer &&
                           ethernet.h_proto == htons(ETH_P_IP) && ethernet.h_dest[5] == 2 &&
                           outer.protocol == IPPROTO_IPIP && real < endpoint_count && sum_of(outer) == 0xffff &&
                           ntohs(outer.tot_len) == sizeof outer + ntohs(inner.tot_len) &&
                           inner.daddr == htonl(service_address) && inner.protocol == IPPROTO_UDP;
        if (!right) throw std::runtime_error("the Katran baseline sends packets that are not what they should be");
    }

    // Of packets on any core so far.
    abi::katran_counters counted() {
        std::vector<abi::katran_counters> each(static_cast<size_t>(libbpf_num_possible_cpus()));
        const uint32_t number = 0;
        must(bpf_map_lookup_elem(bpf_map__fd(object_.map("counters")), &number, each.data()), "reading counters");
        abi::katran_counters sum{};
        for (const auto& one : each) {
            sum.packets += one.packets;
            sum.bytes += one.bytes;
            sum.misses += one.misses;
        }
        return sum;
    }

  private:
    static abi::address address(uint32_t host_order) { return {{0, htonl(host_order)}}; }

    static uint32_t sum_of(const iphdr& header) {
        uint16_t words[sizeof header / 2];
        std::memcpy(words, &header, sizeof header);
        uint32_t sum = 0;
        for (const uint16_t word : words)
            sum += word;
        return (sum & 0xffff) + (sum >> 16);
    }

    template <class Key, class Value>
    void set(const char* map, const Key& key, const Value& value) {
        must(bpf_map_update_elem(bpf_map__fd(object_.map(map)), &key, &value, BPF_ANY), map);
    }

    Object object_;
};

}  // namespace marchproxy::bench
