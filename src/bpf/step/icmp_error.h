// ICMP errors about packets that were rewritten here: whoever sent the original gets them, with the original as he sent
// it (RFC 5508 4.2). Without them no path MTU would be found through the proxy, and no closed port.
//
// The quoted packet went the other way than the error about it: turned round it is a packet of the error's direction,
// and what that would become says how both are to be rewritten.
#pragma once

#include "bpf/step/send.h"
#include "bpf/step/tunnel_error.h"

// What is read of a quoted packet: its ports, and the checksum where it is there.
enum { quoted_least = 8, quoted_most = 20 };

inlined enum parsed parse_quote_4(struct cursor* c, struct packet* q) {
    struct iphdr* ip = TAKE(c, struct iphdr);
    if (!ip || ip->version != 4 || ip->ihl < 5) return parsed_malformed;
    const __u32 header = ip->ihl * 4;
    if (bpf_ntohs(ip->tot_len) < header + quoted_least) return parsed_malformed;
    q->protocol = ip->protocol;
    q->source = mapped(ip->daddr);
    q->destination = mapped(ip->saddr);
    const __u32 offset = bpf_ntohs(ip->frag_off) & fragment_offset_4;
    if (header > sizeof(*ip) && !take(c, header - sizeof(*ip))) return parsed_malformed;
    return offset ? parsed_fragment : parsed_flow;
}

inlined enum parsed parse_quote_6(struct cursor* c, struct packet* q) {
    struct ipv6hdr* ip = TAKE(c, struct ipv6hdr);
    if (!ip || ip->version != 6) return parsed_malformed;
    q->source = address_of(&ip->daddr);
    q->destination = address_of(&ip->saddr);
    return parse_extensions(c, q, ip->nexthdr);
}

// The quoted packet, turned round. False: it has no ports, or was none that went out here as the error's receiver's.
inlined bool parse_quote(struct cursor frame, const struct packet* p, struct packet* q) {
    struct cursor c = frame;
    const __u64 before = (p->transport + sizeof(struct icmp_header)) & farthest_header;
    if (!take(&c, before)) return false;
    q->network = before;
    q->v6 = p->v6;
    const enum parsed what = p->v6 ? parse_quote_6(&c, q) : parse_quote_4(&c, q);
    q->transport = c.at - frame.at;
    const __be16* ports = take(&c, quoted_least);
    if (what != parsed_flow || !ports || q->transport + quoted_least > end_of_packet(p)) return false;
    if (q->protocol != IPPROTO_TCP && q->protocol != IPPROTO_UDP) return false;
    q->source_port_be = ports[1];
    q->destination_port_be = ports[0];
    return same_address(&q->destination, &p->destination);
}

// Extension headers may come before the quoted ports, as many as parse_extensions passes over and not longer than this.
enum { quote_seen = sizeof(struct icmp_header) + sizeof(struct ipv6hdr) + 128 };

enum { quoted_nothing, quoted_packet, quoted_in_tunnel };
inlined int read_quote(void* context, enum hook hook, struct cursor frame, const struct packet* p, struct packet* q) {
    if (read_inside(context, hook, p, q)) return quoted_in_tunnel;
    *q = (struct packet){0};
    return parse_quote(frame, p, q) ? quoted_packet : quoted_nothing;
}
__noinline int read_quote_at_xdp(struct xdp_md* context, const struct packet* p, struct packet* q) {
    return p && q ? read_quote(context, hook_xdp, frame_of(context, hook_xdp), p, q) : quoted_nothing;
}
__noinline int read_quote_at_tc(struct __sk_buff* context, const struct packet* p, struct packet* q) {
    if (!p || !q) return quoted_nothing;
    const __u32 wanted = p->transport + quote_seen, end = end_of_packet(p);
    return read_quote(context, hook_tc, frame_up_to(context, hook_tc, wanted < end ? wanted : end), p, q);
}

// The quoted transport's checksum, where it is within what was quoted. Returns `sum` with its change added.
inlined __u64 rewrite_quoted_checksum(struct cursor frame, const struct packet* p, const struct packet* q,
                                      __u64 difference, __u64 sum) {
    const bool tcp = q->protocol == IPPROTO_TCP;
    const __u32 at = q->transport + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
    if (at + sizeof(__u16) > end_of_packet(p)) return sum;
    __u16* checksum = header_at(frame, at, sizeof(*checksum));
    if (!checksum || (!tcp && !*checksum)) return sum;
    const __u16 before = *checksum, changed = checksum_changed(before, difference);
    *checksum = tcp || changed ? changed : 0xffff;
    return difference_16(sum, before, *checksum);
}

// The quoted packet becomes what its sender had sent. `sum`: by how much that changes a checksum over all of it.
inlined bool rewrite_quote(struct cursor frame, const struct packet* p, const struct packet* q,
                           const struct rewriting* to, __u64* sum) {
    __u64 difference = difference_128(difference_128(0, &q->source, &to->source), &q->destination, &to->destination);
    if (q->v6) {
        struct ipv6hdr* ip = header_at(frame, q->network, sizeof(*ip));
        if (!ip) return false;
        write_address(&ip->saddr, &to->destination);
        write_address(&ip->daddr, &to->source);
        *sum = difference;
    } else {
        struct iphdr* ip = header_at(frame, q->network, sizeof(*ip));
        if (!ip) return false;
        const __u16 before = ip->check;
        ip->saddr = unmapped(&to->destination);
        ip->daddr = unmapped(&to->source);
        ip->check = checksum_changed(before, difference);
        *sum = difference_16(difference, before, ip->check);
    }
    __be16* ports = header_at(frame, q->transport, quoted_least);
    if (!ports) return false;
    __u64 of_ports = difference_16(0, q->source_port_be, to->source_port_be);
    of_ports = difference_16(of_ports, q->destination_port_be, to->destination_port_be);
    ports[0] = to->destination_port_be;
    ports[1] = to->source_port_be;
    *sum = rewrite_quoted_checksum(frame, p, q, difference + of_ports, *sum + of_ports);
    return true;
}

// Where it is the other side itself that speaks, it does so in the name that its peer knows; a router in its own.
inlined bool rewrite_error(struct cursor frame, const struct packet* p, const struct packet* q,
                           const struct rewriting* to) {
    __u64 quoted, addresses;
    if (!rewrite_quote(frame, p, q, to, &quoted)) return false;
    struct rewriting outer = *to;
    if (!same_address(&p->source, &q->source)) outer.source = p->source;
    if (!rewrite_network(frame, p, &outer, &addresses)) return false;
    struct icmp_header* icmp = header_at(frame, p->transport, sizeof(*icmp));
    if (!icmp) return false;
    // ICMPv6's covers the addresses too.
    icmp->checksum = checksum_changed(icmp->checksum, p->v6 ? quoted + addresses : quoted);
    return true;
}

__noinline int rewrite_error_at_xdp(struct xdp_md* context, const struct packet* p, const struct packet* q,
                                    const struct rewriting* to) {
    return p && q && to && rewrite_error(frame_of(context, hook_xdp), p, q, to);
}
__noinline int rewrite_error_at_tc(struct __sk_buff* context, const struct packet* p, const struct packet* q,
                                   const struct rewriting* to) {
    return p && q && to && rewrite_error(frame_of(context, hook_tc), p, q, to);
}

// The endpoint of a tunnel knows the packet by the names that it has: the error goes to it as the flow's packets do.
inlined bool change_error(void* context, enum hook hook, const struct packet* p, const struct packet* q,
                          const struct rewriting* to) {
    if (to->tunnel) return hook == hook_xdp ? encapsulate_at_xdp(context, p, to) : encapsulate_at_tc(context, p, to);
    return hook == hook_xdp ? rewrite_error_at_xdp(context, p, q, to) : rewrite_error_at_tc(context, p, q, to);
}

// An error to an endpoint is a packet to it, whoever wrote it.
inlined bool within_rates(const struct packet* q, const struct decision* d) {
    const __u32 index = d->service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (d->direction == direction_down || !service || !(service->flags & service_limits_packets)) return true;
    return within_packet_rates(&q->source, index);
}

// Neither does an error change the state of a flow, as anybody can write one, nor is it counted in the flow. `d`: room
// for the decision, empty.
inlined enum outcome forward_error(void* context, enum hook hook, const struct packet* p, struct decision* d) {
    struct packet q = {0};
    const int quoted = hook == hook_xdp ? read_quote_at_xdp(context, p, &q) : read_quote_at_tc(context, p, &q);
    if (quoted == quoted_nothing) return outcome_pass;
    const int decided = decide_as_if(&q, d);
    if (decided == decided_pass) return outcome_pass;
    if (quoted == quoted_in_tunnel)
        return decided == decided_forward ? forward_tunnel_error(context, hook, p, &q, d) : outcome_pass;
    if (decided == decided_drop) return refuse(d->service, d->why);
    if (!within_rates(&q, d)) return refuse(d->service, packet_verdict_packet_rate);
    if (p->hop_limit <= 1) return refuse(d->service, packet_verdict_hop_limit);
    struct next_hop* hop;
    const int way = find_way(context, hook, p, d, &hop);
    if (way >= 0) return refuse(d->service, way);
    if (!change_error(context, hook, p, &q, &d->to) || !fit_link(context, hook, p, hop))
        return refuse(d->service, packet_verdict_internal_error);
    count_packet(d->service, d->endpoint, d->direction, p->length);
    return way == way_known ? send(context, hook, hop) : outcome_redirect;
}

__noinline int error_at_xdp(struct xdp_md* context, const struct packet* p, struct decision* d) {
    return p && d ? (int)forward_error(context, hook_xdp, p, d) : outcome_pass;
}
__noinline int error_at_tc(struct __sk_buff* context, const struct packet* p, struct decision* d) {
    return p && d ? (int)forward_error(context, hook_tc, p, d) : outcome_pass;
}
