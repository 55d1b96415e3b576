#include "bpf/lib/siphash.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <random>

#include "routing/siphash.h"

namespace marchproxy::packet {
namespace {

template <size_t words>
uint64_t of_bytes(uint64_t key0, uint64_t key1, const std::array<uint64_t, words>& input) {
    const auto bytes = std::bit_cast<std::array<uint8_t, words * 8>>(input);
    return routing::siphash13(key0, key1, bytes);
}

TEST(Siphash, OverWordsIsTheSameAsOverTheirBytes) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 1000; ++i) {
        const uint64_t key0 = random(), key1 = random(), a = random(), b = random(), c = random();
        EXPECT_EQ(abi::siphash_2(key0, key1, a, b), of_bytes<2>(key0, key1, {a, b}));
        EXPECT_EQ(abi::siphash_3(key0, key1, a, b, c), of_bytes<3>(key0, key1, {a, b, c}));
    }
}

}  // namespace
}  // namespace marchproxy::packet
