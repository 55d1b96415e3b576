// Internet checksums, changed by difference (RFC 1624, eqn. 3): HC' = ~(~HC + ~m + m'). A difference is kept as a sum
// of 32-bit words in 64 bits and folded once.
#pragma once

#include "bpf/lib/bpf.h"

inlined __u64 difference_32(__u64 sum, __u32 from, __u32 to) {
    return sum + (__u32)~from + to;
}
inlined __u64 difference_16(__u64 sum, __u16 from, __u16 to) {
    return sum + (__u16)~from + to;
}
inlined __u64 difference_128(__u64 sum, const struct address* from, const struct address* to) {
    sum = difference_32(sum, (__u32)from->word[0], (__u32)to->word[0]);
    sum = difference_32(sum, (__u32)(from->word[0] >> 32), (__u32)(to->word[0] >> 32));
    sum = difference_32(sum, (__u32)from->word[1], (__u32)to->word[1]);
    return difference_32(sum, (__u32)(from->word[1] >> 32), (__u32)(to->word[1] >> 32));
}

// Of words that there were none of before.
inlined __u64 sum_128(__u64 sum, const struct address* a) {
    return sum + (__u32)a->word[0] + (a->word[0] >> 32) + (__u32)a->word[1] + (a->word[1] >> 32);
}

inlined __u32 folded_32(__u64 sum) {
    sum = (sum & 0xffffffff) + (sum >> 32);
    return (__u32)((sum & 0xffffffff) + (sum >> 32));
}
inlined __u16 folded(__u64 sum) {
    sum = folded_32(sum);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (__u16)sum;
}

inlined __u16 checksum_changed(__u16 checksum, __u64 difference) {
    return ~folded((__u16)~checksum + difference);
}
