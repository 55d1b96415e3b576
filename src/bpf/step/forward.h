// forward: addresses, ports, checksums, hop limit; then out of the interface that the machine's own routes name.
#pragma once

#include "bpf/lib/checksum.h"
#include "bpf/lib/hook.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/packet.h"

// What decides a packet's way: the result of the first three steps.
struct rewriting {
    struct address source, destination;
    __u16 source_port_be, destination_port_be;
    __u8 tunnel;  // enum packet_forwarding, one of dsr's: these are the outer header's, around the packet; else 0
    __u8 marks;   // whether the packet is marked, with
    __u8 dscp;
    struct address gateway;  // the next hop; 0: as the routes say
};

// Marks a packet in place. ECN's two bits stay what they are. IPv4: the checksum's difference.
inlined __u64 mark_4(struct iphdr* ip, const struct rewriting* to) {
    __u16* word = (__u16*)ip;  // version, header length and this
    const __u16 before = *word;
    ip->tos = to->dscp << 2 | (ip->tos & 3);
    return difference_16(0, before, *word);
}
inlined void mark_6(struct ipv6hdr* ip, const struct rewriting* to) {
    __u16* word = (__u16*)ip;  // version, DSCP, ECN and the flow label's first bits
    *word = (*word & bpf_htons(0xf03f)) | bpf_htons((__u16)to->dscp << 6);
}

// The network header. `difference`: by how much the addresses change the checksums that cover them.
inlined bool rewrite_network(struct cursor frame, const struct packet* p, const struct rewriting* to,
                             __u64* difference) {
    if (p->v6) {
        struct ipv6hdr* ip = header_at(frame, p->network, sizeof(*ip));
        if (!ip) return false;
        *difference = difference_128(difference_128(0, &p->source, &to->source), &p->destination, &to->destination);
        write_address(&ip->saddr, &to->source);
        write_address(&ip->daddr, &to->destination);
        --ip->hop_limit;
        if (unlikely(to->marks)) mark_6(ip, to);
        return true;
    }
    struct iphdr* ip = header_at(frame, p->network, sizeof(*ip));
    if (!ip) return false;
    *difference = difference_32(0, unmapped(&p->source), unmapped(&to->source));
    *difference = difference_32(*difference, unmapped(&p->destination), unmapped(&to->destination));
    ip->saddr = unmapped(&to->source);
    ip->daddr = unmapped(&to->destination);
    // The hop limit is the first byte of the 16-bit word that it shares with the protocol.
    --ip->ttl;
    const __u64 marked = unlikely(to->marks) ? mark_4(ip, to) : 0;
    ip->check = checksum_changed(ip->check, difference_16(*difference + marked, bpf_htons(1 << 8), 0));
    return true;
}

// At TC a checksum may be one that the card or the kernel is yet to compute (CHECKSUM_PARTIAL): then it holds the sum
// of the pseudo header alone, which the addresses change and the ports do not. The kernel's helper knows. Ends every
// pointer into the frame.
inlined void change_checksum_of_skb(void* context, const struct packet* p, __u64 addresses, __u64 ports) {
    const bool tcp = p->protocol == IPPROTO_TCP;
    const __u32 at = p->transport + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
    const __u64 flags = tcp ? 0 : BPF_F_MARK_MANGLED_0;
    bpf_l4_csum_replace(context, at, 0, folded_32(addresses), flags | BPF_F_PSEUDO_HDR);
    bpf_l4_csum_replace(context, at, 0, folded_32(ports), flags);
}

// `addresses`: the difference that rewrite_network found.
inlined bool rewrite_transport(void* context, enum hook hook, struct cursor frame, const struct packet* p,
                               const struct rewriting* to, __u64 addresses) {
    __u64 ports = difference_16(0, p->source_port_be, to->source_port_be);
    ports = difference_16(ports, p->destination_port_be, to->destination_port_be);
    if (p->protocol == IPPROTO_TCP) {
        struct tcphdr* tcp = header_at(frame, p->transport, sizeof(*tcp));
        if (!tcp) return false;
        tcp->source = to->source_port_be;
        tcp->dest = to->destination_port_be;
        if (hook == hook_xdp) tcp->check = checksum_changed(tcp->check, addresses + ports);
    } else {
        struct udphdr* udp = header_at(frame, p->transport, sizeof(*udp));
        if (!udp) return false;
        udp->source = to->source_port_be;
        udp->dest = to->destination_port_be;
        if (!udp->check) return true;  // RFC 768: none was computed; RFC 6935 allows it for tunnels over IPv6
        const __u16 changed = checksum_changed(udp->check, addresses + ports);
        if (hook == hook_xdp) udp->check = changed ? changed : 0xffff;
    }
    if (hook == hook_tc) change_checksum_of_skb(context, p, addresses, ports);
    return true;
}

// --- where to ------------------------------------------------------------------------------------------------------

enum hop_state {
    hop_known,
    hop_unresolved,  // its link-layer address is not known yet
    hop_none,        // no route
};

enum { loopback = 1 };                   // its index in every network namespace
enum { family_v4 = 2, family_v6 = 10 };  // AF_INET, AF_INET6

// Where a next hop is cached: each endpoint has a place of its own, clients share the others.
inlined __u32 hop_slot_of_client(const struct address* client) {
    const __u64 mixed = (client->word[1] ^ client->word[0] * 31) * 0x9e3779b97f4a7c15ULL;
    return first_client_hop + (__u32)((mixed >> 32) * client_hops >> 32);  // its highest bits: they depend on all
}

// Tells user space of a neighbour, by a place in the cache of next hops: at most once a second from each, so that a
// flood does not fill the ring buffer. `mac` null: it is asked for.
inlined void tell(struct next_hop* place, const struct address* neighbour, __u32 interface, __u32 tag,
                  const __u8* mac) {
    const __u64 now = bpf_jiffies64();
    if (now - place->asked < next_hop_jiffies) return;
    place->asked = now;
    struct neighbour_report* report = bpf_ringbuf_reserve(&neighbours, sizeof(*report), 0);
    if (!report) return;
    __builtin_memset(report, 0, sizeof(*report));
    report->address = *neighbour;
    report->interface = interface;
    report->tag = tag;
    report->known = mac != 0;
    if (mac) __builtin_memcpy(report->mac, mac, ETH_ALEN);
    bpf_ringbuf_submit(report, 0);
}

// The kernel's word on a way whose next hop is unresolved: user space is told, and at TC the kernel sends the packet
// that will be, when it knows; it holds it meanwhile.
inlined void ask_for_neighbour(enum hook hook, struct next_hop* hop, const struct bpf_fib_lookup* answer) {
    // The gateway of an IPv4 packet may have an IPv6 address (RFC 8950).
    const struct address neighbour =
        answer->family == family_v4 ? mapped(answer->ipv4_dst) : address_of((const struct in6_addr*)answer->ipv6_dst);
    tell(hop, &neighbour, answer->ifindex, 0, 0);
    if (hook != hook_tc) return;
    struct bpf_redir_neigh to = {.nh_family = answer->family};
    __builtin_memcpy(to.ipv6_nh, answer->ipv6_dst, sizeof(to.ipv6_nh));  // or IPv4's, in its first bytes
    bpf_redirect_neigh(answer->ifindex, &to, sizeof(to), 0);
}

// A VLAN device takes no frames at XDP: they are for the one below it, with its tag. At TC it does what it always does.
// Both are kept, as a CPU may serve interfaces at either hook.
inlined void leave_by(struct next_hop* hop, __u32 interface) {
    const struct packet_vlan* vlan = bpf_map_lookup_elem(&vlans, &interface);
    hop->interface = interface;
    hop->xdp_interface = vlan ? vlan->parent : interface;
    hop->xdp_tag = vlan ? vlan->tag : 0;
}
inlined __u32 interface_to(enum hook hook, const struct next_hop* hop) {
    return hook == hook_xdp ? hop->xdp_interface : hop->interface;
}

inlined bool has_gateway(const struct rewriting* to) {
    return (to->gateway.word[0] | to->gateway.word[1]) != 0;
}

// A gateway is a neighbour: what another router would be asked for does not leave by it.
inlined bool leaves_by_gateway(const struct packet* p, const struct rewriting* to,
                               const struct bpf_fib_lookup* answer) {
    if (!has_gateway(to)) return true;
    const struct address next = p->v6 ? address_of((const struct in6_addr*)answer->ipv6_dst) : mapped(answer->ipv4_dst);
    return same_address(&next, &to->gateway);
}

// Asked as the machine itself would ask, from the loopback interface: the kernel answers only where the interface given
// is one that forwards, and the others need not, so that the machine does not become a router for everybody. User space
// sets net.ipv4.conf.lo.forwarding and net.ipv6.conf.lo.forwarding to 1.
inlined enum hop_state ask_routes(void* context, enum hook hook, const struct packet* p, const struct rewriting* to,
                                  struct next_hop* hop) {
    struct bpf_fib_lookup question = {0};
    question.family = p->v6 ? family_v6 : family_v4;
    question.ifindex = loopback;
    question.l4_protocol = p->protocol;
    question.tot_len = 1;  // any, so that the way's MTU comes back
    const struct address* towards = unlikely(has_gateway(to)) ? &to->gateway : &to->destination;
    if (p->v6) {
        write_address((struct in6_addr*)question.ipv6_src, &to->source);
        write_address((struct in6_addr*)question.ipv6_dst, towards);
    } else {
        question.ipv4_src = unmapped(&to->source);
        question.ipv4_dst = unmapped(towards);
    }
    const long answer = bpf_fib_lookup(context, &question, sizeof(question), 0);
    if (!leaves_by_gateway(p, to, &question)) return hop_none;
    if (answer == BPF_FIB_LKUP_RET_NO_NEIGH) ask_for_neighbour(hook, hop, &question);
    if (answer != BPF_FIB_LKUP_RET_SUCCESS) return answer == BPF_FIB_LKUP_RET_NO_NEIGH ? hop_unresolved : hop_none;
    leave_by(hop, question.ifindex);
    if (!interface_to(hook, hop)) return hop_none;
    hop->mtu = question.mtu_result;
    __builtin_memcpy(hop->destination, question.dmac, ETH_ALEN);
    __builtin_memcpy(hop->source, question.smac, ETH_ALEN);
    return hop_known;
}

// Functions of their own, for the stack's sake; by hook, as each has its own type of context.
__noinline int ask_at_xdp(struct xdp_md* context, const struct packet* p, const struct rewriting* to,
                          struct next_hop* hop) {
    return p && to && hop ? (int)ask_routes(context, hook_xdp, p, to, hop) : hop_none;
}
__noinline int ask_at_tc(struct __sk_buff* context, const struct packet* p, const struct rewriting* to,
                         struct next_hop* hop) {
    return p && to && hop ? (int)ask_routes(context, hook_tc, p, to, hop) : hop_none;
}

// The next hop, from this CPU's cache while it is fresh. Asking the kernel takes as long as all the rest.
inlined enum hop_state next_hop_to(void* context, enum hook hook, const struct packet* p, const struct rewriting* to,
                                   struct next_hop* hop) {
    const __u64 now = bpf_jiffies64();
    if (likely(same_address(&hop->address, &to->destination) && hop->generation == routes_generation &&
               interface_to(hook, hop) && now < hop->until))
        return hop_known;
    hop->interface = hop->xdp_interface = 0;
    const enum hop_state state = hook == hook_xdp ? ask_at_xdp(context, p, to, hop) : ask_at_tc(context, p, to, hop);
    if (state != hop_known) return state;
    hop->address = to->destination;
    hop->generation = routes_generation;
    hop->until = now + next_hop_jiffies;
    return hop_known;
}
