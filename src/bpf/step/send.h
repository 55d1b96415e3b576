// send: what was decided of a packet is carried out.
#pragma once

#include "bpf/step/clamp.h"
#include "bpf/step/decide.h"
#include "bpf/step/encapsulate.h"
#include "bpf/step/queue.h"
#include "bpf/step/tags.h"
#include "bpf/step/tell_sender.h"

enum { way_known = -1, way_by_kernel = -2 };  // no verdicts

// The next hop of a packet that becomes what `d` says. Else the verdict why there is none; at TC the kernel may have
// been told to send the packet when it knows a neighbour.
inlined int find_way(void* context, enum hook hook, const struct packet* p, const struct decision* d,
                     struct next_hop** hop) {
    const __u32 slot = d->direction == direction_up ? d->endpoint : hop_slot_of_client(&d->to.destination);
    *hop = bpf_map_lookup_elem(&next_hops, &slot);
    if (!*hop) return packet_verdict_internal_error;
    const enum hop_state state = next_hop_to(context, hook, p, &d->to, *hop);
    if (state == hop_known) return way_known;
    if (state == hop_none) return packet_verdict_no_route;
    return hook == hook_tc ? (int)way_by_kernel : packet_verdict_no_neighbour;
}

// The size in which it will leave: at TC the kernel cuts what it has put together itself, and takes away the extension
// that tells IPv6's length beyond what the header can (RFC 2675).
inlined __u32 length_on_link(void* context, enum hook hook, const struct packet* p) {
    const __u32 segment = hook == hook_tc ? CONTEXT_WORD(context, struct __sk_buff, gso_size) : 0;
    if (!segment) return p->length;
    const __u32 whole = p->transport - p->network;
    const __u32 headers = p->v6 && p->length > sizeof(struct ipv6hdr) + 0xffff ? sizeof(struct ipv6hdr) : whole;
    return headers + p->transport_header + segment;
}

// What the next link takes of it, as it came.
inlined __u32 room_on_link(void* context, enum hook hook, const struct packet* p, const struct rewriting* to,
                           const struct next_hop* hop) {
    if (likely(!to->tunnel)) return hop->mtu;
    const bool shrinks = hook == hook_tc && p->protocol == IPPROTO_TCP &&  // encapsulate.h: grow
                         CONTEXT_WORD(context, struct __sk_buff, gso_size);
    return shrinks ? hop->mtu : hop->mtu - overhead_of(p, to);
}

// Whether it is more than the next link takes. RFC 1812 would have a router cut an IPv4 packet that may be: that cannot
// be done here, and the sender is told as if it might not be, which is more than it would learn from the link.
inlined bool is_too_large(void* context, enum hook hook, const struct packet* p, __u32 room) {
    return unlikely(p->length > room) && length_on_link(context, hook, p) > room;
}

inlined bool change(void* context, enum hook hook, const struct packet* p, const struct rewriting* to) {
    if (unlikely(to->tunnel))
        return hook == hook_xdp ? encapsulate_at_xdp(context, p, to) : encapsulate_at_tc(context, p, to);
    const struct cursor frame = frame_of(context, hook);
    __u64 difference;
    if (!rewrite_network(frame, p, to, &difference)) return false;
    return unlikely(p->fragment == fragment_later) || rewrite_transport(context, hook, frame, p, to, difference);
}

// The frame, but for its addresses, becomes one of the next link. At TC a VLAN device puts its tag in itself, also
// where the kernel is yet to find the neighbour there.
inlined bool fit_link(void* context, enum hook hook, const struct packet* p, const struct next_hop* hop) {
    return change_tags(context, hook, p, hook == hook_xdp ? hop->xdp_tag : 0);
}

inlined bool address_frame(void* context, enum hook hook, const struct next_hop* hop) {
    struct cursor frame = frame_of(context, hook);
    struct ethhdr* ethernet = TAKE(&frame, struct ethhdr);
    if (!ethernet) return false;
    __builtin_memcpy(ethernet->h_dest, hop->destination, 6);
    __builtin_memcpy(ethernet->h_source, hop->source, 6);
    return true;
}

// Also by another VLAN, it may leave by where it came in.
inlined enum outcome leave(void* context, enum hook hook, const struct next_hop* hop) {
    const __u32 interface = interface_to(hook, hop);
    if (interface == ingress_interface(context, hook)) return bounce(context, hook);
    bpf_redirect(interface, 0);
    return outcome_redirect;
}

inlined enum outcome send(void* context, enum hook hook, const struct next_hop* hop) {
    return address_frame(context, hook, hop) ? leave(context, hook, hop) : outcome_drop;
}

// A packet of a service: at once, or when its turn has come.
inlined enum outcome send_in_turn(void* context, enum hook hook, const struct packet* p, const struct decision* d,
                                  const struct next_hop* hop) {
    if (!address_frame(context, hook, hop)) return outcome_drop;
    if (hook == hook_xdp && unlikely(d->queues) && queue_at_xdp(context, p, d, hop->xdp_interface))
        return outcome_redirect;
    return leave(context, hook, hop);
}

// Nothing is written before it is known that the packet can go.
inlined enum outcome forward(void* context, enum hook hook, const struct packet* p, const struct decision* d) {
    struct next_hop* hop;
    const int way = find_way(context, hook, p, d, &hop);
    if (unlikely(way >= 0)) return refuse(d->service, way);
    if (way == way_known && is_too_large(context, hook, p, room_on_link(context, hook, p, &d->to, hop)))
        return refuse_and_tell(context, hook, p, d, packet_verdict_oversized, hop->mtu - overhead_of(p, &d->to));
    if (unlikely(p->tcp_flags & tcp_syn) &&
        !(hook == hook_xdp ? clamp_at_xdp(context, p, d->service) : clamp_at_tc(context, p, d->service)))
        return refuse(d->service, packet_verdict_internal_error);
    if (!change(context, hook, p, &d->to) || !fit_link(context, hook, p, hop))
        return refuse(d->service, packet_verdict_internal_error);
    count_packet(d->service, d->endpoint, d->direction, p->length);
    return way == way_known ? send_in_turn(context, hook, p, d, hop) : outcome_redirect;
}
