// encapsulate: direct server return. The packet goes to the endpoint as it came, inside another one: IP in IP (RFC
// 2003, RFC 2473), or in UDP as well, by GUE's variant 1, which has no header of its own (draft-ietf-intarea-gue-09).
// The endpoint takes it out, has the service's address itself, and answers the client without us.
#pragma once

#include "bpf/lib/checksum.h"
#include "bpf/lib/hook.h"
#include "bpf/step/forward.h"

inlined __u32 outer_size(bool v6, __u8 tunnel) {
    const __u32 ip = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
    return tunnel == forwarding_dsr_gue ? ip + sizeof(struct udphdr) : ip;
}
// What the packet grows by on its way.
inlined __u32 overhead_of(const struct packet* p, const struct rewriting* to) {
    return to->tunnel ? outer_size(p->v6, to->tunnel) : 0;
}

inlined bool write_type(struct cursor frame, bool v6) {
    struct ethhdr* ethernet = header_at(frame, 0, sizeof(*ethernet));
    if (!ethernet) return false;
    ethernet->h_proto = v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
    return true;
}

// The kernel is told what lies inside, so that it can cut what it has put together, and complete a checksum inside. Of
// TCP it then makes smaller segments, which still fit the link; datagrams keep their sizes.
inlined bool grow(void* context, enum hook hook, const struct packet* p, __u8 tunnel) {
    const __u32 size = outer_size(p->v6, tunnel);
    if (hook == hook_xdp) {
        if (bpf_xdp_adjust_head(context, -(int)size) != 0) return false;
        // Most frames have no tag; their addresses are written as they are sent.
        return likely(p->network == ETH_HLEN) ? write_type(frame_of(context, hook), p->v6)
                                              : move_to_front(context, hook, p->network, size);
    }
    // Behind a tag the kernel does not look (it has taken the outermost out of the frame before).
    if (p->network != ETH_HLEN)
        return !CONTEXT_WORD(context, struct __sk_buff, gso_size) && bpf_skb_change_head(context, size, 0) == 0 &&
               move_to_front(context, hook, p->network, size);
    __u64 flags = p->v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
    if (tunnel == forwarding_dsr_gue) flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
    if (p->protocol == IPPROTO_UDP) flags |= BPF_F_ADJ_ROOM_FIXED_GSO;
    return bpf_skb_adjust_room(context, size, BPF_ADJ_ROOM_MAC, flags) == 0;
}

// What the outer header takes over of the inner one (RFC 6040, RFC 2983: marks go on as they are).
struct inner {
    __u8 marks;       // DSCP and ECN
    __u64 outer_sum;  // what a checksum around the packet has to cover of it; see below
    bool summed;      // whether that is known
};

// The packet has one hop less to go (RFC 2003 3.1).
inlined bool pass_hop_4(struct cursor frame, const struct packet* p, const struct rewriting* to, struct inner* inner) {
    struct iphdr* ip = header_at(frame, p->network, sizeof(*ip));
    if (!ip) return false;
    const __u64 marked = to->marks ? mark_4(ip, to) : 0;
    inner->marks = ip->tos;
    --ip->ttl;
    ip->check = checksum_changed(ip->check, difference_16(marked, bpf_htons(1 << 8), 0));
    return true;
}

// A right checksum makes the sum of all it covers zero, and with it most of the sum of the packet: of the addresses and
// the length, which it covers by its pseudo header, and of all behind (the kernel calls that local checksum offload,
// Documentation/networking/checksum-offloads.rst). What remains is the rest of the IP header.
inlined bool pass_hop_6(struct cursor frame, const struct packet* p, const struct rewriting* to, struct inner* inner) {
    struct ipv6hdr* ip = header_at(frame, p->network, sizeof(*ip));
    if (!ip) return false;
    if (to->marks) mark_6(ip, to);
    --ip->hop_limit;
    const __u16* words = (const __u16*)ip;
    inner->marks = (__u8)(bpf_ntohs(words[0]) >> 4);
    inner->outer_sum = (__u64)words[0] + words[1] + words[3] + (__u16)~bpf_htons(ip->nexthdr);
    inner->summed = !p->fragment && p->transport - p->network == sizeof(*ip);
    if (!inner->summed || p->protocol != IPPROTO_UDP) return true;
    const struct udphdr* udp = header_at(frame, p->transport, sizeof(*udp));
    if (!udp) return false;
    inner->summed &= udp->check && udp->len == ip->payload_len;
    return true;
}

// What a header says of a length. Of more than it can say, which only the kernel has merged, 0, as the kernel has it
// (BIG TCP); it writes the segments' own when it cuts them.
inlined __be16 told_length(__u32 length) {
    return length > 0xffff ? 0 : bpf_htons(length);
}

// Not to be cut on the way, so that it needs no identification (RFC 6864); who sends more than fits is told.
inlined bool write_outer_4(struct cursor frame, const struct packet* p, const struct rewriting* to,
                           const struct inner* inner) {
    __be32* ip = header_at(frame, p->network, sizeof(struct iphdr));
    if (!ip) return false;
    const __u8 protocol = to->tunnel == forwarding_dsr_gue ? IPPROTO_UDP : IPPROTO_IPIP;
    const __be16 length = told_length(p->length + outer_size(false, to->tunnel));
    const __be32 first = bpf_htonl(0x45 << 24 | inner->marks << 16 | bpf_ntohs(length));
    const __be32 second = bpf_htonl(dont_fragment_4), third = bpf_htonl(own_hop_limit << 24 | protocol << 16);
    const __be32 source = unmapped(&to->source), destination = unmapped(&to->destination);
    ip[0] = first;
    ip[1] = second;
    ip[2] = third;
    ip[3] = source;
    ip[4] = destination;
    ((struct iphdr*)ip)->check = ~folded((__u64)first + second + third + source + destination);
    return true;
}

// The flow label holds what tells flows apart (RFC 6438).
inlined bool write_outer_6(struct cursor frame, const struct packet* p, const struct rewriting* to,
                           const struct inner* inner) {
    struct ipv6hdr* ip = header_at(frame, p->network, sizeof(*ip));
    if (!ip) return false;
    const bool gue = to->tunnel == forwarding_dsr_gue;
    *(__be32*)ip = bpf_htonl(6U << 28 | (__u32)inner->marks << 20 | bpf_ntohs(to->source_port_be));
    ip->payload_len = told_length(gue ? p->length + sizeof(struct udphdr) : p->length);
    ip->nexthdr = gue ? IPPROTO_UDP : IPPROTO_IPV6;
    ip->hop_limit = own_hop_limit;
    write_address(&ip->saddr, &to->source);
    write_address(&ip->daddr, &to->destination);
    return true;
}

// `sum`: of what the checksum covers beside ports and lengths; 0: it is absent, as over IPv4, where what is inside has
// its own, and where it cannot be known (RFC 6935, RFC 6936).
inlined bool write_outer_udp(struct cursor frame, const struct packet* p, const struct rewriting* to, __u64 sum) {
    struct udphdr* udp = header_at(frame, p->network + outer_size(p->v6, to->tunnel) - sizeof(*udp), sizeof(*udp));
    if (!udp) return false;
    const __be16 length = told_length(sizeof(*udp) + p->length);
    udp->source = to->source_port_be;
    udp->dest = to->destination_port_be;
    udp->len = length;
    udp->check = 0;
    if (!sum) return true;
    const __u16 checksum = ~folded(sum + 2 * (__u64)length + to->source_port_be + to->destination_port_be);
    udp->check = checksum ? checksum : 0xffff;
    return true;
}

// Around parts and extension headers, and around what the kernel will cut, the checksum is not known.
inlined __u64 sum_around(void* context, enum hook hook, const struct packet* p, const struct rewriting* to,
                         const struct inner* inner) {
    if (!p->v6 || !inner->summed || (hook == hook_tc && CONTEXT_WORD(context, struct __sk_buff, gso_size))) return 0;
    return sum_128(sum_128(inner->outer_sum + bpf_htons(IPPROTO_UDP), &to->source), &to->destination);
}

// Ends every pointer into the frame.
inlined bool encapsulate(void* context, enum hook hook, const struct packet* p, const struct rewriting* to) {
    struct inner inner = {0};
    const struct cursor frame = frame_of(context, hook);
    if (!(p->v6 ? pass_hop_6(frame, p, to, &inner) : pass_hop_4(frame, p, to, &inner))) return false;
    if (!grow(context, hook, p, to->tunnel)) return false;
    const struct cursor grown = frame_of(context, hook);
    if (!(p->v6 ? write_outer_6(grown, p, to, &inner) : write_outer_4(grown, p, to, &inner))) return false;
    if (to->tunnel != forwarding_dsr_gue) return true;
    return write_outer_udp(grown, p, to, sum_around(context, hook, p, to, &inner));
}

// Functions of their own, for the stack's sake.
__noinline int encapsulate_at_xdp(struct xdp_md* context, const struct packet* p, const struct rewriting* to) {
    return p && to && encapsulate(context, hook_xdp, p, to);
}
__noinline int encapsulate_at_tc(struct __sk_buff* context, const struct packet* p, const struct rewriting* to) {
    return p && to && encapsulate(context, hook_tc, p, to);
}
