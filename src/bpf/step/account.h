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
    const __u64 before = flow_read(flow->cell->traffic);
    __u64 packets = traffic_packets(before) + 1, bytes = traffic_bytes(before) + length;
    if (unlikely(packets > traffic_most_packets || bytes > traffic_most_bytes)) {
        const bool carried = carry(flow, direction, packets, bytes);
        packets = carried ? 0 : packets < traffic_most_packets ? packets : traffic_most_packets;
        bytes = carried ? 0 : bytes < traffic_most_bytes ? bytes : traffic_most_bytes;
    }
    flow_write(flow->cell->traffic, traffic_of(bytes, packets, now_seconds()));
}

// --- the state of a flow -------------------------------------------------------------------------------------------

// Whose endpoints' packets do not come by here.
inlined bool is_dsr(const struct packet_service* service) {
    return service->forwarding >= forwarding_dsr_ipip;
}

// RFC 793's states, as far as it takes to know when a flow is over. Without flags: UDP, or data.
inlined enum flow_state next_state(enum flow_state state, enum flow_direction direction, bool tcp, __u8 flags) {
    if (!tcp) return direction == direction_down && state == flow_opening ? flow_established : state;
    if (flags & tcp_rst) {
        if (state == flow_closed) return state;  // a late packet found its connection gone: it had ended well
        return direction == direction_up ? flow_client_reset : flow_endpoint_reset;
    }
    if (flags & tcp_syn) {
        if (direction == direction_down) return state == flow_opening ? flow_answered : state;
        return state >= flow_closed ? flow_opening : state;  // the client begins anew on the same ports
    }
    if (flags & tcp_fin) {
        const enum flow_state here = direction == direction_up ? flow_client_closed : flow_endpoint_closed;
        const enum flow_state there = direction == direction_up ? flow_endpoint_closed : flow_client_closed;
        return state == there ? flow_closed : state >= flow_closed ? state : here;
    }
    if (direction == direction_up && state == flow_answered) return flow_established;
    // Of a flow that began before it was seen here, the endpoint knows: it is not half open.
    if (direction == direction_down && state == flow_opening) return flow_established;
    return state;
}

// The same where only the client is seen. That it goes on speaking says that it was answered; when it has closed, that
// the endpoint will too, some time after its last acknowledgement.
inlined enum flow_state next_state_alone(enum flow_state state, bool tcp, __u8 flags) {
    if (!tcp || !(flags & (tcp_syn | tcp_fin | tcp_rst))) return state == flow_opening ? flow_established : state;
    if (flags & tcp_rst) return flow_client_reset;
    if (flags & tcp_syn) return state >= flow_client_closed ? flow_opening : state;
    return flow_client_closed;
}

// The client has not shown yet that it is there. An endpoint's answer shows nothing of that.
inlined bool is_half_open(enum flow_state state) {
    return state == flow_opening || state == flow_answered;
}

// A few attempts: whoever comes in between has changed the state too, and so seldom that three do. What is half open no
// more, or again, becomes so in exactly one exchange: their count stays true.
inlined void advance(struct flow_cell* cell, __u32 service, enum flow_direction direction, bool alone, bool tcp,
                     __u8 flags) {
    for (int attempt = 0; attempt < 3; ++attempt) {
        const __u64 target = flow_read(cell->target);
        const enum flow_state state = target >> flow_state_shift;
        const enum flow_state next =
            alone ? next_state_alone(state, tcp, flags) : next_state(state, direction, tcp, flags);
        if (next == state) return;
        const __u64 changed = (target & ~(7ULL << flow_state_shift)) | (__u64)next << flow_state_shift;
        if (__sync_val_compare_and_swap(&cell->target, target, changed) != target) continue;
        if (tcp && is_half_open(state) != is_half_open(next)) count_live(service, 0, is_half_open(next) ? 1 : -1);
        return;
    }
}

inlined void follow_client(const struct packet_service* service, __u32 index, struct found* flow,
                           const struct packet* p) {
    const bool tcp = p->protocol == IPPROTO_TCP;
    if (likely(!(p->tcp_flags & (tcp_syn | tcp_fin | tcp_rst)) && flow->target >> flow_state_shift == flow_established))
        return;
    if (tcp || is_dsr(service)) advance(flow->cell, index, direction_up, is_dsr(service), tcp, p->tcp_flags);
}

// Of the flow whose endpoint's direction has this target. 0: it is gone. A function of its own, for the verifier's
// sake.
__noinline int advance_client(__u64 target, __u32 service, const struct packet* p) {
    struct flow_cell* client = p ? client_cell_of(target, p->v6) : 0;
    if (!client) return 0;
    advance(client, service, direction_down, false, p->protocol == IPPROTO_TCP, p->tcp_flags);
    return 1;
}

// The client's cell holds the state of both directions; an endpoint's packet goes there only when it may change it.
inlined void follow_endpoint(struct found* flow, __u32 service, const struct packet* p) {
    if (likely(!(p->tcp_flags & (tcp_syn | tcp_fin | tcp_rst)) && flow->target & flow_target_answered)) return;
    if (advance_client(flow->target, service, p) && !(flow->target & flow_target_answered))
        __sync_fetch_and_or(&flow->cell->target, flow_target_answered);
}
