// ICMP errors about what was sent inside another packet (step/encapsulate.h): the client hears of its own packet, in
// the service's name (RFC 2003 4, RFC 2473 8). Without them nobody would learn that the way to an endpoint takes less
// than the first link of it.
#pragma once

#include "bpf/step/send.h"

// Where the quoted packet's outer header begins.
inlined __u32 outer_at(const struct packet* p) {
    return p->transport + sizeof(struct icmp_header);
}

// Where the packet begins that is inside the one that is quoted; 0: that is no tunnel's, or did not come from here.
inlined __u32 inside_at(void* context, enum hook hook, const struct packet* p) {
    struct address source;
    __u32 at = outer_at(p);
    __u8 protocol;
    if (p->v6) {
        struct ipv6hdr ip;
        if (load_bytes(context, hook, at, &ip, sizeof(ip)) != 0) return 0;
        source = address_of(&ip.saddr);
        protocol = ip.nexthdr;
        at += sizeof(ip);
    } else {
        struct iphdr ip;
        if (load_bytes(context, hook, at, &ip, sizeof(ip)) != 0 || ip.ihl != 5) return 0;
        source = mapped(ip.saddr);
        protocol = ip.protocol;
        at += sizeof(ip);
    }
    if (!same_address(&source, &p->destination)) return 0;
    if (protocol == (p->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP)) return at;
    struct udphdr udp;
    if (protocol != IPPROTO_UDP || load_bytes(context, hook, at, &udp, sizeof(udp)) != 0) return 0;
    return udp.dest == bpf_htons(gue_port) ? at + sizeof(udp) : 0;
}

// The packet that is quoted inside a tunnel's, as its client sent it. False: none is, or its ports are not there.
inlined bool read_inside(void* context, enum hook hook, const struct packet* p, struct packet* q) {
    __u32 at = inside_at(context, hook, p);
    *q = (struct packet){.v6 = p->v6, .network = at};
    if (!at) return false;
    if (q->v6) {
        struct ipv6hdr ip;
        if (load_bytes(context, hook, at, &ip, sizeof(ip)) != 0 || ip.version != 6) return false;
        q->source = address_of(&ip.saddr);
        q->destination = address_of(&ip.daddr);
        q->protocol = ip.nexthdr;
        at += sizeof(ip);
    } else {
        struct iphdr ip;
        if (load_bytes(context, hook, at, &ip, sizeof(ip)) != 0 || ip.version != 4 || ip.ihl < 5) return false;
        if (bpf_ntohs(ip.frag_off) & fragment_offset_4) return false;
        q->source = mapped(ip.saddr);
        q->destination = mapped(ip.daddr);
        q->protocol = ip.protocol;
        at += ip.ihl * 4;
    }
    __be16 ports[2];
    if (q->protocol != IPPROTO_TCP && q->protocol != IPPROTO_UDP) return false;
    if (load_bytes(context, hook, at, ports, sizeof(ports)) != 0) return false;
    q->source_port_be = ports[0];
    q->destination_port_be = ports[1];
    return true;
}

// Whether it was inside what its flow's packets are inside: anybody can write an error.
inlined bool is_where_flow_goes(void* context, enum hook hook, const struct packet* p, const struct packet* q,
                                const struct rewriting* to) {
    if (!to->tunnel || q->network != outer_at(p) + outer_size(p->v6, to->tunnel)) return false;
    struct in6_addr there;
    const __u32 at = outer_at(p) + (p->v6 ? offsetof(struct ipv6hdr, daddr) : offsetof(struct iphdr, daddr));
    if (load_bytes(context, hook, at, &there, p->v6 ? sizeof(there) : sizeof(__be32)) != 0) return false;
    const struct address destination = p->v6 ? address_of(&there) : mapped(*(__be32*)&there);
    return same_address(&to->destination, &destination);
}

// What the client is told: how much fits into the tunnel; for all else, that the service is not reachable.
enum {
    least_mtu_4 = 68,
    least_mtu_6 = 1280,
    icmp4_host_unreachable = 1,
    icmp6_unreachable = 1,
    address_unreachable = 3
};
inlined bool translate(void* context, enum hook hook, const struct packet* p, __u8 tunnel, struct icmp_header* what) {
    struct icmp_header said;
    if (load_bytes(context, hook, p->transport, &said, sizeof(said)) != 0) return false;
    const __u32 overhead = outer_size(p->v6, tunnel), least = p->v6 ? least_mtu_6 : least_mtu_4;
    const bool too_large =
        p->v6 ? said.type == icmp6_too_big : said.type == icmp4_unreachable && said.code == icmp4_fragmentation_needed;
    __u32 mtu = p->v6 ? bpf_ntohl(said.rest) : bpf_ntohl(said.rest) & 0xffff;
    mtu = mtu < least + overhead ? least : mtu - overhead;
    *what = too_large_or_too_far(p->v6, mtu);
    if (too_large) return true;
    what->type = p->v6 ? icmp6_unreachable : icmp4_unreachable;
    what->code = p->v6 ? address_unreachable : icmp4_host_unreachable;
    what->rest = 0;
    return true;
}

// Takes what was before the inner packet away, but for `header` bytes behind Ethernet's.
inlined bool cut_out(void* context, enum hook hook, const struct packet* p, __u32 inside, __u32 header) {
    const __u32 excess = inside - p->network - header;
    if (hook == hook_tc)
        return p->network == ETH_HLEN && bpf_skb_adjust_room(context, -(__s32)excess, BPF_ADJ_ROOM_MAC, 0) == 0;
    struct ethernet_bytes ethernet;
    return take_ethernet(context, hook, 0, p->network, &ethernet) && bpf_xdp_adjust_head(context, excess) == 0 &&
           put_ethernet(context, hook, p->network, &ethernet);
}

// The error becomes one about the packet inside, `q`, of which `d` says where its flow's packets go. Returns its
// length; 0: it is about nothing that was sent there, as anybody can write one; negative: it could not be made.
inlined int become_about(void* context, enum hook hook, const struct packet* p, const struct packet* q,
                         const struct decision* d) {
    if (!is_where_flow_goes(context, hook, p, q, &d->to)) return 0;
    struct telling t = {.from = q->destination, .to = q->source, .quoted = end_of_packet(p) - q->network};
    const __u32 header = telling_size(p->v6);
    const bool made = t.quoted <= quoted_at_most_6 && translate(context, hook, p, d->to.tunnel, &t.what) &&
                      sum_of_bytes(context, hook, q->network, t.quoted, &t.sum) &&
                      cut_out(context, hook, p, q->network, header) &&
                      write_telling(context, hook, p->network, p->v6, &t);
    return made ? (int)(header + t.quoted) : -1;
}
__noinline int become_about_at_xdp(struct xdp_md* context, const struct packet* p, const struct packet* q,
                                   const struct decision* d) {
    return p && q && d ? become_about(context, hook_xdp, p, q, d) : 0;
}
__noinline int become_about_at_tc(struct __sk_buff* context, const struct packet* p, const struct packet* q,
                                  const struct decision* d) {
    return p && q && d ? become_about(context, hook_tc, p, q, d) : 0;
}

inlined enum outcome send_to_client(void* context, enum hook hook, const struct packet* p, struct decision* d,
                                    __u32 length) {
    struct next_hop* hop;
    const int way = find_way(context, hook, p, d, &hop);
    if (way >= 0) return refuse(d->service, way);
    if (!fit_link(context, hook, p, hop)) return refuse(d->service, packet_verdict_internal_error);
    count_packet(d->service, d->endpoint, d->direction, length);
    return way == way_known ? send(context, hook, hop) : outcome_redirect;
}
__noinline int send_to_client_at_xdp(struct xdp_md* context, const struct packet* p, struct decision* d, __u32 length) {
    return p && d ? (int)send_to_client(context, hook_xdp, p, d, length) : outcome_drop;
}
__noinline int send_to_client_at_tc(struct __sk_buff* context, const struct packet* p, struct decision* d,
                                    __u32 length) {
    return p && d ? (int)send_to_client(context, hook_tc, p, d, length) : outcome_drop;
}

inlined enum outcome forward_tunnel_error(void* context, enum hook hook, const struct packet* p, const struct packet* q,
                                          struct decision* d) {
    const int length = hook == hook_xdp ? become_about_at_xdp(context, p, q, d) : become_about_at_tc(context, p, q, d);
    if (!length) return outcome_pass;
    if (length < 0) return refuse(d->service, packet_verdict_internal_error);
    d->direction = direction_down;
    d->to.source = q->destination;
    d->to.destination = q->source;
    d->to.tunnel = 0;
    return hook == hook_xdp ? send_to_client_at_xdp(context, p, d, length)
                            : send_to_client_at_tc(context, p, d, length);
}
