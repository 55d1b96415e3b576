// A baseline for the bench: the design that Katran's README publishes, written anew as plainly as it can be, without
// any of its code. A load balancer on a stick: a packet to a virtual address is put whole into another IP packet to one
// of the real servers, and leaves by the interface it came in by, to the one router there is; answers do not come back.
//
//   the virtual address   a hash map: address, port, protocol
//   the flow              an LRU hash of this core's own, so that cores share nothing
//   a new flow            a hash of the 5-tuple chooses a slot of the address's ring (65,537 of them), and is
//   remembered the outer header      IPIP; its source differs by flow, so that the real server's card spreads flows
//   over queues
//
// It does less than Katran itself, which counts by real server too and forgets UDP flows by time: what is left out
// would only make it slower. Keys have room for IPv6 addresses, as there, though only IPv4 is parsed.
#include "bench/packet/katran_design.h"

#include "bpf/lib/bpf.h"
#include "bpf/lib/checksum.h"
#include "bpf/lib/cursor.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, katran_most_vips);
    __type(key, struct katran_vip);
    __type(value, __u32);  // its number
} vips SEC(".maps");

// By core; user space makes those of the cores it measures on.
struct flows_of_core {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __uint(key_size, sizeof(struct katran_flow));
    __uint(value_size, sizeof(__u32));  // the real server
};
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 1);
    __type(key, __u32);
    __array(values, struct flows_of_core);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, katran_most_vips* katran_ring_slots);
    __type(key, __u32);
    __type(value, __u32);
} rings SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, katran_most_reals);
    __type(key, __u32);
    __type(value, struct address);
} reals SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct katran_control);
} control SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, katran_most_vips);
    __type(key, __u32);
    __type(value, struct katran_counters);
} counters SEC(".maps");

// Bob Jenkins's lookup3 (in the public domain), its final mix of three words: what the kernel calls jhash.
inlined __u32 rotated(__u32 x, int bits) {
    return x << bits | x >> (32 - bits);
}
inlined __u32 jenkins(__u32 a, __u32 b, __u32 c) {
    const __u32 start = 0xdeadbeef + (3 << 2) + 1;
    a += start, b += start, c += start;
    c = (c ^ b) - rotated(b, 14);
    a = (a ^ c) - rotated(c, 11);
    b = (b ^ a) - rotated(a, 25);
    c = (c ^ b) - rotated(b, 16);
    a = (a ^ c) - rotated(c, 4);
    b = (b ^ a) - rotated(a, 14);
    return (c ^ b) - rotated(b, 24);
}

// The flow's key, and how many bytes of IP it is. Katran takes neither fragments nor IP options.
inlined bool read_flow(struct xdp_md* context, struct katran_flow* flow, __u16* length) {
    struct cursor frame = {(void*)(long)context->data, (void*)(long)context->data_end};
    const struct ethhdr* ethernet = TAKE(&frame, struct ethhdr);
    if (!ethernet || ethernet->h_proto != bpf_htons(ETH_P_IP)) return false;
    const struct iphdr* ip = TAKE(&frame, struct iphdr);
    if (!ip || ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff)) return false;
    if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP) return false;
    const __be16* ports = take(&frame, 2 * sizeof(*ports));  // of both protocols the first words
    if (!ports) return false;
    flow->source.word[1] = ip->saddr;
    flow->destination.word[1] = ip->daddr;
    flow->source_port_be = ports[0];
    flow->destination_port_be = ports[1];
    flow->protocol = ip->protocol;
    *length = bpf_ntohs(ip->tot_len);
    return true;
}

inlined __u32 choose_real(__u32 vip, const struct katran_flow* flow) {
    const __u32 ports = (__u32)flow->source_port_be << 16 | flow->destination_port_be;
    const __u32 hash = jenkins((__u32)flow->source.word[1], (__u32)flow->destination.word[1] ^ flow->protocol, ports);
    const __u32 slot = vip * katran_ring_slots + hash % katran_ring_slots;
    const __u32* real = bpf_map_lookup_elem(&rings, &slot);
    return real ? *real : 0;
}

inlined __u32 real_of(__u32 vip, const struct katran_flow* flow, struct katran_counters* counts) {
    const __u32 core = bpf_get_smp_processor_id();
    void* known = bpf_map_lookup_elem(&flows, &core);
    if (!known) return 0;
    const __u32* remembered = bpf_map_lookup_elem(known, flow);
    if (likely(remembered != 0)) return *remembered;
    ++counts->misses;
    const __u32 real = choose_real(vip, flow);
    bpf_map_update_elem(known, flow, &real, BPF_ANY);
    return real;
}

// 172.16/16 and what differs between flows.
inlined __be32 outer_source(const struct katran_flow* flow) {
    const __u32 mixed = (__u32)flow->source.word[1] ^ (__u32)flow->source_port_be << 16;
    return bpf_htonl(172u << 24 | 16u << 16) | (mixed & bpf_htonl(0xffff));
}

inlined bool encapsulate(struct xdp_md* context, __be32 from, __be32 to, const __u8* router, __u16 length) {
    if (bpf_xdp_adjust_head(context, -(int)sizeof(struct iphdr)) != 0) return false;
    struct cursor frame = {(void*)(long)context->data, (void*)(long)context->data_end};
    const struct cursor begin = frame;
    struct ethhdr* ethernet = TAKE(&frame, struct ethhdr);
    struct iphdr* ip = TAKE(&frame, struct iphdr);
    const struct ethhdr* before = header_at(begin, sizeof(struct iphdr), sizeof(struct ethhdr));
    if (!ethernet || !ip || !before) return false;
    __builtin_memcpy(ethernet->h_source, before->h_dest, ETH_ALEN);
    __builtin_memcpy(ethernet->h_dest, router, ETH_ALEN);
    ethernet->h_proto = bpf_htons(ETH_P_IP);
    *ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_IPIP, .saddr = from, .daddr = to};
    ip->tot_len = bpf_htons(length + sizeof(*ip));
    const __u16* word = (const __u16*)ip;
    __u64 sum = 0;
#pragma unroll
    for (int i = 0; i < (int)sizeof(*ip) / 2; ++i)
        sum += word[i];
    ip->check = ~folded(sum);
    return true;
}

SEC("xdp") int katran_design(struct xdp_md* context) {
    struct katran_flow flow = {0};
    __u16 length;
    if (!read_flow(context, &flow, &length)) return XDP_PASS;
    const struct katran_vip vip = {flow.destination, flow.destination_port_be, flow.protocol, 0, 0};
    const __u32* number = bpf_map_lookup_elem(&vips, &vip);
    if (!number) return XDP_PASS;
    struct katran_counters* counts = bpf_map_lookup_elem(&counters, number);
    if (!counts) return XDP_DROP;

    const __u32 place = real_of(*number, &flow, counts), zero = 0;
    const struct address* real = bpf_map_lookup_elem(&reals, &place);
    const struct katran_control* router = bpf_map_lookup_elem(&control, &zero);
    if (!place || !real || !router) return XDP_DROP;
    ++counts->packets;
    counts->bytes += length;
    if (!encapsulate(context, outer_source(&flow), (__be32)real->word[1], router->router, length)) return XDP_DROP;
    return XDP_TX;
}

char LICENSE[] SEC("license") = "GPL";
