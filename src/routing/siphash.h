// SipHash: a keyed hash of short inputs (Aumasson and Bernstein, INDOCRYPT 2012). With the key unknown nobody can
// choose inputs that collide; with the key configured the same on several nodes, all of them hash alike.
//
// Pure. SipHash-1-3 is what hash tables use; 2-4 is here because the paper's test vector is for it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace marchproxy::routing {

template <int rounds_a_word, int final_rounds>
uint64_t siphash(uint64_t key0, uint64_t key1, std::span<const uint8_t> input) {
    uint64_t v0 = key0 ^ 0x736f6d6570736575, v1 = key1 ^ 0x646f72616e646f6d;
    uint64_t v2 = key0 ^ 0x6c7967656e657261, v3 = key1 ^ 0x7465646279746573;
    const auto mix = [&](int rounds) {
        for (int i = 0; i < rounds; ++i) {
            v0 += v1, v2 += v3;
            v1 = std::rotl(v1, 13) ^ v0, v3 = std::rotl(v3, 16) ^ v2;
            v0 = std::rotl(v0, 32);
            v2 += v1, v0 += v3;
            v1 = std::rotl(v1, 17) ^ v2, v3 = std::rotl(v3, 21) ^ v0;
            v2 = std::rotl(v2, 32);
        }
    };
    const auto absorb = [&](uint64_t word) {
        v3 ^= word;
        mix(rounds_a_word);
        v0 ^= word;
    };
    const auto little_endian = [&](size_t at, size_t count) {
        uint64_t word = 0;
        for (size_t i = 0; i < count; ++i)
            word |= static_cast<uint64_t>(input[at + i]) << (8 * i);
        return word;
    };

    const size_t whole = input.size() / 8 * 8;
    for (size_t at = 0; at < whole; at += 8)
        absorb(little_endian(at, 8));
    absorb(little_endian(whole, input.size() - whole) | static_cast<uint64_t>(input.size()) << 56);
    v2 ^= 0xff;
    mix(final_rounds);
    return v0 ^ v1 ^ v2 ^ v3;
}

inline uint64_t siphash13(uint64_t key0, uint64_t key1, std::span<const uint8_t> input) {
    return siphash<1, 3>(key0, key1, input);
}

}  // namespace marchproxy::routing
