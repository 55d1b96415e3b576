// What the kernel half and the user half of the packet plane share: the shapes in its maps. Compiled by clang for BPF
// (C) and by the C++ compiler; packet/abi_test.cc compares both layouts member by member through BTF.
//
// Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2), in two words as they lie in
// memory. Ports lie in network order where they are compared with packets (`port_be`), in host order inside identities.
// Indexes of services, endpoints and source addresses are given out by user space, from 1, and keep their meaning for
// as long as any flow carries them, across reloads and restarts.
#pragma once

#include <linux/types.h>

#ifdef __cplusplus
namespace marchproxy::abi {
#define ABI_ASSERT static_assert
// NOLINTBEGIN: C as well
#else
#define ABI_ASSERT _Static_assert
#endif
#define abi_inlined static inline __attribute__((always_inline))

// --- limits --------------------------------------------------------------------------------------------------------

// Raised with every change of a shape here or of what it means: maps of another revision are not gone on with.
enum { packet_revision = 8 };

enum {
    max_packet_services = 1 << 14,   // bits of an identity
    max_packet_endpoints = 1 << 18,  // bits of a forward target
    max_source_addresses = 1 << 6,   // bits of a forward target
    directory_slots = 1 << 16,       // of 32 bytes
    directory_probes = 8,            // user space builds the directory so that none lies further from its place
    client_hops = 1 << 10,           // next hops remembered a CPU, beside those of the endpoints
    maglev_slots = 1 << 24,          // all services together, 4 bytes each
    carry_slots = 1 << 20,           // directions of flows that have carried more than a traffic word holds
    // Client addresses, of all services together; fewer where the flow table has room for fewer flows.
    counted_sources = 1 << 18,  // whose live flows are counted: 16 bytes each, and 90 while there are any
    rated_sources = 1 << 18,    // whose rates are held, the others' being forgotten: 110 bytes each
    syn_proofs = 1 << 16,       // of clients that are about to prove their address: 110 bytes each
};

struct address {
    __u64 word[2];
};

// --- the directory: what an address and port mean ------------------------------------------------------------------

enum directory_kind {
    directory_empty = 0,
    directory_service,   // destination address, port and protocol of a service: `index` is the service
    directory_endpoint,  // source address, port and protocol of an endpoint: `index` is the endpoint
    directory_source,    // an address from which we speak to endpoints; port and protocol 0: `index` is its place
    directory_host,  // a service's address that the machine does not have; port and protocol 0: answers echo requests,
                     // ARP and neighbour solicitations; `index` is one of its services
};

struct directory_entry {
    struct address address;
    __u16 port_be;
    __u8 protocol;  // IPPROTO_*
    __u8 kind;
    __u32 index;
    __u64 reserved;
};
ABI_ASSERT(sizeof(struct directory_entry) == 32, "two to a cache line");

struct directory {
    struct directory_entry entry[directory_slots];
};

// --- services and endpoints ----------------------------------------------------------------------------------------

enum packet_forwarding { forwarding_nat, forwarding_dnat, forwarding_dsr_ipip, forwarding_dsr_gue };

enum service_flags {
    service_by_client = 1 << 0,       // the endpoint is chosen by the client's address alone, not address and port
    service_has_access = 1 << 1,      // its access tree has to be asked
    service_limits_packets = 1 << 3,  // its packet_limits have to be asked for each packet from a client
    service_limits_flows = 1 << 4,    // the same for each new flow
    service_has_qos = 1 << 5,         // its packet_qos has to be asked for each packet
};

struct packet_service {
    struct address address;
    __u16 port_be;
    __u8 protocol;
    __u8 forwarding;     // enum packet_forwarding
    __u32 flags;         // enum service_flags
    __u64 ring;          // its Maglev table in `maglev`: first slot << 32 | slots; 0 slots: no endpoint takes new flows
    __u64 seed;          // of its choices: the same on every node that shares the service
    __u32 idle_seconds;  // flows that both sides have spoken on
    __u32 opening_seconds;  // flows that only the client has spoken on
    __u32 connections;      // at one time; 0: no limit
    __u16 mss;              // the largest TCP segment that either side is told; 0: what they say themselves
    __u16 reserved;
    // New flows at one time: a GCRA's step and tolerance in microseconds; step 0: no limit.
    __u32 new_flow_step, new_flow_tolerance;
};
ABI_ASSERT(sizeof(struct packet_service) == 64, "one cache line");

enum endpoint_flags {
    endpoint_in_use = 1 << 0,  // established flows may go on; without it they end
    endpoint_takes = 1 << 1,   // closed flows may begin again
    endpoint_shares = 1 << 2,  // a service listens at one of its source addresses, whose port is not for flows
    endpoint_dead = 1 << 3,    // why it is not in use: probes do not get through
};

struct packet_endpoint {
    struct address address;
    __u16 port_be;
    __u8 protocol;
    __u8 flags;                       // enum endpoint_flags
    __u32 dnat_service;               // whose replies come from here with the client's address; 0: none
    __u8 source_first, source_count;  // its part of source_addresses, for nat and as outer source of dsr
    __u8 reserved[6];
    struct address gateway;  // the next hop; 0: as the routes say
};
ABI_ASSERT(sizeof(struct packet_endpoint) == 48, "");

// What a service's flags say has to be asked. Beside packet_service, whose cache line every packet reads.
//
// Rates are GCRAs (ITU-T I.371, as in qos/rate_limit.h) in nanoseconds; step 0: no limit. Of the service's packets a
// CPU takes as many at once as a batch has, so that not every packet has CPUs contend for one word.
struct packet_limits {
    __u32 connections_per_source;  // live flows of one client address; 0: no limit
    // TCP flows whose client has not answered yet: from this many on, counted from 1, a client has to prove its
    // address; 0: none has. See step/cookie.h.
    __u32 proven_from;
    __u64 source_flow_step, source_flow_tolerance;      // new flows of one client address
    __u64 source_packet_step, source_packet_tolerance;  // packets of one client address
    __u64 packet_batch_step, packet_tolerance;          // packets of all: a step is a whole batch's
    __u32 packet_batch;                                 // 0: no limit
    __u32 reserved;
};
ABI_ASSERT(sizeof(struct packet_limits) == 64, "one cache line");

// Rates, priorities and marks of a service with qos, beside packet_service as packet_limits. Rates are token buckets of
// payload (bpf/lib/shared_bucket.h); bits_per_second 0: no limit.
enum { packet_priorities = 4, packet_marks = 64 };
struct packet_rate {
    __u64 bits_per_second;
    __u32 burst, share;  // bytes; the share is what a CPU takes at once
};
struct packet_qos {
    struct packet_rate rate[2];  // by direction
    __u64 priorities[2];         // two bits for each DSCP that a packet may come with: its priority
    __u8 queues;                 // whether they wait for their turn in user space, where it is there
    __u8 reserved[15];
    __u8 dscp[packet_marks];  // what they leave with, by what they came with
};
ABI_ASSERT(sizeof(struct packet_qos) == 128, "two cache lines");

abi_inlined __u32 qos_priority(const struct packet_qos* qos, __u32 dscp) {
    return qos->priorities[dscp >> 5 & 1] >> (dscp & 31) * 2 & 3;
}

// A client address at a service.
struct source_key {
    struct address address;
    __u32 service;
    __u32 reserved;
};

// Of an address whose live flows are counted.
struct source_flows {
    __u64 live;
    __u64 since;  // the second in which counting began: flows that began before are not among them
};

// When the address's next packet and new flow are due.
struct source_rate {
    __u64 packets_due, flows_due;
};

// --- access lists --------------------------------------------------------------------------------------------------

// What a service's lists say of any address, as a tree: see bpf/lib/access_tree.h. User space builds it anew whenever a
// list changes, beside the one in use, and packets go over to it at once.
enum {
    access_stride = 6,  // bits of an address that a node looks at
    access_most_path = 57,
    access_depth = 22,  // nodes to the end of an IPv6 address, where none has a path
    access_place_bits = 10,
    access_chunk_nodes = 1012,
    access_half = 1 << 12,           // chunks of one set of trees; the next is built in the other half. None is chunk 0
    most_access_prefixes = 1 << 20,  // of all services together; each takes two nodes at most
};

struct access_node {
    __u64 path;      // the bits that all addresses below share, from the first; the others 0
    __u64 deeper;    // bit i: addresses that go on with i have a node of their own
    __u64 passes;    // bit i: whether the others that go on with i may pass
    __u32 children;  // those nodes' first, chunk << access_place_bits | place in it; they lie side by side
    __u8 path_bits;  // how many `path` has
    __u8 beside;     // whether addresses that differ from it may pass
    __u16 reserved;
};
ABI_ASSERT(sizeof(struct access_node) == 32, "two to a cache line");

struct access_chunk {
    struct access_node node[access_chunk_nodes];
};
ABI_ASSERT(sizeof(struct access_chunk) <= 32768 - 384, "one piece of directly mapped memory");

struct access_root {
    __u32 v4, v6;  // the first nodes; 0: no lists, everybody may pass
};
struct access_roots {
    __u32 first_chunk, chunks;  // where the trees lie
    struct access_root of[max_packet_services];
};

// --- flows ---------------------------------------------------------------------------------------------------------
//
// A direction of a flow is a cell of three words: who it is (identity), where it goes (target), what it carried
// (traffic). Eight cells lie in a bucket as three cache lines, one of each, which a lookup fetches side by side; a
// chunk holds the buckets that a single kernel allocation can. See bpf/lib/flow_table.h.

enum {
    flow_cells = 8,
    flow_buckets = 167,  // prime, so that every step leads through different buckets
    flow_choices = 6,    // buckets in which a flow may lie
    flow_chunk_cells = flow_cells * flow_buckets,
};

struct flow_bucket {
    __u64 identity[flow_cells];
    __u64 target[flow_cells];
    __u64 traffic[flow_cells];
};
ABI_ASSERT(sizeof(struct flow_bucket) == 192, "three cache lines");

// With its array map's header it must stay within 32 KiB, the largest piece the kernel's allocator gives from its
// directly mapped memory: measured, that saves a fourth of the cost of a random lookup against vmalloc'ed maps (see
// docs/decisions/0006-flow-table.md). The first bucket lies at `flow_table_settings.alignment`, at most 56.
struct flow_chunk {
    __u64 buckets[flow_buckets * sizeof(struct flow_bucket) / 8 + 7];
    // A byte a bucket: how many flows lie in a later choice because this one was full.
    __u32 passed[(flow_buckets + 3) / 4];
};
ABI_ASSERT(sizeof(struct flow_chunk) <= 32768 - 384, "one piece of directly mapped memory");

struct flow_table_settings {
    __u64 key[2];     // of the keyed hash; drawn once, secret
    __u32 chunks;     // in each of the two tables
    __u32 alignment;  // bytes from a chunk's begin to its first cache line
};

// Identity of a client's direction: client address 32 | client port 16 | service 14. An IPv6 client does not fit: its
// identity is a keyed hash of the same with flow_identity_v6, and the cell's entry in `clients` holds what was hashed,
// to be compared. Identity of an endpoint's direction: with nat endpoint 18 | source address 6 | port 16, of what was
// chosen for the flow; with dnat the client's direction's. Never 0: indexes begin with 1.
#define flow_identity_v6 (1ULL << 63)
#define flow_identity_tentative (1ULL << 62)  // being inserted; readers do not see it

// Target of a client's direction.
enum flow_state {
    flow_opening,   // only the client has spoken
    flow_answered,  // TCP: SYN and ACK came back, which the client has not acknowledged yet
    flow_established,
    flow_client_closed,    // FIN from the client
    flow_endpoint_closed,  // FIN from the endpoint
    flow_closed,           // FIN from both
    flow_client_reset,     // RST from the client
    flow_endpoint_reset,   // RST from the endpoint
};
#define flow_state_shift 61
#define flow_endpoint_shift 43       // 18 bits
#define flow_source_shift 37         // 6 bits: place in source_addresses
#define flow_port_shift 21           // 16 bits: the port chosen
#define flow_start_mask 0x1fffffULL  // 21 bits: second at which it began, modulo 24 days
// Of an answered flow the second is modulo 512 only, and above it lie the low bits of what its client has to
// acknowledge.
#define flow_wanted_shift 9
#define flow_wanted_mask 0xfffULL
// Where the port is nobody's (dnat, dsr): the flow did not begin with a SYN here, another node had it.
#define flow_taken_up 1

// Target of an endpoint's direction: settled 1 | client address 32 | client port 16 | service 14; of an IPv6 client:
// settled 1 | the cell of its own direction 32. Settled: what the endpoint says changes the flow's state no more, but
// for a TCP flag.
#define flow_target_settled (1ULL << 63)

// Who an IPv6 flow's client is; beside each cell of the clients' direction.
struct flow_client {
    struct address address;
    __u16 port_be;
    __u16 service;
    __u32 reserved;
};
struct flow_client_chunk {
    struct flow_client cell[flow_chunk_cells];
};

// Traffic: bytes 30 | packets 20 | second last seen 14, the second modulo; what overflows goes to the map `carries`.
#define flow_seen_bits 14
#define flow_packets_bits 20
#define flow_bytes_bits 30
#define traffic_most_packets ((1ULL << flow_packets_bits) - 1)
#define traffic_most_bytes ((1ULL << flow_bytes_bits) - 1)

abi_inlined __u64 traffic_bytes(__u64 word) {
    return word >> (flow_seen_bits + flow_packets_bits);
}
abi_inlined __u64 traffic_packets(__u64 word) {
    return word >> flow_seen_bits & traffic_most_packets;
}
abi_inlined __u64 traffic_seen(__u64 word) {
    return word & ((1ULL << flow_seen_bits) - 1);
}
// Bytes and packets of which neither is more than its most.
abi_inlined __u64 traffic_of(__u64 bytes, __u64 packets, __u64 seconds) {
    return bytes << (flow_seen_bits + flow_packets_bits) | packets << flow_seen_bits | traffic_seen(seconds);
}
// Seconds from the one last seen to `now`, modulo as well.
abi_inlined __u32 traffic_silent(__u64 word, __u64 now) {
    return (__u32)traffic_seen(now - traffic_seen(word));
}

// --- the sweep: expiring, counting and listing flows ---------------------------------------------------------------

enum {
    closed_flow_seconds = 5,  // what a flow stays after both sides closed it: a last acknowledgement may be sent again
    reset_flow_seconds = 2,
    half_closed_flow_seconds = 60,  // of silence after the client closed, where nobody sees the endpoint (dsr)
    // A service's longest idle timeout, 4 h: beyond it too little of a traffic word's 2^14 seconds is left to tell idle
    // from busy.
    longest_idle_seconds = 4 * 3600,
    list_all = (1 << 14) + 1,  // no service's number
    sweep_buckets = 1 << 14,   // in one run at most
};

// In and out of one run of the program `sweep`, which user space starts by BPF_PROG_RUN.
struct sweep {
    __u32 first_bucket, buckets;   // of the clients' table: flow_buckets a chunk
    __u32 list_service;            // live flows of this service are reported too; 0: of none; list_all: of any
    __u32 list_limit;              // at most so many
    __u32 live, ended, kept_back;  // out; kept back: over, but the reports had no room
    __u32 listed;
};

// A flow, over or listed, in the ring buffer `reports`.
struct flow_report {
    __u64 identity, target;
    __u64 packets[2], bytes[2];  // by direction
    struct address client;
    __u16 client_port_be;
    __u16 service;
    __u32 idle_seconds;
    __u8 ended;  // 0: listed
    __u8 why;    // enum packet_verdict, of one that ended
    __u8 reserved[2];
    __u32 age_seconds;  // since it began
};
ABI_ASSERT(sizeof(struct flow_report) == 80, "");

// --- counters ------------------------------------------------------------------------------------------------------

// Why a packet ended or was let alone: the same list as the stream plane's.
enum packet_verdict {
#define MARCHPROXY_VERDICT(name, meaning) packet_verdict_##name,
#include "abi/verdicts.def"
#undef MARCHPROXY_VERDICT
    packet_verdicts
};

enum flow_direction { direction_up, direction_down };  // client to endpoint, endpoint to client

struct packet_counters {
    __u64 packets[2], bytes[2];  // by direction; bytes from the IP header on
    __u64 flows;                 // begun
    __u64 ended;                 // of those; the others live
    __u64 stateless;             // packets chosen for without a flow, as the table was full
    __u64 uncounted;             // flows begun whose client's address could not be counted: counted_sources were
    __u64 cookies, proven;       // SYNs that were answered with a demand for proof, and those that brought it
    __u64 dropped[packet_verdicts];
};

struct endpoint_counters {
    __u64 packets[2], bytes[2];
    __u64 flows, ended;
};

// Before the frame of a packet that waits for its turn in user space: an AF_XDP socket's metadata. The frame is one of
// the link that it is to leave by.
struct queued_packet {
    __u32 interface;  // to leave by
    __u32 flow;       // tells flows apart, those of one service and direction
    __u32 payload;    // bytes that count
    __u16 service;
    __u8 direction, priority;
};
ABI_ASSERT(sizeof(struct queued_packet) == 16, "metadata is a multiple of 4 bytes, 32 at most");
enum { queue_sockets_most = 1 << 10, queue_interfaces_most = 256 };

// Of a service with qos, by direction and priority. A CPU's.
struct qos_counters {
    __u64 left[2];                        // of the share that the CPU has taken of a rate; bits
    __u64 bytes[2][packet_priorities];    // payload that was let through
    __u64 dropped[2][packet_priorities];  // packets
    __u64 dropped_bytes[2][packet_priorities];
};

// The words of a service's token buckets, by direction.
struct qos_buckets {
    __u64 word[2];
};

// What a service's limits are measured by.
struct admission {
    __u64 due;  // microseconds: when the next new flow is, by GCRA (ITU-T I.371, as in qos/rate_limit.h)
    // Flows begun and not ended yet, and in the upper half those of TCP that are half open, opening or answered: one
    // word, so that a flow begins with one atomic operation.
    __u64 live;
    __u64 packets_due;  // nanoseconds: when the next batch of packets is
    __u64 reserved;
};
#define admission_half_open_shift 32
abi_inlined __u32 admission_live(__u64 word) {
    return (__u32)word;
}
// Never less than none, whatever was counted twice: else every client would have to prove its address for ever.
abi_inlined __u32 admission_half_open(__u64 word) {
    const __u32 counted = (__u32)(word >> admission_half_open_shift);
    return counted >> 31 ? 0 : counted;
}

// --- next hops, cached a CPU ---------------------------------------------------------------------------------------

struct next_hop {
    struct address address;
    __u64 until;       // jiffies
    __u32 generation;  // of `routes_generation`
    __u32 interface;   // the route's, by which TC sends; 0: none
    __u8 destination[6], source[6];
    __u32 mtu;            // of the way there
    __u64 asked;          // jiffies: when user space was last told of a neighbour from here
    __u32 xdp_interface;  // by which XDP sends: the same, or the one below a VLAN device; 0: it cannot
    __u32 xdp_tag;        // the VLAN's that XDP puts in, as it lies in a frame; 0: none
};
ABI_ASSERT(sizeof(struct next_hop) == 64, "one cache line");

// A VLAN device (802.1Q, 802.1ad), by its index in `vlans`. XDP sends to the device below it, and puts in the tag.
struct packet_vlan {
    __u32 parent;  // 0: no frame can be sent for it at XDP
    __u32 tag;     // its protocol and number as they lie in a frame, see vlan_tag
};
enum { vlan_devices = 1 << 12, vlan_number_mask = 0xfff };

// In network order, without the priority: frames to another link have the least, as the kernel's own.
abi_inlined __u32 vlan_tag(__u16 protocol_be, __u16 number_be) {
    return protocol_be | (__u32)number_be << 16;
}

// --- neighbours ----------------------------------------------------------------------------------------------------

// An interface on which the packet plane answers for the services' addresses.
struct packet_interface {
    __u8 mac[6];
    __u8 reserved[2];
};

// A neighbour, in the ring buffer `neighbours`: a next hop that the kernel is to resolve, or somebody who asked for a
// service's address and will need to be known, which the kernel did not see.
struct neighbour_report {
    struct address address;
    __u32 interface;
    __u8 mac[6];
    __u8 known;  // 0: `mac` is what is asked for
    __u8 reserved;
    __u32 tag;  // of the frame by which it showed itself; 0: none
};
ABI_ASSERT(sizeof(struct neighbour_report) == 32, "");

#ifdef __cplusplus
// NOLINTEND
}  // namespace marchproxy::abi
#endif
