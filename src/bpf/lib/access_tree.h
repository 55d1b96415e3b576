// The access tree: whether an address may pass, by the longest prefix that covers it. Built by user space, read by
// packets. Compiled by both.
//
// A node looks at six bits of an address and knows of each of their values whether there is a node below, or else the
// verdict; its children lie side by side, so that one count of bits finds one (poptrie: Asai and Ohara, SIGCOMM 2015).
// What all addresses below a node share is not looked at bit by bit but compared at once (PATRICIA: Morrison, JACM
// 1968). The kernel's own trie goes bit by bit and calls a function at each node.
#pragma once

#include "abi/packet.h"

#ifdef __cplusplus
namespace marchproxy::abi {
#endif

enum access_verdict { access_refused = 0, access_passes = 1 };  // no node lies there

// What is left of an address to look at, from its first bit.
struct access_bits {
    __u64 high, low;
};

abi_inlined struct access_bits access_bits_of(const struct address* a, __u8 v6) {
    const __u64 first = __builtin_bswap64(a->word[0]), second = __builtin_bswap64(a->word[1]);
    struct access_bits bits = {v6 ? first : second << 32, v6 ? second : 0};
    return bits;
}

// `bits` < 64.
abi_inlined void access_skip(struct access_bits* left, __u32 bits) {
    bits &= 63;
    left->high = left->high << bits | left->low >> 1 >> (63 - bits);
    left->low <<= bits;
}

// Where the address leads from a node: the next one's place, or a verdict.
abi_inlined __u32 access_step(const struct access_node* node, struct access_bits* left) {
    const __u32 path = node->path_bits & 63;
    if ((left->high ^ node->path) >> 1 >> (63 - path)) return node->beside;
    access_skip(left, path);
    const __u64 value = 1ULL << (left->high >> (64 - access_stride));
    access_skip(left, access_stride);
    if (!(node->deeper & value)) return node->passes & value ? access_passes : access_refused;
    return node->children + (__u32)__builtin_popcountll(node->deeper & (value - 1));
}

#ifdef __cplusplus
}  // namespace marchproxy::abi
#endif
