// The sweep: goes through the clients' table when user space asks, ends the flows whose time is over, counts those that
// live, and lists a service's on demand. Packets go on meanwhile.
#pragma once

#include "bpf/step/choose.h"

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 22);
} reports SEC(".maps");

// How long a flow in this state may be silent.
inlined __u32 patience(const struct packet_service* service, enum flow_state state) {
    if (state == flow_opening || state == flow_answered) return service->opening_seconds;
    if (state == flow_closed) return closed_flow_seconds;
    if (state == flow_client_reset || state == flow_endpoint_reset) return reset_flow_seconds;
    // Whether the endpoint has closed too is not seen.
    if (state == flow_client_closed && is_dsr(service) && service->idle_seconds > half_closed_flow_seconds)
        return half_closed_flow_seconds;
    return service->idle_seconds;
}

inlined enum packet_verdict end_of(const struct packet_service* service, enum flow_state state) {
    if (state == flow_closed || (state == flow_client_closed && is_dsr(service))) return packet_verdict_finished;
    if (state == flow_client_reset) return packet_verdict_client_reset;
    if (state == flow_endpoint_reset) return packet_verdict_endpoint_reset;
    return packet_verdict_idle_timeout;
}

// A flow as the sweep sees it.
struct swept {
    __u64 identity, target, traffic;
    __u64 back_identity, back_traffic;  // the endpoint's direction; identity 0: there is none
    struct flow_client client;
    __u32 service, silent;
};

inlined void find_back(struct swept* s, const struct packet_service* service) {
    struct chosen c = {0};
    read_target(s->target, &c);
    s->back_identity = 0;
    if (service->forwarding == forwarding_nat) s->back_identity = identity_of_endpoint(c.endpoint, c.source, c.port);
    if (service->forwarding == forwarding_dnat) s->back_identity = s->identity;
    if (!s->back_identity) return;
    const struct found back = find_flow(&endpoint_flows, s->back_identity);
    if (back.cell) s->back_traffic = word_read(back.cell->traffic);
}

inlined void fill_traffic(struct flow_report* r, enum flow_direction direction, __u64 identity, __u64 traffic,
                          bool ended) {
    r->packets[direction] = traffic_packets(traffic);
    r->bytes[direction] = traffic_bytes(traffic);
    const __u64 key = carry_key(identity, direction);
    const struct carried* more = bpf_map_lookup_elem(&carries, &key);
    if (!more) return;
    r->packets[direction] += more->packets;
    r->bytes[direction] += more->bytes;
    if (ended) bpf_map_delete_elem(&carries, &key);
}

// Takes a flow out of its state, so that no packet changes that any more: from established a SYN leads nowhere, and
// what else would, is not to be met in the moment until its cell is free. False: one just did, and it lives.
inlined bool take_out(const struct swept* s, struct flow_cell* cell) {
    const __u64 taken = (s->target & ~(7ULL << flow_state_shift)) | (__u64)flow_established << flow_state_shift;
    return __sync_val_compare_and_swap(&cell->target, s->target, taken) == s->target;
}

// False: the ring buffer is full, or a flow that was to end lives. `ending`: its cell; null: it is listed.
inlined bool report(const struct swept* s, struct flow_cell* ending, enum packet_verdict why) {
    struct flow_report* r = bpf_ringbuf_reserve(&reports, sizeof(*r), 0);
    if (!r) return false;
    const bool ended = ending != 0;
    if (ending && !take_out(s, ending)) {
        bpf_ringbuf_discard(r, 0);
        return false;
    }
    __builtin_memset(r, 0, sizeof(*r));
    r->identity = s->identity;
    r->target = s->target;
    r->service = s->service;
    r->idle_seconds = s->silent;
    const __u64 now = now_seconds();
    r->age_seconds = now - began(s->target, now);
    r->ended = ended;
    r->why = why;
    r->client = s->client.address;
    r->client_port_be = s->client.port_be;
    fill_traffic(r, direction_up, s->identity, s->traffic, ended);
    if (s->back_identity) fill_traffic(r, direction_down, s->back_identity, s->back_traffic, ended);
    bpf_ringbuf_submit(r, 0);
    return true;
}

// Its replies end first, so that none finds half a flow.
inlined void end_flow(const struct swept* s, __u32 number, const struct packet_service* service) {
    if (s->back_identity) {
        const struct found back = find_flow(&endpoint_flows, s->back_identity);
        if (back.cell) remove_endpoint(s->back_identity, cell_index(&back));
    }
    remove_client(s->identity, number);
    count_live(s->service, -1, counts_half_open(service, s->target) ? -1 : 0);
    uncount_source(&s->client.address, s->service, began(s->target, now_seconds()));
    count_ended(s->service, s->target >> flow_endpoint_shift & (max_packet_endpoints - 1));
}

// Of a dead endpoint: whether the client is yet to be told, which it is with the next packet that it sends
// (step/reset.h). Others are better off with another endpoint, which they get with the next packet.
inlined bool awaits_reset(const struct packet_service* service, enum flow_state state) {
    return service->protocol == IPPROTO_TCP &&
           (state == flow_established || state == flow_client_closed || state == flow_endpoint_closed);
}

// Whether a flow is over, and why.
inlined bool over(struct swept* s, const struct packet_service* service, __u64 now, enum packet_verdict* why) {
    const enum flow_state state = s->target >> flow_state_shift;
    const __u32 wait = patience(service, state), number = s->target >> flow_endpoint_shift & (max_packet_endpoints - 1);
    const struct packet_endpoint* endpoint = bpf_map_lookup_elem(&endpoints, &number);
    *why = packet_verdict_service_removed;
    // A service that is gone keeps a record without times until its flows have ended.
    if (!service->idle_seconds || !endpoint) return true;
    if (endpoint->flags & endpoint_dead) {
        *why = packet_verdict_endpoint_down;
        return !awaits_reset(service, state) || s->silent >= service->opening_seconds;
    }
    if (!(endpoint->flags & endpoint_in_use)) return true;
    *why = end_of(service, state);
    if (s->silent < wait) return false;
    if (s->back_identity && traffic_silent(s->back_traffic, now) < s->silent)
        s->silent = traffic_silent(s->back_traffic, now);
    return s->silent >= wait;
}

__noinline int visit(__u32 number, struct sweep* run) {
    if (!run) return 0;
    struct flow_cell* cell = cell_at(&client_flows, number);
    if (!cell) return 0;
    struct swept s = {.identity = word_read(cell->identity)};
    if (!s.identity || s.identity & flow_identity_tentative) return 0;
    s.target = word_read(cell->target);
    s.traffic = word_read(cell->traffic);
    if (!read_client(s.identity, s.identity & flow_identity_v6, number, &s.client)) return 0;
    s.service = s.client.service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &s.service);
    if (!service) return 0;

    const __u64 now = now_seconds();
    s.silent = traffic_silent(s.traffic, now);
    const bool asked = run->list_service == s.service || run->list_service == list_all;
    const bool listed = asked && run->listed < run->list_limit;
    if (listed || s.silent >= patience(service, s.target >> flow_state_shift)) find_back(&s, service);
    enum packet_verdict why;
    if (over(&s, service, now, &why)) {
        if (!s.back_identity) find_back(&s, service);
        if (report(&s, cell, why)) {
            end_flow(&s, number, service);
            ++run->ended;
            return 0;
        }
        ++run->kept_back;  // until the next pass, so that no record is lost
    } else if (listed && report(&s, 0, packet_verdict_finished)) {
        ++run->listed;
    }
    ++run->live;
    return 0;
}

// Most cells of most tables are empty: a call for each would be what a pass costs.
static long sweep_bucket(__u32 i, void* context) {
    struct sweep* run = context;
    const __u32 number = run->first_bucket + i;
    struct flow_chunk* chunk = chunk_of(&client_flows, number / flow_buckets);
    const struct flow_bucket* bucket = chunk ? flow_bucket_at(chunk, number % flow_buckets, flow_table.alignment) : 0;
    if (!bucket) return 1;  // past the table
    __u64 used = 0;
    flow_unrolled for (int slot = 0; slot < flow_cells; ++slot) used |=
        flow_differ(word_read(bucket->identity[slot]), 0) << slot;
    if (!used) return 0;
    for (int slot = 0; slot < flow_cells; ++slot)
        if (used >> slot & 1) visit(number * flow_cells + slot, run);
    return 0;
}

SEC("syscall") int sweep(struct sweep* request) {
    struct sweep run = *request;
    bpf_loop(run.buckets < sweep_buckets ? run.buckets : sweep_buckets, sweep_bucket, &run, 0);
    *request = run;
    return 0;
}
