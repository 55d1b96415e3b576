// The maps and settings of the packet plane. User space gives sizes that depend on the configuration before loading.
#pragma once

#include "bpf/lib/bpf.h"

#define ARRAY_OF(name_, value_, count_)   \
    struct {                              \
        __uint(type, BPF_MAP_TYPE_ARRAY); \
        __uint(max_entries, count_);      \
        __type(key, __u32);               \
        __type(value, value_);            \
    } name_ SEC(".maps")
#define PER_CPU_ARRAY_OF(name_, value_, count_)  \
    struct {                                     \
        __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
        __uint(max_entries, count_);             \
        __type(key, __u32);                      \
        __type(value, value_);                   \
    } name_ SEC(".maps")
// An array of arrays of one element, one of them unless user space says otherwise before loading. The element by its
// size: of a type behind two pointers BTF keeps only the name.
#define ARRAY_OF_SINGLES(name_, value_)           \
    struct name_##_inner {                        \
        __uint(type, BPF_MAP_TYPE_ARRAY);         \
        __uint(max_entries, 1);                   \
        __uint(key_size, sizeof(__u32));          \
        __uint(value_size, sizeof(value_));       \
    };                                            \
    struct {                                      \
        __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); \
        __uint(max_entries, 1);                   \
        __type(key, __u32);                       \
        __array(values, struct name_##_inner);    \
    } name_ SEC(".maps")

// What a configuration sets. An entry is written whole before anything names it.
ARRAY_OF_SINGLES(directory, struct directory);        // replaced whole: every packet sees the old or the new one
ARRAY_OF_SINGLES(access_roots, struct access_roots);  // as the directory
ARRAY_OF_SINGLES(access_nodes, struct access_chunk);  // of what the roots name, and of what they named before
ARRAY_OF(services, struct packet_service, max_packet_services);
ARRAY_OF(endpoints, struct packet_endpoint, max_packet_endpoints);
ARRAY_OF(source_addresses, struct address, max_source_addresses);
ARRAY_OF(maglev, __u32, maglev_slots);  // endpoints

// What packets change.
ARRAY_OF_SINGLES(client_flows, struct flow_chunk);    // the clients' direction of flows
ARRAY_OF_SINGLES(endpoint_flows, struct flow_chunk);  // the endpoints' direction
ARRAY_OF_SINGLES(clients, struct flow_client_chunk);  // absent while no service has IPv6

PER_CPU_ARRAY_OF(service_counts, struct packet_counters, max_packet_services);  // 0: packets of no service
PER_CPU_ARRAY_OF(endpoint_counts, struct endpoint_counters, max_packet_endpoints);
PER_CPU_ARRAY_OF(next_hops, struct next_hop, 1);  // first the endpoints', then first_client_hop: the clients'

// The hardware addresses by which the packet plane answers for the services' addresses, by interface.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, struct packet_interface);
} interfaces SEC(".maps");

// The VLAN devices, by their indexes.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, vlan_devices);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u32);
    __type(value, struct packet_vlan);
} vlans SEC(".maps");

// struct neighbour_report, for user space.
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 16);
} neighbours SEC(".maps");

// Set before loading.
const volatile struct flow_table_settings flow_table = {{1, 2}, 1, 0};
const volatile __u32 seconds_a_jiffy = 0;  // times 2^32
const volatile __u32 first_client_hop = 1;
const volatile __u32 next_hop_jiffies = 1;  // how long a next hop is believed
const volatile __u32 nat_port_first = 1024, nat_ports = 64512;

// Raised by user space whenever routes, neighbours or links changed.
volatile __u32 routes_generation = 0;

inlined __u64 now_seconds(void) {
    return (bpf_jiffies64() * seconds_a_jiffy) >> 32;
}
