// What every part of the kernel half includes: the kernel's interface and the shapes shared with user space.
#pragma once

// libbpf's headers use the kernel's types and do not include them: they come last.
// clang-format off
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
// clang-format on

#include "abi/packet.h"

#define inlined static __always_inline
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

// Pins a value the verifier has to see bounded: keeps the compiler from testing a copy and using the original.
#define bounded(value) asm volatile("" : "+r"(value))

// A size from 1 to 64, so that the verifier sees that it is: the compiler makes of a comparison with 1 one with 0, from
// which Linux 6.1 learns nothing.
inlined __u32 between_1_and_64(__u32 size) {
    --size;
    bounded(size);
    return (size & 63) + 1;
}

inlined bool same_address(const struct address* a, const struct address* b) {
    return a->word[0] == b->word[0] && a->word[1] == b->word[1];
}

// ::ffff:a.b.c.d as it lies in memory on a little-endian machine.
#define mapped_prefix 0xffff0000ULL
inlined struct address mapped(__u32 address_be) {
    return (struct address){{0, mapped_prefix | (__u64)address_be << 32}};
}
inlined bool is_mapped(const struct address* a) {
    return a->word[0] == 0 && (__u32)a->word[1] == (__u32)mapped_prefix;
}
inlined __u32 unmapped(const struct address* a) {
    return (__u32)(a->word[1] >> 32);
}
