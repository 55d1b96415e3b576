// decide: the first three steps together. Who it is, and what it is to become; no access to the frame.
#pragma once

#include "bpf/step/account.h"
#include "bpf/step/admit.h"
#include "bpf/step/choose.h"
#include "bpf/step/classify.h"
#include "bpf/step/qos.h"

enum decided {
    decided_pass,
    decided_drop,
    decided_forward,
    decided_begin,   // it may begin a flow
    decided_anew,    // it may begin anew a flow that is over
    decided_prove,   // TCP, of no flow: it may ask for a proof, or be one; else it is dropped
    decided_answer,  // its sender is asked to prove its address
    decided_reset,   // its sender is told that the connection is over
};

inlined int drop(struct decision* d, enum packet_verdict why) {
    d->why = why;
    return decided_drop;
}

// Tells flows apart on the way to an endpoint, and in its queues.
inlined __u32 spread_of(const struct packet* p) {
    const __u64 who =
        p->source.word[0] * 31 ^ p->source.word[1] ^ (__u64)p->source_port_be << 8 ^ p->destination_port_be;
    return (__u32)((who * 0x9e3779b97f4a7c15ULL) >> 32);
}

enum { gue_port = 6080, first_gue_source_port = 0xc000 };  // IANA's; the dynamic ports, as RFC 8085 5.1.1 asks

// The packet goes on as it is, in another one.
inlined int within_tunnel(const struct packet_service* service, const struct packet_endpoint* endpoint,
                          const struct packet* p, struct decision* d) {
    const __u32 spread = spread_of(p);
    const __u32 index = endpoint->source_first + (__u32)((__u64)spread * endpoint->source_count >> 32);
    const struct address* source = bpf_map_lookup_elem(&source_addresses, &index);
    if (!source) return drop(d, packet_verdict_internal_error);
    d->to.source = *source;
    d->to.source_port_be = bpf_htons(first_gue_source_port | (spread & 0x3fff));
    d->to.destination_port_be = bpf_htons(gue_port);
    d->to.tunnel = service->forwarding;
    return decided_forward;
}

// A packet to an endpoint that is none any more. Where that died, the client of a connection is to hear of it.
inlined int to_nobody(const struct packet_endpoint* endpoint, const struct packet* p, struct decision* d) {
    if (!endpoint || !(endpoint->flags & endpoint_dead)) return drop(d, packet_verdict_no_endpoint);
    d->why = packet_verdict_endpoint_down;
    const bool goes_on = (p->tcp_flags & (tcp_syn | tcp_rst | tcp_ack)) == tcp_ack;
    return p->protocol == IPPROTO_TCP && goes_on && !p->fragment ? decided_reset : decided_drop;
}

// What a client's packet becomes.
inlined int towards(const struct packet_service* service, const struct packet* p, const struct chosen* chosen,
                    struct decision* d) {
    if (!chosen->endpoint) return drop(d, chosen->why);
    const struct packet_endpoint* endpoint = bpf_map_lookup_elem(&endpoints, &chosen->endpoint);
    if (unlikely(!endpoint || !(endpoint->flags & endpoint_in_use))) return to_nobody(endpoint, p, d);
    d->endpoint = chosen->endpoint;
    d->direction = direction_up;
    d->to.destination = endpoint->address;
    d->to.gateway = endpoint->gateway;
    if (unlikely(is_dsr(service))) return within_tunnel(service, endpoint, p, d);
    d->to.destination_port_be = endpoint->port_be;
    d->to.source = p->source;
    d->to.source_port_be = p->source_port_be;
    if (service->forwarding != forwarding_nat) return decided_forward;
    const struct address* source = bpf_map_lookup_elem(&source_addresses, &chosen->source);
    if (!source) return drop(d, packet_verdict_internal_error);
    d->to.source = *source;
    d->to.source_port_be = bpf_htons(chosen->port);
    return decided_forward;
}

inlined int from_client(const struct packet* p, const struct classified* class, struct decision* d) {
    const __u32 index = d->service = class->service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!service) return decided_pass;
    if (!may_enter(service, index, p)) return drop(d, packet_verdict_access_denied);
    if (unlikely(service->flags & service_limits_packets) && !within_packet_rates(&p->source, index))
        return drop(d, packet_verdict_packet_rate);
    if (p->hop_limit <= 1) return drop(d, packet_verdict_hop_limit);  // the sender is told; who is denied hears nothing
    struct chosen chosen = {0};
    struct found flow;
    const enum belonging belonging = choose_by_flow(service, index, p, &flow, &chosen);
    if (likely(belonging == belongs)) {
        if (!may_pass(service, p, d)) return drop(d, packet_verdict_over_rate);
        follow_client(service, index, &flow, p);
        count_in_flow(&flow, direction_up, p->length);
        const int decided = towards(service, p, &chosen, d);
        if (unlikely(decided == decided_reset)) note_reset_client(&flow);
        return decided;
    }
    if (belonging == belongs_anew) return decided_anew;
    d->why = packet_verdict_no_flow;
    if (begins_flow(service, p)) return decided_begin;
    return p->tcp_flags & tcp_rst ? decided_prove : decided_drop;
}

// Under pressure what might go on with a flow that another node began goes to where that node would send it, and is not
// kept. Without the flow nobody would know the way back, unless the endpoint answers the client itself.
__noinline int pass_by(const struct packet* p, struct decision* d) {
    if (!p || !d) return decided_pass;
    const __u32 index = d->service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!service) return decided_pass;
    if (!is_dsr(service)) return drop(d, packet_verdict_no_flow);
    if (!may_pass(service, p, d)) return drop(d, packet_verdict_over_rate);
    struct chosen chosen = {.why = packet_verdict_no_endpoint};
    chosen.endpoint = pick_endpoint(service, &p->source, p->source_port_be);
    if (chosen.endpoint) count_stateless(index);
    return towards(service, p, &chosen, d);
}

__noinline int begin(const struct packet* p, struct decision* d) {
    if (!p || !d) return decided_pass;
    const __u32 index = d->service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!service) return decided_pass;
    if (!may_pass(service, p, d)) return drop(d, packet_verdict_over_rate);
    const struct chosen chosen = begin_flow(service, index, p);
    return towards(service, p, &chosen, d);
}

// What an endpoint's packet becomes. False: the service is none any more.
inlined bool towards_client(const struct flow_client* to, __u32 endpoint, struct decision* d) {
    const __u32 index = to->service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!service) return false;
    d->service = index;
    d->endpoint = endpoint;
    d->direction = direction_down;
    d->has_qos = (service->flags & service_has_qos) != 0;
    d->to.source = service->address;
    d->to.source_port_be = service->port_be;
    d->to.destination = to->address;
    d->to.destination_port_be = to->port_be;
    return true;
}

// Whose flow an endpoint's packet belongs to, and what it becomes. False: no flow's, which may be the machine's own.
inlined bool back_to_client(const struct packet* p, const struct classified* class, struct found* flow,
                            struct decision* d) {
    __u64 identity;
    if (class->source) {
        identity = identity_of_endpoint(class->endpoint, class->source, bpf_ntohs(p->destination_port_be));
    } else {
        const struct packet_endpoint* endpoint = bpf_map_lookup_elem(&endpoints, &class->endpoint);
        if (!endpoint || !endpoint->dnat_service) return false;
        identity = identity_of_client(&p->destination, p->destination_port_be, endpoint->dnat_service, p->v6);
    }
    *flow = find_flow(&endpoint_flows, identity);
    struct flow_client to;
    if (!flow->cell || !read_client(flow->target, p->v6, (__u32)flow->target, &to)) return false;
    if (!class->source && !same_address(&to.address, &p->destination)) return false;
    return towards_client(&to, class->endpoint, d);
}

// What found no room for a flow went to Maglev's choice all the same (begin_flow), which answers by way of us where the
// endpoint sees the client itself. Only where there is no room: else the client speaks with the endpoint by itself.
inlined bool may_lack_a_flow(const struct classified* class, const struct found* flow) {
    return !flow->cell && flow->identity && !class->source &&
           (full_client(flow->identity) || full_endpoint(flow->identity));
}
__noinline int back_without_flow(const struct packet* p, __u32 number, struct decision* d) {
    const struct packet_endpoint* endpoint = bpf_map_lookup_elem(&endpoints, &number);
    if (!p || !d || !endpoint) return 0;
    const struct flow_client to = {p->destination, p->destination_port_be, endpoint->dnat_service, 0};
    const __u32 index = to.service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!service || pick_endpoint(service, &to.address, to.port_be) != number) return 0;
    return towards_client(&to, number, d);
}

inlined int from_endpoint(const struct packet* p, const struct classified* class, struct decision* d) {
    struct found flow = {0};
    if (!back_to_client(p, class, &flow, d) &&
        (!may_lack_a_flow(class, &flow) || !back_without_flow(p, class->endpoint, d)))
        return decided_pass;
    if (p->hop_limit <= 1) return drop(d, packet_verdict_hop_limit);
    if (unlikely(d->has_qos) && !within_qos(p, direction_down, d)) return drop(d, packet_verdict_over_rate);
    if (unlikely(!flow.cell)) return decided_forward;
    follow_endpoint(&flow, d->service, p);
    count_in_flow(&flow, direction_down, p->length);
    return decided_forward;
}

inlined int decide(const struct packet* p, struct decision* d) {
    const struct classified class = classify(p);
    if (class.is == class_client) return from_client(p, &class, d);
    if (class.is == class_endpoint) return from_endpoint(p, &class, d);
    return decided_pass;
}

// What a packet would become that belongs to a flow already; without following it or counting in it.
__noinline int decide_as_if(const struct packet* p, struct decision* d) {
    if (!p || !d) return decided_pass;
    const struct classified class = classify(p);
    struct found flow;
    if (class.is == class_endpoint) return back_to_client(p, &class, &flow, d) ? decided_forward : decided_pass;
    if (class.is != class_client) return decided_pass;
    const __u32 index = d->service = class.service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!service) return decided_pass;
    flow = flow_of_client(p, index);
    if (!flow.cell && !is_dsr(service)) return decided_pass;
    if (!may_enter(service, index, p)) return drop(d, packet_verdict_access_denied);
    struct chosen chosen = {.why = packet_verdict_no_endpoint};
    if (flow.cell)
        read_target(flow.target, &chosen);
    else
        chosen.endpoint =
            pick_endpoint(service, &p->source, p->source_port_be);  // another node may carry it, and the endpoint knows
    const int decided = towards(service, p, &chosen, d);
    return decided == decided_reset ? decided_drop : decided;
}
