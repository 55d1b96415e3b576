// A token bucket that CPUs share without a lock, in both halves: its state is one word, the bits that were let through,
// which is compared with the bits that the rate has carried since the clock's zero. That number is computed anew from
// the time itself, exactly, so that nothing is rounded from packet to packet; qos/token_bucket.h is the same for who
// has its bucket alone.
//
// The bucket is ready while anything is in it, and what is taken may be more: the debt is earned back first. In any
// interval of t seconds no more than burst + rate * t + one packet a CPU passes.
//
// Words are compared by their difference, so that it does not matter where one wraps. Compiled for BPF, and by the C++
// tests that run it on threads.
#pragma once

#include "abi/packet.h"
#include "bpf/lib/words.h"

#ifdef __cplusplus
namespace marchproxy::abi {
// NOLINTBEGIN: C as well
#endif

enum { bucket_attempts = 4 };

// floor(bits_per_second * nanoseconds / 10^9), modulo 2^64. Rates up to 10^16 bit/s.
abi_inlined __u64 bits_carried(__u64 bits_per_second, __u64 nanoseconds) {
    const __u64 second = 1000000000;
    const __u64 seconds = nanoseconds / second, rest = nanoseconds % second;
    return bits_per_second * seconds + bits_per_second / second * rest + bits_per_second % second * rest / second;
}

struct bucket {
    __u64 bits_per_second;
    __u64 burst;    // bits
    __u64 carried;  // by the rate, until now
};

// What is in it: at most the burst; none or less is a debt. More than a second's is none that this rate explains, even
// to a CPU that was held up since it looked at its clock: another rate let it in, before a reload. Then there is as
// little in it as lets one packet write the word anew.
abi_inlined __s64 bucket_level(__u64 word, const struct bucket* b) {
    const __u64 most_debt = b->bits_per_second + b->burst + (1 << 24);
    const __s64 level = (__s64)(b->carried - word);
    if (level < -(__s64)most_debt) return 1;
    return level > (__s64)b->burst ? (__s64)b->burst : level;
}

// Takes, if the bucket is ready. Where other CPUs are always first, each of them was let through by the rate, and this
// one is too.
abi_inlined bool bucket_take(__u64* word, const struct bucket* b, __u64 bits) {
    for (int attempt = 0; attempt < bucket_attempts; ++attempt) {
        const __u64 before = word_read(*word);
        const __s64 level = bucket_level(before, b);
        if (level <= 0) return false;
        if (__sync_val_compare_and_swap(word, before, b->carried - (__u64)level + bits) == before) return true;
    }
    __sync_fetch_and_add(word, bits);
    return true;
}

// The same by a CPU that has a share of the bucket to itself: it takes more than it needs at once, `share`, and goes
// back to the word that all contend for when that is used up. What lies with CPUs is to be left out of the burst.
abi_inlined bool bucket_take_by_share(__u64* left, __u64* word, const struct bucket* b, __u64 share, __u64 bits) {
    if (*left >= bits) {
        *left -= bits;
        return true;
    }
    if (!bucket_take(word, b, bits - *left + share)) return false;
    *left = share;
    return true;
}

#ifdef __cplusplus
// NOLINTEND
}  // namespace marchproxy::abi
#endif
