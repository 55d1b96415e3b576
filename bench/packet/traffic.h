// What the bench's traffic program and its user half share.
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/types.h>
#include <linux/udp.h>

struct frame {
    struct ethhdr ethernet;
    struct iphdr ip;
    struct udphdr udp;
    __u8 payload[22];  // 64 bytes in all
} __attribute__((packed));

struct traffic {
    __u32 first, flows;  // drawn from [first, first + flows)
    __u32 in_order;      // not drawn, one after the other
    __u32 next;
    __u32 from_endpoint;
    __u32 live;  // the packets go on into the kernel: with right checksums, to the interface's own address
    __u32 syn;   // not datagrams but requests for connections
    __u32 service, source, endpoint;  // network order
    __u16 service_port, endpoint_port;
    __u8 interface[6];
    __u64 arrived;  // at `sink`, for the endpoint
};

// Flow n's client: an odd multiplier permutes 32-bit numbers, so that they lie scattered. Three bits of the address are
// fixed, so that not all 2^32 differ; of any 285 million in turn all do.
static inline __u32 client_address_be(__u32 n) {
    const __u32 scattered = n * 2654435761u;
    return (scattered & 0x00ffffffu) << 8 | (scattered >> 24 & 0x3f) | 1;  // first octet 1-63, in network order
}
static inline __u16 client_port_be(__u32 n) {
    return (__u16)(n * 40503u) | 0x0004;  // not below 1024
}
