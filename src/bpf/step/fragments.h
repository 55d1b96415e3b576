// Datagrams in parts: the first has the ports and goes the usual way; the others go where it went, found by what they
// have in common with it. Nothing is held back: a part that comes before the first is lost, and its sender sends again.
#pragma once

#include "bpf/step/decide.h"

// RFC 791, RFC 8200 4.5.
struct fragment_key {
    struct address source, destination;
    __u32 identification;
    __u32 protocol;  // IPv6: that of the header, as the parts need not agree on what is behind it
};
struct fragment_way {
    struct decision to;
    __u16 source_port_be, destination_port_be;
    __u32 second;  // in which the first came by
};
enum { fragment_seconds = 30, fragment_ways = 1 << 14 };

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, fragment_ways);
    __type(key, struct fragment_key);
    __type(value, struct fragment_way);
} fragments SEC(".maps");

inlined struct fragment_key fragment_key_of(const struct packet* p) {
    return (struct fragment_key){p->source, p->destination, p->identification,
                                 p->v6 ? (__u32)IPPROTO_FRAGMENT : p->protocol};
}

inlined struct fragment_way* way_of_fragment(const struct packet* p) {
    const struct fragment_key key = fragment_key_of(p);
    struct fragment_way* way = bpf_map_lookup_elem(&fragments, &key);
    return way && (__u32)now_seconds() - way->second <= fragment_seconds ? way : 0;
}

// Gives a later part the ports of its first, so that its flow is found and counts it. 0: the first is not known.
__noinline int recall_ports(struct packet* p) {
    const struct fragment_way* way = p ? way_of_fragment(p) : 0;
    if (!way) return 0;
    p->source_port_be = way->source_port_be;
    p->destination_port_be = way->destination_port_be;
    p->tcp_flags = tcp_ack;  // data
    return 1;
}

inlined void remember_way(const struct packet* p, const struct decision* d) {
    const struct fragment_key key = fragment_key_of(p);
    const struct fragment_way way = {*d, p->source_port_be, p->destination_port_be, now_seconds()};
    bpf_map_update_elem(&fragments, &key, &way, BPF_ANY);
}

// The decision on a part, after the usual one: a later part goes where the first went, though its flow may have ended
// meanwhile; never to where another flow on the same ports goes.
__noinline int decide_part(const struct packet* p, struct decision* d, int decided) {
    if (!p || !d) return decided_pass;
    if (p->fragment == fragment_first) {
        if (decided == decided_forward) remember_way(p, d);
        return decided;
    }
    if (decided == decided_drop) return decided;
    const struct fragment_way* way = way_of_fragment(p);
    if (!way) return drop(d, packet_verdict_fragment);
    if (decided == decided_forward && (!same_address(&d->to.source, &way->to.to.source) ||
                                       !same_address(&d->to.destination, &way->to.to.destination)))
        return drop(d, packet_verdict_fragment);
    *d = way->to;
    return p->hop_limit <= 1 ? drop(d, packet_verdict_hop_limit) : decided_forward;
}
