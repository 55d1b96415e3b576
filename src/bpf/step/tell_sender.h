// What a router tells whoever sent a packet that it could not send on: that the hop limit was over (RFC 1812 5.3.1, RFC
// 4443 3.3), so that traceroute shows the proxy; or that the packet is larger than the next link takes (RFC 1191, RFC
// 8201), so that the sender sends smaller ones. Dropped and counted it is all the same.
//
// At TC a packet may wait for its checksum (CHECKSUM_PARTIAL): the kernel will write it into the middle of what is
// quoted, behind our back, and no helper tells it not to. But what it will come to is known beforehand.
#pragma once

#include "bpf/lib/checksum.h"
#include "bpf/step/decide.h"

enum {
    quoted_at_most_4 = 576,   // RFC 1812 4.3.2.3: of the whole answer
    quoted_at_most_6 = 1280,  // RFC 4443 2.4 (c)
    quote_chunk = 64,
    tells_at_once = 50,  // as the kernel's own icmp_msgs_burst
};
#define nanoseconds_a_tell 1000000ULL  // RFC 1812 4.3.2.8: 1,000 a second and CPU

PER_CPU_ARRAY_OF(tells, __u64, 1);  // when the next is due, were all sent at this rate

inlined bool may_tell(void) {
    const __u32 zero = 0;
    __u64* due = bpf_map_lookup_elem(&tells, &zero);
    const __u64 now = bpf_ktime_get_ns();
    if (!due || *due > now + (tells_at_once - 1) * nanoseconds_a_tell) return false;
    *due = (*due > now ? *due : now) + nanoseconds_a_tell;
    return true;
}

struct told_4 {
    struct iphdr ip;
    struct icmp_header icmp;
};
struct told_6 {
    struct ipv6hdr ip;
    struct icmp_header icmp;
} __attribute__((packed, aligned(4)));
enum { precedence_internetwork_control = 0xc0 };  // RFC 1812 4.3.2.5

// The sum of the packet's bytes, by chunks of them.
struct summing {
    void* context;
    __u32 at, left;
    __u32 sum;
    bool failed;
};
inlined long sum_chunk(struct summing* s, enum hook hook) {
    __be32 chunk[quote_chunk / 4] = {0};
    if (!s->left) return 1;
    const __u32 part = between_1_and_64(s->left < quote_chunk ? s->left : quote_chunk);
    if (load_bytes(s->context, hook, s->at, chunk, part) != 0) s->failed = true;
    s->sum = (__u32)bpf_csum_diff(0, 0, chunk, sizeof(chunk), s->sum);
    s->left -= part;
    s->at += part;
    return 0;
}
static long sum_chunk_at_xdp(__u32 i, void* summing) {
    return sum_chunk(summing, hook_xdp);
}
static long sum_chunk_at_tc(__u32 i, void* summing) {
    return sum_chunk(summing, hook_tc);
}
inlined bool sum_of_bytes(void* context, enum hook hook, __u32 at, __u32 size, __u64* sum) {
    struct summing s = {.context = context, .at = at, .left = size};
    bpf_loop(quoted_at_most_6 / quote_chunk, hook == hook_xdp ? sum_chunk_at_xdp : sum_chunk_at_tc, &s, 0);
    *sum += s.sum;
    return !s.failed;
}

// Whether the transport's checksum is yet to be computed, and the field holds `pseudo`, the pseudo header's sum: as far
// as one can see. One in 65,536 packets has such a checksum in truth; its sender gets an answer that he cannot read.
inlined bool waits_for_checksum(void* context, const struct packet* p, __u16* pseudo) {
    const bool tcp = p->protocol == IPPROTO_TCP;
    const __u32 at = p->transport + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
    if (p->fragment || bpf_skb_load_bytes(context, at, pseudo, sizeof(*pseudo)) != 0) return false;
    const __u32 length = p->length - (p->transport - p->network);
    const __u64 sum = bpf_htonl(p->protocol) + (__u64)bpf_htonl(length);
    const __u64 addresses = p->v6 ? sum_128(sum_128(0, &p->source), &p->destination)
                                  : (__u64)unmapped(&p->source) + unmapped(&p->destination);
    return folded(sum + addresses) == *pseudo;
}

// The sum of the packet's first bytes, as they will be when it leaves. A checksum over all behind it makes their sum
// the complement of what it began with, however much of them there is.
inlined bool sum_of_packet(void* context, enum hook hook, const struct packet* p, __u32 size, __u64* sum) {
    const __u32 before = p->transport - p->network;
    __u16 pseudo = 0;
    *sum = 0;
    if (hook == hook_xdp || !waits_for_checksum(context, p, &pseudo))
        return sum_of_bytes(context, hook, p->network, size, sum);
    *sum = (__u16)~pseudo;
    return sum_of_bytes(context, hook, p->network, before, sum);
}

// An ICMP message before what it quotes.
struct telling {
    struct address from, to;
    struct icmp_header what;
    __u32 quoted;  // bytes
    __u64 sum;     // of them
};

inlined long write_telling_4(void* context, enum hook hook, __u32 network, const struct telling* t) {
    struct told_4 told = {.ip = {.version = 4, .ihl = 5, .tos = precedence_internetwork_control, .ttl = own_hop_limit}};
    told.ip.tot_len = bpf_htons(sizeof(told) + t->quoted);
    told.ip.frag_off = bpf_htons(dont_fragment_4);  // RFC 6864: with it, no identification is needed
    told.ip.protocol = IPPROTO_ICMP;
    told.ip.saddr = unmapped(&t->from);
    told.ip.daddr = unmapped(&t->to);
    told.ip.check = ~folded((__u64)(__u32)bpf_csum_diff(0, 0, (__be32*)&told.ip, sizeof(told.ip), 0));
    told.icmp = t->what;
    told.icmp.checksum = ~folded((__u64)(__u32)bpf_csum_diff(0, 0, (__be32*)&told.icmp, sizeof(told.icmp), t->sum));
    return store_bytes(context, hook, network, &told, sizeof(told));
}
inlined long write_telling_6(void* context, enum hook hook, __u32 network, const struct telling* t) {
    struct told_6 told = {.ip = {.version = 6, .nexthdr = IPPROTO_ICMPV6, .hop_limit = own_hop_limit}};
    told.ip.payload_len = bpf_htons(sizeof(told.icmp) + t->quoted);
    write_address(&told.ip.saddr, &t->from);
    write_address(&told.ip.daddr, &t->to);
    told.icmp = t->what;
    __u64 sum = t->sum + bpf_htonl(sizeof(told.icmp) + t->quoted) + (__u64)bpf_htonl(IPPROTO_ICMPV6);
    sum = sum_128(sum_128(sum, &t->from), &t->to) + bpf_htons(told.icmp.type << 8 | told.icmp.code) + told.icmp.rest;
    told.icmp.checksum = ~folded(sum);
    return store_bytes(context, hook, network, &told, sizeof(told));
}
inlined bool write_telling(void* context, enum hook hook, __u32 network, bool v6, const struct telling* t) {
    return (v6 ? write_telling_6(context, hook, network, t) : write_telling_4(context, hook, network, t)) == 0;
}
inlined __u32 telling_size(bool v6) {
    return v6 ? sizeof(struct told_6) : sizeof(struct told_4);
}

// `mtu` 0: that the hop limit was over.
inlined struct icmp_header too_large_or_too_far(bool v6, __u32 mtu) {
    struct icmp_header what = {.rest = bpf_htonl(mtu)};
    if (v6)
        what.type = mtu ? icmp6_too_big : icmp6_time_exceeded;
    else
        what.type = mtu ? icmp4_unreachable : icmp4_time_exceeded;
    if (!v6 && mtu) what.code = icmp4_fragmentation_needed;
    return what;
}

// Back to where it came from. False: it was sent to many.
inlined bool turn_ethernet(void* context, enum hook hook) {
    __u8 to[ETH_ALEN], from[ETH_ALEN];
    return load_bytes(context, hook, 0, to, ETH_ALEN) == 0 &&
           load_bytes(context, hook, ETH_ALEN, from, ETH_ALEN) == 0 && !(to[0] & 1) &&
           store_bytes(context, hook, 0, from, ETH_ALEN) == 0 &&
           store_bytes(context, hook, ETH_ALEN, to, ETH_ALEN) == 0;
}

// In whose name: the address that the packet was sent to, which is ours; but with dnat an endpoint sends to the client.
inlined struct address teller(const struct packet* p, const struct decision* d) {
    const __u32 index = d->service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    const bool through = service && d->direction == direction_down && service->forwarding != forwarding_nat;
    return through ? service->address : p->destination;
}

// Room for `header` before `quoted` bytes of the packet, and nothing behind them. Ends every pointer into the frame.
inlined bool make_room(void* context, enum hook hook, const struct packet* p, __u32 header, __u32 quoted) {
    if (hook == hook_xdp)
        return bpf_xdp_adjust_tail(context, (int)(quoted - p->room)) == 0 &&
               bpf_xdp_adjust_head(context, -(int)header) == 0;
    // Also where nothing is cut off: it makes one packet of what was merged.
    return bpf_skb_change_tail(context, p->network + quoted, 0) == 0 && bpf_skb_change_head(context, header, 0) == 0;
}

// The packet becomes the answer to its sender; RFC 1812 4.3.2.7, RFC 4443 2.4 (e): who is one. `mtu`: what the next
// link takes; 0: the hop limit was over. 0: it does not, and is only dropped.
inlined bool tell_of(void* context, enum hook hook, const struct packet* p, const struct decision* d, __u32 mtu) {
    if (p->fragment == fragment_later || !is_one_host(&p->source, p->v6) || !may_tell()) return false;
    const __u32 header = telling_size(p->v6), most = (p->v6 ? quoted_at_most_6 : quoted_at_most_4) - header;
    struct telling t = {.from = teller(p, d), .to = p->source, .what = too_large_or_too_far(p->v6, mtu)};
    t.quoted = p->length < most ? p->length : most;
    return sum_of_packet(context, hook, p, t.quoted, &t.sum) && make_room(context, hook, p, header, t.quoted) &&
           move_to_front(context, hook, p->network, header) && turn_ethernet(context, hook) &&
           write_telling(context, hook, p->network, p->v6, &t);
}
__noinline int tell_at_xdp(struct xdp_md* context, const struct packet* p, const struct decision* d, __u32 mtu) {
    return p && d && tell_of(context, hook_xdp, p, d, mtu);
}
__noinline int tell_at_tc(struct __sk_buff* context, const struct packet* p, const struct decision* d, __u32 mtu) {
    return p && d && tell_of(context, hook_tc, p, d, mtu);
}

// Drops a packet of which its sender is to hear.
inlined enum outcome refuse_and_tell(void* context, enum hook hook, const struct packet* p, const struct decision* d,
                                     enum packet_verdict why, __u32 mtu) {
    const enum outcome dropped = refuse(d->service, why);
    const int told = hook == hook_xdp ? tell_at_xdp(context, p, d, mtu) : tell_at_tc(context, p, d, mtu);
    return told ? bounce(context, hook) : dropped;
}
