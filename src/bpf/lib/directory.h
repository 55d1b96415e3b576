// The directory: an open-addressed table of what addresses and ports mean. Built by user space, which sees to it that
// no entry lies further than directory_probes from its place; read by packets. Compiled by both.
#pragma once

#include "abi/packet.h"

#ifdef __cplusplus
namespace marchproxy::abi {
#endif

// Not keyed: nobody but the configuration puts entries in.
abi_inlined __u32 directory_place(const struct address* a, __u16 port_be, __u8 protocol) {
    __u64 mixed = (a->word[0] * 0x9e3779b97f4a7c15ULL) ^
                  ((a->word[1] + ((__u64)port_be << 8 | protocol)) * 0xc2b2ae3d27d4eb4fULL);
    mixed ^= mixed >> 29;
    return (__u32)((mixed * 0xbf58476d1ce4e5b9ULL) >> 40) & (directory_slots - 1);
}

#ifdef __cplusplus
}  // namespace marchproxy::abi
#endif
