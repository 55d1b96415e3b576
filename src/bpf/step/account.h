// account: counters a CPU and a service, and what each direction of a flow carried. Every packet of a service leaves
// through one of the functions here.
#pragma once

#include "bpf/lib/flows.h"
#include "bpf/lib/hook.h"
#include "bpf/lib/packet.h"

// Ends a packet: counted under its reason, by service (0: none).
inlined enum outcome refuse(__u32 service, enum packet_verdict why) {
    struct packet_counters* counts = bpf_map_lookup_elem(&service_counts, &service);
    __u64 reason = why;
    bounded(reason);
    if (counts && reason < packet_verdicts) ++counts->dropped[reason];
    return outcome_drop;
}

inlined void count_packet(__u32 service, __u32 endpoint, __u64 direction, __u32 length) {
    direction &= 1;
    bounded(direction);
    if (direction > direction_down) return;  // for the verifier
    struct packet_counters* counts = bpf_map_lookup_elem(&service_counts, &service);
    if (counts) {
        ++counts->packets[direction];
        counts->bytes[direction] += length;
    }
    struct endpoint_counters* of_endpoint = bpf_map_lookup_elem(&endpoint_counts, &endpoint);
    if (of_endpoint) {
        ++of_endpoint->packets[direction];
        of_endpoint->bytes[direction] += length;
    }
}

inlined void count_flow(__u32 service, __u32 endpoint) {
    struct packet_counters* counts = bpf_map_lookup_elem(&service_counts, &service);
    if (counts) ++counts->flows;
    struct endpoint_counters* of_endpoint = bpf_map_lookup_elem(&endpoint_counts, &endpoint);
    if (of_endpoint) ++of_endpoint->flows;
}

inlined void count_ended(__u32 service, __u32 endpoint) {
    struct packet_counters* counts = bpf_map_lookup_elem(&service_counts, &service);
    if (counts) ++counts->ended;
    struct endpoint_counters* of_endpoint = bpf_map_lookup_elem(&endpoint_counts, &endpoint);
    if (of_endpoint) ++of_endpoint->ended;
}

inlined void count_stateless(__u32 service) {
    struct packet_counters* counts = bpf_map_lookup_elem(&service_counts, &service);
    if (counts) ++counts->stateless;
}

// --- what limits are measured by -----------------------------------------------------------------------------------

ARRAY_OF(admissions, struct admission, max_packet_services);

// Two CPUs may both see the last free place: the limit can be passed by as many flows as there are CPUs.
inlined void count_live(__u32 service, __s64 live, __s64 half_open) {
    struct admission* state = bpf_map_lookup_elem(&admissions, &service);
    if (state) __sync_fetch_and_add(&state->live, live + (half_open << admission_half_open_shift));
}

// Adds a packet to its cell. Not atomic: a direction of a flow comes in by one queue, on one CPU. Where it does come by
// two, its record may miss packets; the counters of services and endpoints are exact either way.
//
// What the word cannot hold is carried. Where there is no room for that, what overflowed stays at its most, the second
// goes on, and each further packet tries again: such a flow's record says too little, but says that it was much.
inlined void count_in_flow(struct found* flow, enum flow_direction direction, __u32 length) {
    const __u64 before = word_read(flow->cell->traffic);
    __u64 packets = traffic_packets(before) + 1, bytes = traffic_bytes(before) + length;
    if (unlikely(packets > traffic_most_packets || bytes > traffic_most_bytes)) {
        const bool carried = carry(flow, direction, packets, bytes);
        packets = carried ? 0 : packets < traffic_most_packets ? packets : traffic_most_packets;
        bytes = carried ? 0 : bytes < traffic_most_bytes ? bytes : traffic_most_bytes;
    }
    word_write(flow->cell->traffic, traffic_of(bytes, packets, now_seconds()));
}

// --- the state of a flow -------------------------------------------------------------------------------------------

// Whose endpoints' packets do not come by here.
inlined bool is_dsr(const struct packet_service* service) {
    return service->forwarding >= forwarding_dsr_ipip;
}

// A flow whose client has not shown yet that it is there: anybody could have written its packets in its name.
inlined bool is_half_open(__u64 target) {
    const enum flow_state state = target >> flow_state_shift;
    return state == flow_opening || state == flow_answered;
}

// Not begun here: it came with what was no SYN.
inlined bool is_taken_up(const struct packet_service* service, __u64 target) {
    return service->forwarding != forwarding_nat && target >> flow_port_shift & flow_taken_up;
}

// Whether it counts as half open. What other nodes had does not: it is not what a flood of SYNs leaves behind, and may
// come all at once when one of them fails.
inlined bool counts_half_open(const struct packet_service* service, __u64 target) {
    return service->protocol == IPPROTO_TCP && is_half_open(target) && !is_taken_up(service, target);
}

// When a flow began, in seconds.
inlined __u64 began(__u64 target, __u64 now) {
    const bool answered = target >> flow_state_shift == flow_answered;
    return now - ((now - target) & (answered ? (1 << flow_wanted_shift) - 1 : flow_start_mask));
}

inlined bool has_payload(const struct packet* p) {
    return p->length > (__u32)(p->transport - p->network) + p->transport_header;
}

// What a client says on a half-open flow. That it is there it shows by knowing what the endpoint said; its RST could be
// anybody's, and leaves the flow to its patience.
inlined enum flow_state client_confirms(enum flow_state state, __u64 target, const struct packet* p) {
    if (state != flow_answered || p->tcp_flags & (tcp_syn | tcp_rst) || !(p->tcp_flags & tcp_ack)) return state;
    if ((target >> flow_wanted_shift ^ p->tcp_number) & flow_wanted_mask) return state;
    return p->tcp_flags & tcp_fin ? flow_client_closed : flow_established;
}

// What an endpoint says on one. It has data for whom it believes to be there, by TCP Fast Open also before it heard
// from the client again. An acknowledgement alone may be its answer to a packet that it found wrong (RFC 5961); of a
// flow that began elsewhere it says that the endpoint knows it.
inlined enum flow_state endpoint_confirms(enum flow_state state, const struct packet* p, bool taken_up) {
    if (p->tcp_flags & tcp_rst) return flow_endpoint_reset;
    if (p->tcp_flags & tcp_syn) return flow_answered;
    if (p->tcp_flags & tcp_fin) return flow_endpoint_closed;
    return taken_up || has_payload(p) ? flow_established : state;
}

// RFC 9293's states, as far as it takes to know when a flow is over.
inlined enum flow_state next_state(enum flow_state state, enum flow_direction direction, __u8 flags) {
    if (flags & tcp_rst) {
        if (state == flow_closed) return state;  // a late packet found its connection gone: it had ended well
        return direction == direction_up ? flow_client_reset : flow_endpoint_reset;
    }
    if (is_first_syn(flags) && direction == direction_up && state >= flow_closed)
        return flow_opening;  // the client begins anew on the same ports
    if (!(flags & tcp_fin)) return state;
    const enum flow_state here = direction == direction_up ? flow_client_closed : flow_endpoint_closed;
    const enum flow_state there = direction == direction_up ? flow_endpoint_closed : flow_client_closed;
    return state == there ? flow_closed : state >= flow_closed ? state : here;
}

// The same where only the client is seen. That it goes on speaking, after a SYN and an acknowledgement of what came
// back, has to do for its being there; when it has closed, the endpoint will too, some time after its last
// acknowledgement. `packets`: the flow's before this one.
inlined enum flow_state next_state_alone(enum flow_state state, bool tcp, __u8 flags, __u64 packets) {
    if (!tcp) return flow_established;
    if (state == flow_opening && packets < 2) return state;
    if (flags & tcp_rst) return flow_client_reset;
    if (is_first_syn(flags)) return state >= flow_client_closed ? flow_opening : state;
    if (flags & tcp_fin) return flow_client_closed;
    return state == flow_opening ? flow_established : state;
}

// The target of a client's direction after this packet.
inlined __u64 next_target(const struct packet_service* service, const struct found* flow, __u64 target,
                          enum flow_direction direction, const struct packet* p) {
    const enum flow_state state = target >> flow_state_shift;
    const bool tcp = p->protocol == IPPROTO_TCP, taken_up = is_taken_up(service, target);
    enum flow_state next;
    if (is_dsr(service))
        next = next_state_alone(state, tcp, p->tcp_flags, traffic_packets(word_read(flow->cell->traffic)));
    else if (!tcp)
        next = direction == direction_down && state == flow_opening ? flow_established : state;
    else if (!is_half_open(target))
        next = next_state(state, direction, p->tcp_flags);
    else
        next = direction == direction_up ? client_confirms(state, target, p) : endpoint_confirms(state, p, taken_up);
    const bool answered = next == flow_answered && direction == direction_down && p->tcp_flags & tcp_syn;
    if (next == state && !answered) return target;
    __u64 since = began(target, now_seconds()) & flow_start_mask;
    if (answered)
        since = (p->tcp_number & flow_wanted_mask) << flow_wanted_shift | (since & ((1 << flow_wanted_shift) - 1));
    target &= ~(7ULL << flow_state_shift | flow_start_mask);
    if (taken_up && next == flow_opening) target &= ~((__u64)flow_taken_up << flow_port_shift);
    return target | (__u64)next << flow_state_shift | since;
}

// Twice: whoever comes in between has changed the state too, and so seldom that two do. What is half open no
// more, or again, becomes so in exactly one exchange: their count stays true.
inlined void advance(const struct packet_service* service, __u32 index, const struct found* flow,
                     enum flow_direction direction, const struct packet* p) {
    __u64 target = flow->target;
#pragma unroll  // Linux 6.1 takes no loop whose last instruction before its head is not a jump
    for (int attempt = 0; attempt < 2; ++attempt) {
        const __u64 next = next_target(service, flow, target, direction, p);
        if (next == target) return;
        const __u64 met = __sync_val_compare_and_swap(&flow->cell->target, target, next);
        if (met == target) {
            const __s64 more = counts_half_open(service, next) - counts_half_open(service, target);
            if (more) count_live(index, 0, more);
            return;
        }
        if (!is_still(flow)) return;
        target = met;
    }
}

// A client that has been told that its endpoint is dead: the sweep need not wait for it.
inlined void note_reset_client(const struct found* flow) {
    if (is_half_open(flow->target)) return;
    const __u64 next = (flow->target & ~(7ULL << flow_state_shift)) | (__u64)flow_endpoint_reset << flow_state_shift;
    __sync_val_compare_and_swap(&flow->cell->target, flow->target, next);
}

inlined void follow_client(const struct packet_service* service, __u32 index, struct found* flow,
                           const struct packet* p) {
    if (likely(!(p->tcp_flags & (tcp_syn | tcp_fin | tcp_rst)) && flow->target >> flow_state_shift == flow_established))
        return;
    if (p->protocol == IPPROTO_TCP || is_dsr(service)) advance(service, index, flow, direction_up, p);
}

// Of the flow whose endpoint's direction has this target. Whether what the endpoint says matters no more, flags apart.
// A function of its own, for the verifier's sake.
__noinline int advance_client(__u64 target, __u32 index, const struct packet* p) {
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    if (!p || !service) return 0;
    const struct found client = client_flow_of(target, p->v6);
    if (!client.cell) return 0;
    advance(service, index, &client, direction_down, p);
    return !is_half_open(word_read(client.cell->target));
}

// The client's cell holds the state of both directions; an endpoint's packet goes there only when it may change it.
inlined void follow_endpoint(struct found* flow, __u32 service, const struct packet* p) {
    if (likely(!(p->tcp_flags & (tcp_syn | tcp_fin | tcp_rst)) && flow->target & flow_target_settled)) return;
    if (advance_client(flow->target, service, p) && !(flow->target & flow_target_settled))
        __sync_fetch_and_or(&flow->cell->target, flow_target_settled);
}
