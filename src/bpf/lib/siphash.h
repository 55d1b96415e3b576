// SipHash-1-3 (Aumasson and Bernstein, INDOCRYPT 2012) over whole 64-bit words, for what its key has to hide: cookies,
// and identities that stand for an address. The same function as routing/siphash.h, whose tests it shares.
#pragma once

#include <linux/types.h>

#ifdef __cplusplus
namespace marchproxy::abi {
#endif

struct siphash {
    __u64 v0, v1, v2, v3;
};

#define siphash_rotate(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))

static inline __attribute__((always_inline)) void siphash_round(struct siphash* s) {
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = siphash_rotate(s->v1, 13) ^ s->v0;
    s->v3 = siphash_rotate(s->v3, 16) ^ s->v2;
    s->v0 = siphash_rotate(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = siphash_rotate(s->v1, 17) ^ s->v2;
    s->v3 = siphash_rotate(s->v3, 21) ^ s->v0;
    s->v2 = siphash_rotate(s->v2, 32);
}

static inline __attribute__((always_inline)) void siphash_absorb(struct siphash* s, __u64 word) {
    s->v3 ^= word;
    siphash_round(s);
    s->v0 ^= word;
}

static inline __attribute__((always_inline)) struct siphash siphash_begin(__u64 key0, __u64 key1) {
    struct siphash s = {key0 ^ 0x736f6d6570736575ULL, key1 ^ 0x646f72616e646f6dULL, key0 ^ 0x6c7967656e657261ULL,
                        key1 ^ 0x7465646279746573ULL};
    return s;
}

static inline __attribute__((always_inline)) __u64 siphash_end(struct siphash* s, __u64 words) {
    siphash_absorb(s, words * 8 << 56);
    s->v2 ^= 0xff;
    siphash_round(s);
    siphash_round(s);
    siphash_round(s);
    return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

static inline __attribute__((always_inline)) __u64 siphash_2(__u64 key0, __u64 key1, __u64 a, __u64 b) {
    struct siphash s = siphash_begin(key0, key1);
    siphash_absorb(&s, a);
    siphash_absorb(&s, b);
    return siphash_end(&s, 2);
}

static inline __attribute__((always_inline)) __u64 siphash_3(__u64 key0, __u64 key1, __u64 a, __u64 b, __u64 c) {
    struct siphash s = siphash_begin(key0, key1);
    siphash_absorb(&s, a);
    siphash_absorb(&s, b);
    siphash_absorb(&s, c);
    return siphash_end(&s, 3);
}

#ifdef __cplusplus
}  // namespace marchproxy::abi
#endif
