// choose: the flow a packet belongs to, or the endpoint for a new one.
#pragma once

#include "bpf/lib/flows.h"
#include "bpf/step/account.h"
#include "bpf/step/admit.h"
#include "bpf/step/classify.h"

struct chosen {
    __u32 endpoint;  // 0: none, and `why`
    __u32 source;    // nat: place of the source address
    __u16 port;      // nat: the port at it
    enum packet_verdict why;
};

// The flow that a client's packet belongs to; cell null: none. Of an IPv6 client the identity is a hash, which another
// client may share.
inlined struct found flow_of_client(const struct packet* p, __u32 service) {
    struct found flow = find_flow(&client_flows, identity_of_client(&p->source, p->source_port_be, service, p->v6));
    if (flow.cell && p->v6 && !is_client(client_entry(cell_index(&flow)), p, service)) flow.cell = 0;
    return flow;
}

// Where a client stands in the Maglev table of its service: a pure function of packet and snapshot, so that every node
// that shares the service's seed chooses alike. By the address alone it is routing/maglev.h's maglev_hash.
enum { maglev_use_client = 3, maglev_use_client_and_port = 4 };

inlined __u32 pick_endpoint(const struct packet_service* service, const struct address* client, __u16 port_be) {
    const __u32 first = service->ring >> 32, slots = (__u32)service->ring;
    if (!slots) return 0;
    const __u64 hash =
        service->flags & service_by_client
            ? siphash_2(service->seed, maglev_use_client, client->word[0], client->word[1])
            : siphash_3(service->seed, maglev_use_client_and_port, client->word[0], client->word[1], port_be);
    const __u32 slot = first + (__u32)(hash % slots);
    const __u32* endpoint = bpf_map_lookup_elem(&maglev, &slot);
    return endpoint ? *endpoint : 0;
}

inlined __u64 target_of_client(enum flow_state state, const struct chosen* c, __u64 seconds) {
    return (__u64)state << flow_state_shift | (__u64)c->endpoint << flow_endpoint_shift |
           (__u64)c->source << flow_source_shift | (__u64)c->port << flow_port_shift | (seconds & flow_start_mask);
}

inlined void read_target(__u64 target, struct chosen* c) {
    c->endpoint = target >> flow_endpoint_shift & (max_packet_endpoints - 1);
    c->source = target >> flow_source_shift & (max_source_addresses - 1);
    c->port = target >> flow_port_shift & 0xffff;
}

// --- new flows -----------------------------------------------------------------------------------------------------

// A port of ours for the flow: that its identity is not in the endpoints' table yet is what makes it free. The client's
// own port is tried first (RFC 4787 4.2.1, port preservation where it costs nothing), then such as the flow's identity
// leads to.
enum { port_attempts = 32 };

// Whether a service listens there: what came to that port would be a client's.
__noinline int serves(__u32 source, __u32 port, __u32 protocol) {
    const __u32 zero = 0;
    const struct address* address = bpf_map_lookup_elem(&source_addresses, &source);
    void* inner = bpf_map_lookup_elem(&directory, &zero);
    struct directory* d = inner ? bpf_map_lookup_elem(inner, &zero) : 0;
    __u8 kind = 0;
    return d && address && look_up(d, address, bpf_htons(port), protocol, &kind) && kind == directory_service;
}

inlined bool find_port(const struct packet_endpoint* endpoint, __u16 wanted, __u64 identity, __u64 target,
                       __u64 seconds, struct chosen* c) {
    __u64 draw = identity;
    for (int attempt = 0; attempt < port_attempts; ++attempt) {
        draw = (draw + attempt) * 0x9e3779b97f4a7c15ULL;
        draw ^= draw >> 32;
        c->source = endpoint->source_first + (__u32)((draw & 0xff) * endpoint->source_count >> 8);
        c->port = nat_port_first + (__u32)((draw >> 32) * nat_ports >> 32);
        if (attempt == 0) c->source = endpoint->source_first;
        if (attempt == 0 && (__u16)(wanted - nat_port_first) < nat_ports) c->port = wanted;
        if (endpoint->flags & endpoint_shares && serves(c->source, c->port, endpoint->protocol)) continue;
        if (publish_endpoint(identity_of_endpoint(c->endpoint, c->source, c->port), target, seconds) >= 0) return true;
    }
    return false;
}

// The endpoint's direction of a new flow. False: no port, or no cell.
inlined bool begin_back(const struct packet_service* service, const struct packet_endpoint* endpoint,
                        const struct packet* p, __u64 identity, __u32 cell, __u64 seconds, struct chosen* c) {
    const __u64 target = p->v6 ? cell : identity;
    if (service->forwarding == forwarding_nat) {
        c->why = packet_verdict_local_ports;
        return find_port(endpoint, bpf_ntohs(p->source_port_be), identity, target, seconds, c);
    }
    if (service->forwarding != forwarding_dnat) return true;
    c->why = packet_verdict_table_full;
    return publish_endpoint(identity, target, seconds) != -flow_full;
}

inlined void remember_client(__u32 cell, const struct packet* p, __u32 service) {
    struct flow_client* entry = client_entry(cell);
    if (!entry) return;
    entry->address = p->source;
    entry->port_be = p->source_port_be;
    entry->service = service;
}

// A client that begins anew on the ports of a flow that is over.
inlined bool begins_anew(const struct packet_service* service, const struct packet* p, __u64 target) {
    return unlikely(is_first_syn(p->tcp_flags)) &&
           target >> flow_state_shift >= (is_dsr(service) ? flow_client_closed : flow_closed);
}
inlined bool endpoint_takes_flows(__u32 number) {
    const struct packet_endpoint* endpoint = bpf_map_lookup_elem(&endpoints, &number);
    return endpoint && endpoint->flags & endpoint_takes;
}

// Where to a flow that is there already goes on, if need be anew, to the same endpoint. One that takes no new flows is
// changed for another where nothing else depends on it (dsr); else the client has to ask again when the sweep has taken
// the old flow away, in seconds.
inlined struct chosen go_on(const struct packet_service* service, __u32 index, struct found* flow,
                            const struct packet* p) {
    struct chosen c = {.why = packet_verdict_no_endpoint};
    read_target(flow->target, &c);
    if (begins_anew(service, p, flow->target) && !endpoint_takes_flows(c.endpoint)) {
        const __u32 other = is_dsr(service) ? pick_endpoint(service, &p->source, p->source_port_be) : 0;
        const __u64 target = (flow->target & ~((max_packet_endpoints - 1ULL) << flow_endpoint_shift)) |
                             (__u64)other << flow_endpoint_shift;
        c.endpoint = 0;
        if (!other || __sync_val_compare_and_swap(&flow->cell->target, flow->target, target) != flow->target) return c;
        count_ended(index, flow->target >> flow_endpoint_shift & (max_packet_endpoints - 1));
        count_flow(index, other);
        c.endpoint = other;
        flow->target = target;
    }
    follow_client(service, index, flow, p);
    count_in_flow(flow, direction_up, p->length);
    return c;
}

// Begins a flow, or goes on with one that is over. What cannot have one, the table being full, is chosen for packet by
// packet where the endpoint sees the client itself; with nat it cannot, as nobody would know the way back.
inlined struct chosen begin_flow(const struct packet_service* service, __u32 index, const struct packet* p) {
    struct chosen c = {.why = packet_verdict_no_endpoint};
    const __u32 number = pick_endpoint(service, &p->source, p->source_port_be);
    const struct packet_endpoint* endpoint = bpf_map_lookup_elem(&endpoints, &number);
    if (!number || !endpoint) return c;
    c.endpoint = number;

    const __u64 identity = identity_of_client(&p->source, p->source_port_be, index, p->v6), seconds = now_seconds();
    if (service->forwarding == forwarding_nat)
        touch_endpoint(identity_of_endpoint(number, endpoint->source_first, bpf_ntohs(p->source_port_be)));
    const int claimed = insert_client(identity, 0, seconds);
    if (claimed < 0) {  // it is there, or another CPU begins it in this moment
        struct found other = flow_of_client(p, index);
        if (other.cell) return go_on(service, index, &other, p);
    }
    struct flow_cell* cell = claimed < 0 ? 0 : cell_at(&client_flows, claimed);
    if (!cell) {
        c.why = packet_verdict_table_full;
        if (service->forwarding == forwarding_nat) c.endpoint = 0;
        if (c.endpoint) count_stateless(index);
        return c;
    }
    if (p->v6) remember_client(claimed, p, index);
    if (!begin_back(service, endpoint, p, identity, claimed, seconds, &c)) {
        remove_client(identity, claimed);
        c.endpoint = 0;
        return c;
    }
    if (service->forwarding != forwarding_nat && p->protocol == IPPROTO_TCP && !is_first_syn(p->tcp_flags))
        c.port = flow_taken_up;
    const __u64 target = target_of_client(flow_opening, &c, seconds);
    word_write(cell->target, target);
    word_write(cell->traffic, traffic_of(p->length, 1, seconds));
    // Before anybody can see it, and end it.
    count_live(index, 1, counts_half_open(service, target));
    if (service->flags & service_limits_flows) count_source(&p->source, index, seconds);
    flow_publish(cell, identity);
    count_flow(index, c.endpoint);
    return c;
}

// --- any packet ----------------------------------------------------------------------------------------------------

enum belonging {
    belongs_nowhere,
    belongs,
    belongs_anew,  // to a flow that is over
};

// The flow it belongs to.
inlined enum belonging choose_by_flow(const struct packet_service* service, __u32 index, const struct packet* p,
                                      struct found* flow, struct chosen* c) {
    *flow = flow_of_client(p, index);
    if (!flow->cell) return belongs_nowhere;
    if (begins_anew(service, p, flow->target)) return belongs_anew;
    read_target(flow->target, c);
    return belongs;
}

// Whether a packet that belongs to none may begin one.
inlined bool begins_flow(const struct packet_service* service, const struct packet* p) {
    if (p->protocol == IPPROTO_UDP || is_first_syn(p->tcp_flags)) return true;
    // Where the endpoint sees the client itself, another node may have begun the flow, or this one before a restart.
    return service->forwarding != forwarding_nat && !(p->tcp_flags & tcp_rst);
}
