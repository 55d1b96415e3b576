// The packet plane's programs: the five steps, at XDP and at TC.
//
//   parse    the frame becomes a struct packet                                              lib/packet.h
//   decide   classify, admit, choose: who it is, and what it is to become; no access to the frame     step/*.h
//   forward  the frame is rewritten and sent                                                step/forward.h
//   answer   what is asked of a service's address itself: is it there, and where   step/echo.h, step/resolve.h
//
// decide() and begin() are functions of their own, which the verifier goes through once, for any packet.
#include "bpf/step/account.h"
#include "bpf/step/admit.h"
#include "bpf/step/choose.h"
#include "bpf/step/classify.h"
#include "bpf/step/echo.h"
#include "bpf/step/forward.h"
#include "bpf/step/resolve.h"
#include "bpf/sweep.h"

// The shapes that no map's type and no function names: by this pointer, which nobody reads, BTF has them too, and
// packet/abi_test.cc can compare them.
union shapes {
    struct directory directory;
    struct flow_bucket bucket;
    struct flow_chunk chunk;
    struct flow_client_chunk clients;
    struct flow_report report;
    struct neighbour_report neighbour;
};
const volatile union shapes* const volatile shapes = 0;

enum decided { decided_pass, decided_drop, decided_forward, decided_begin };

struct decision {
    struct rewriting to;
    __u32 service, endpoint;
    enum flow_direction direction;
    enum packet_verdict why;  // of decided_drop
};

inlined int drop(struct decision* d, enum packet_verdict why) {
    d->why = why;
    return decided_drop;
}

// What a client's packet becomes.
inlined int towards(const struct packet_service* service, const struct packet* p, const struct chosen* chosen,
                    struct decision* d) {
    if (!chosen->endpoint) return drop(d, chosen->why);
    const struct packet_endpoint* endpoint = bpf_map_lookup_elem(&endpoints, &chosen->endpoint);
    if (!endpoint || !(endpoint->flags & endpoint_in_use)) return drop(d, packet_verdict_no_endpoint);
    d->endpoint = chosen->endpoint;
    d->direction = direction_up;
    d->to.destination = endpoint->address;
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
    if (p->hop_limit <= 1) return drop(d, packet_verdict_hop_limit);
    if (!may_enter(service, index, p)) return drop(d, packet_verdict_access_denied);
    struct chosen chosen = {0};
    if (likely(choose_by_flow(index, p, &chosen))) return towards(service, p, &chosen, d);
    if (!begins_flow(service, p)) return drop(d, packet_verdict_no_flow);
    const int why = may_begin(service, index);
    return why == admitted ? decided_begin : drop(d, why);
}

__noinline int begin(const struct packet* p, struct decision* d) {
    if (!p || !d) return decided_pass;
    const __u32 index = d->service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!service) return decided_pass;
    const struct chosen chosen = begin_flow(service, index, p);
    return towards(service, p, &chosen, d);
}

inlined int from_endpoint(const struct packet* p, const struct classified* class, struct decision* d) {
    __u64 identity;
    if (class->source) {
        identity = identity_of_endpoint(class->endpoint, class->source, bpf_ntohs(p->destination_port_be));
    } else {
        const struct packet_endpoint* endpoint = bpf_map_lookup_elem(&endpoints, &class->endpoint);
        if (!endpoint || !endpoint->dnat_service) return decided_pass;
        identity = identity_of_client(&p->destination, p->destination_port_be, endpoint->dnat_service, p->v6);
    }
    struct found flow = find_flow(&endpoint_flows, identity);
    struct flow_client to;
    if (!flow.cell || !read_client(flow.target, p->v6, (__u32)flow.target, &to))
        return decided_pass;  // the machine's own traffic with it
    if (!class->source && !same_address(&to.address, &p->destination)) return decided_pass;
    const __u32 index = to.service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!service) return decided_pass;

    d->service = index;
    if (p->hop_limit <= 1) return drop(d, packet_verdict_hop_limit);

    follow_endpoint(&flow, p);
    count_in_flow(&flow, direction_down, p->length);
    d->endpoint = class->endpoint;
    d->direction = direction_down;
    d->to.source = service->address;
    d->to.source_port_be = service->port_be;
    d->to.destination = to.address;
    d->to.destination_port_be = to.port_be;
    return decided_forward;
}

__noinline int decide(const struct packet* p, struct decision* d) {
    if (!p || !d) return decided_pass;
    const struct classified class = classify(p);
    if (class.is == class_client) return from_client(p, &class, d);
    if (class.is == class_endpoint) return from_endpoint(p, &class, d);
    return decided_pass;
}

// Nothing is written before it is known that the packet can go.
inlined enum outcome forward(void* context, enum hook hook, struct cursor frame, const struct packet* p,
                             const struct decision* d) {
    const __u32 slot = d->direction == direction_up ? d->endpoint : hop_slot_of_client(&d->to.destination);
    struct next_hop* hop = bpf_map_lookup_elem(&next_hops, &slot);
    if (!hop) return refuse(d->service, packet_verdict_internal_error);
    const enum hop_state state = next_hop_to(context, hook, p, &d->to, hop);
    if (state == hop_none) return refuse(d->service, packet_verdict_no_route);
    if (hook == hook_xdp && state == hop_unresolved) return refuse(d->service, packet_verdict_no_neighbour);
    __u64 difference;
    if (!rewrite_network(frame, p, &d->to, &difference) ||
        !rewrite_transport(context, hook, frame, p, &d->to, difference))
        return refuse(d->service, packet_verdict_internal_error);
    count_packet(d->service, d->endpoint, d->direction, p->length);
    return state == hop_known ? send(context, hook, hop) : outcome_redirect;
}

// What is no flow's, and yet may be asked of a service's address.
inlined enum outcome answer(void* context, enum hook hook, enum parsed what, const struct packet* p, __u32 size) {
    if (what == parsed_malformed) return refuse(0, packet_verdict_malformed);
    if (what == parsed_echo) return answer_echo(context, hook, p);
    if (what == parsed_arp) return answer_arp(context, hook, p);
    if (what == parsed_solicitation) return answer_solicitation(context, hook, p, size);
    return outcome_pass;
}

inlined enum outcome process(void* context, enum hook hook, struct cursor frame, __u32 size) {
    struct packet p = {0};
    const enum parsed what = parse(frame, size, &p);
    if (unlikely(what != parsed_flow)) return answer(context, hook, what, &p, size);
    struct decision d = {0};
    int decided = decide(&p, &d);
    if (unlikely(decided == decided_begin)) decided = begin(&p, &d);
    if (decided == decided_pass) return outcome_pass;
    if (decided == decided_drop) return refuse(d.service, d.why);
    return forward(context, hook, frame, &p, &d);
}

SEC("xdp") int packet_xdp(struct xdp_md* context) {
    const struct cursor frame = frame_of(context, hook_xdp);
    return hook_code(hook_xdp, process(context, hook_xdp, frame, frame.end - frame.at));
}

SEC("tc") int packet_tc(struct __sk_buff* context) {
    return hook_code(hook_tc, process(context, hook_tc, frame_of(context, hook_tc), context->len));
}

char LICENSE[] SEC("license") = "GPL";
