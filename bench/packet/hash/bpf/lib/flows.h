// The packet plane's flow tables on the kernel's own hash maps: the same program with this header in place of
// bpf/lib/flows.h, for comparison. FLOW_MAP_TYPE says which kind. User space fills them.
#pragma once

#include "bpf/lib/maps.h"
#include "bpf/lib/packet.h"
#include "bpf/lib/siphash.h"
#include "bpf/lib/words.h"

struct flow_cell {
    __u64 target, traffic;
};
struct found {
    struct flow_cell* cell;
    __u64 identity, target;
};
enum flow_insertion { flow_exists = 1, flow_full };

struct {
    __uint(type, FLOW_MAP_TYPE);
    __uint(max_entries, 1);
    __type(key, __u64);
    __type(value, struct flow_cell);
} client_cells SEC(".maps"), endpoint_cells SEC(".maps");

// The tables' names in the steps.
#define client_flows client_cells
#define endpoint_flows endpoint_cells

inlined struct found find_flow(void* table, __u64 identity) {
    struct found found = {.identity = identity};
    found.cell = bpf_map_lookup_elem(table, &found.identity);
    if (found.cell) found.target = found.cell->target;
    return found;
}

inlined __u64 identity_of_client(const struct address* client, __u16 port_be, __u32 service, bool v6) {
    return (__u64)bpf_ntohl(unmapped(client)) << 30 | (__u64)bpf_ntohs(port_be) << 14 | service;
}
inlined __u64 identity_of_endpoint(__u32 endpoint, __u32 source, __u16 port) {
    return (__u64)endpoint << 22 | (__u64)source << 16 | port;
}

inlined bool read_client(__u64 word, bool v6, __u32 cell, struct flow_client* client) {
    client->address = mapped(bpf_htonl((__u32)(word >> 30)));
    client->port_be = bpf_htons((__u16)(word >> 14));
    client->service = word & (max_packet_services - 1);
    return true;
}
inlined struct flow_client* client_entry(__u32 cell) {
    return 0;
}
inlined bool is_client(const struct flow_client* entry, const struct packet* p, __u32 service) {
    return true;
}
inlined bool is_still(const struct found* f) {
    return true;
}
inlined __u32 cell_index(const struct found* f) {
    return 0;
}
inlined struct flow_cell* cell_at(void* table, __u32 cell) {
    return 0;
}
inlined struct found client_flow_of(__u64 target, bool v6) {
    return find_flow(&client_flows, target & ~flow_target_settled);
}
inlined void flow_publish(struct flow_cell* cell, __u64 identity) {}
inlined int touch_endpoint(__u64 identity) {
    return 0;
}
inlined int full_client(__u64 identity) {
    return 0;
}
inlined int full_endpoint(__u64 identity) {
    return 0;
}
inlined int insert_client(__u64 identity, __u64 target, __u64 seconds) {
    return -flow_full;
}
inlined int publish_endpoint(__u64 identity, __u64 target, __u64 seconds) {
    return -flow_full;
}
inlined void remove_client(__u64 identity, __u32 number) {}
inlined bool carry(const struct found* flow, enum flow_direction direction, __u64 packets, __u64 bytes) {
    return true;
}
