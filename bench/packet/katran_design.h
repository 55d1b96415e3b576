// What the baseline's program (katran_design.bpf.c) and the bench share.
#pragma once

#include "abi/packet.h"

#ifdef __cplusplus
namespace marchproxy::abi {
#endif

enum { katran_most_vips = 512, katran_most_reals = 4096, katran_ring_slots = 65537 };

// IPv4 addresses in the second word of their 16 bytes' room, network order, as they lie in the packet.
struct katran_vip {
    struct address address;
    __u16 port_be;
    __u8 protocol;
    __u8 reserved;
    __u32 padding;
};

struct katran_flow {
    struct address source, destination;
    __u16 source_port_be, destination_port_be;
    __u8 protocol;
    __u8 reserved[3];
};
ABI_ASSERT(sizeof(struct katran_flow) == 40, "no padding that would be hashed");

struct katran_control {
    __u8 router[6];
    __u8 reserved[2];
};

struct katran_counters {
    __u64 packets, bytes;  // bytes from the client's IP header on
    __u64 misses;          // packets whose flow was not known
};

#ifdef __cplusplus
}  // namespace marchproxy::abi
#endif
