// The two flow tables in their maps: finding, beginning and carrying.
#pragma once

#include "bpf/lib/flow_table.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/packet.h"
#include "bpf/lib/siphash.h"

struct found {
    struct flow_cell* cell;  // null: none
    struct flow_chunk* chunk;
    struct flow_place place;
    __u64 identity, target;
};

inlined struct flow_chunk* chunk_of(void* table, __u32 chunk) {
    const __u32 zero = 0;
    void* inner = bpf_map_lookup_elem(table, &chunk);
    return inner ? bpf_map_lookup_elem(inner, &zero) : 0;
}

inlined struct found find_flow(void* table, __u64 identity) {
    struct found found = {0};
    found.identity = identity;
    found.place = flow_place_of(identity, &flow_table);
    found.chunk = chunk_of(table, found.place.chunk);
    if (found.chunk) found.cell = flow_find_in(found.chunk, identity, found.place, flow_table.alignment, &found.target);
    return found;
}

// Whether its cell is not another flow's by now.
inlined bool is_still(const struct found* f) {
    return word_read(f->cell->identity) == f->identity;
}

inlined __u32 cell_index(const struct found* f) {
    return flow_cell_index(f->place, f->chunk, f->cell, flow_table.alignment);
}

// --- identities ----------------------------------------------------------------------------------------------------

inlined __u64 identity_of_client(const struct address* client, __u16 port_be, __u32 service, bool v6) {
    const __u64 port_and_service = (__u64)bpf_ntohs(port_be) << 14 | service;
    if (!v6) return (__u64)bpf_ntohl(unmapped(client)) << 30 | port_and_service;
    const __u64 hash =
        siphash_3(flow_table.key[1], flow_table.key[0], client->word[0], client->word[1], port_and_service);
    return flow_identity_v6 | (hash & ~(flow_identity_v6 | flow_identity_tentative));
}

inlined __u64 identity_of_endpoint(__u32 endpoint, __u32 source, __u16 port) {
    return (__u64)endpoint << 22 | (__u64)source << 16 | port;
}

// --- IPv6 clients --------------------------------------------------------------------------------------------------

inlined struct flow_client* client_entry(__u32 cell) {
    const __u32 chunk = cell / flow_chunk_cells, zero = 0;
    __u64 place = cell % flow_chunk_cells;
    void* inner = bpf_map_lookup_elem(&clients, &chunk);
    struct flow_client_chunk* entries = inner ? bpf_map_lookup_elem(inner, &zero) : 0;
    bounded(place);
    if (!entries || place >= flow_chunk_cells) return 0;
    return &entries->cell[place];
}

// Whether the cell that an IPv6 client's hash led to is this client's.
inlined bool is_client(const struct flow_client* entry, const struct packet* p, __u32 service) {
    return entry && same_address(&entry->address, &p->source) && entry->port_be == p->source_port_be &&
           entry->service == service;
}

// Who a client's direction belongs to. `word`: its identity, or without flow_target_settled the target of the
// endpoint's direction, which both hold the whole of an IPv4 client; `cell`: its number, beside which an IPv6 client is
// kept.
inlined bool read_client(__u64 word, bool v6, __u32 cell, struct flow_client* client) {
    if (!v6) {
        client->address = mapped(bpf_htonl((__u32)(word >> 30)));
        client->port_be = bpf_htons((__u16)(word >> 14));
        client->service = word & (max_packet_services - 1);
        return true;
    }
    const struct flow_client* entry = client_entry(cell);
    if (!entry) return false;
    *client = *entry;
    return true;
}

inlined struct flow_cell* cell_at(void* table, __u32 cell) {
    struct flow_chunk* chunk = chunk_of(table, cell / flow_chunk_cells);
    if (!chunk) return 0;
    const __u32 place = cell % flow_chunk_cells;
    struct flow_bucket* bucket = flow_bucket_at(chunk, place / flow_cells, flow_table.alignment);
    return bucket ? flow_cell_at(bucket, place % flow_cells) : 0;
}

// A flow by its client's cell, from the target of its endpoint's.
inlined struct found client_flow_of(__u64 target, bool v6) {
    target &= ~flow_target_settled;
    if (!v6) return find_flow(&client_flows, target);
    struct found flow = {.cell = cell_at(&client_flows, (__u32)target)};
    if (!flow.cell) return flow;
    flow.identity = word_read(flow.cell->identity);
    flow.target = word_read(flow.cell->target);
    return flow;
}

// --- beginning -----------------------------------------------------------------------------------------------------
//
// Functions of their own for each table, not inlined, so that the verifier goes through each once, and through their
// products not at all; a table that is a variable would cost a call for each access.

// Fetches the lines of an endpoint's direction's first choice, as flow_find_in has done with the client's. An
// insertion's atomic operations wait for one another's, and for every line written before; without this they wait for
// them in turn.
__noinline int touch_endpoint(__u64 identity) {
    const struct flow_place place = flow_place_of(identity, &flow_table);
    struct flow_chunk* chunk = chunk_of(&endpoint_flows, place.chunk);
    struct flow_bucket* bucket = chunk ? flow_bucket_at(chunk, place.bucket, flow_table.alignment) : 0;
    if (!bucket) return 0;
    flow_fetch(bucket);
    return (int)(word_read(bucket->identity[0]) + flow_passed(chunk, place.bucket));
}

// The number of a cell that is now tentative, or -flow_full.
inlined int claim(void* table, __u64 identity, __u64 target, __u64 seconds) {
    const struct flow_place place = flow_place_of(identity, &flow_table);
    struct flow_chunk* chunk = chunk_of(table, place.chunk);
    struct flow_cell* cell =
        chunk ? flow_claim(chunk, identity, place, flow_table.alignment, target, traffic_of(0, 0, seconds)) : 0;
    return cell ? (int)flow_cell_index(place, chunk, cell, flow_table.alignment) : -flow_full;
}

inlined int count(void* table, __u64 identity) {
    const struct flow_place place = flow_place_of(identity, &flow_table);
    struct flow_chunk* chunk = chunk_of(table, place.chunk);
    return chunk ? flow_count_of(chunk, identity, place, flow_table.alignment) : 0;
}

inlined int full(void* table, __u64 identity) {
    const struct flow_place place = flow_place_of(identity, &flow_table);
    struct flow_chunk* chunk = chunk_of(table, place.chunk);
    return chunk ? flow_is_full(chunk, place, flow_table.alignment) : 0;
}

inlined int remove(void* table, __u64 identity, __u32 number) {
    const struct flow_place place = flow_place_of(identity, &flow_table);
    struct flow_chunk* chunk = chunk_of(table, place.chunk);
    struct flow_cell* cell = cell_at(table, number);
    if (chunk && cell) flow_remove(chunk, place, cell, flow_table.alignment);
    return 0;
}

#define TABLE_FUNCTIONS(name)                                                                                       \
    __noinline int claim_##name(__u64 identity, __u64 target, __u64 seconds) {                                      \
        return claim(&name##_flows, identity, target, seconds);                                                     \
    }                                                                                                               \
    __noinline int count_##name(__u64 identity) {                                                                   \
        return count(&name##_flows, identity);                                                                      \
    }                                                                                                               \
    __noinline int full_##name(__u64 identity) {                                                                    \
        return full(&name##_flows, identity);                                                                       \
    }                                                                                                               \
    __noinline int remove_##name(__u64 identity, __u32 number) {                                                    \
        return remove(&name##_flows, identity, number);                                                             \
    }                                                                                                               \
    /* The number of a cell that holds the identity alone and is still tentative, or -flow_exists or -flow_full. */ \
    inlined int insert_##name(__u64 identity, __u64 target, __u64 seconds) {                                        \
        const int number = claim_##name(identity, target, seconds);                                                 \
        if (number < 0 || count_##name(identity) == 1) return number;                                               \
        remove_##name(identity, number);                                                                            \
        return -flow_exists;                                                                                        \
    }
TABLE_FUNCTIONS(client)
TABLE_FUNCTIONS(endpoint)

// Inserts and shows it at once.
inlined int publish_endpoint(__u64 identity, __u64 target, __u64 seconds) {
    const int number = insert_endpoint(identity, target, seconds);
    struct flow_cell* cell = number < 0 ? 0 : cell_at(&endpoint_flows, number);
    if (cell) flow_publish(cell, identity);
    return number;
}

// --- what a traffic word cannot hold -------------------------------------------------------------------------------

struct carried {
    __u64 packets, bytes;
};
// An entry takes memory once it is used; of the others there are only the buckets, 16 bytes each.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, carry_slots);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64);  // identity; an endpoint's with the tentative bit
    __type(value, struct carried);
} carries SEC(".maps");

inlined __u64 carry_key(__u64 identity, enum flow_direction direction) {
    return direction == direction_up ? identity : identity | flow_identity_tentative;
}

// False: the map is full, or the kernel had no memory for an entry, and nothing was added.
inlined bool carry(const struct found* flow, enum flow_direction direction, __u64 packets, __u64 bytes) {
    const __u64 key = carry_key(flow->identity, direction);
    const struct carried none = {0};
    bpf_map_update_elem(&carries, &key, &none, BPF_NOEXIST);  // fails where it is, and where another CPU was first
    struct carried* sum = bpf_map_lookup_elem(&carries, &key);
    if (!sum) return false;
    __sync_fetch_and_add(&sum->packets, packets);
    __sync_fetch_and_add(&sum->bytes, bytes);
    return true;
}
