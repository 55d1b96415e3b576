#include "routing/siphash.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string_view>
#include <vector>

namespace marchproxy::routing {
namespace {

std::vector<uint8_t> counting(size_t size) {
    std::vector<uint8_t> bytes(size);
    std::iota(bytes.begin(), bytes.end(), uint8_t{0});
    return bytes;
}

// The paper's appendix A: key 00..0f, input 00..0e.
TEST(SipHash, MatchesThePapersVector) {
    EXPECT_EQ((siphash<2, 4>(0x0706050403020100, 0x0f0e0d0c0b0a0908, counting(15))), 0xa129ca6149be45e5);
}

// As CPython 3.11 hashes bytes with PYTHONHASHSEED=0.
TEST(SipHash, OneThreeMatchesAnotherImplementation) {
    const std::string_view name = "marchproxy";
    EXPECT_EQ(siphash13(0, 0, {reinterpret_cast<const uint8_t*>(name.data()), name.size()}), 0x23ade3e8ce392d99);
    EXPECT_EQ(siphash13(0, 0, counting(8)), 0xead411e67ebe2eea);
    EXPECT_EQ(siphash13(0, 0, counting(15)), 0xf30eb725bb91c9ea);
    EXPECT_EQ(siphash13(0, 0, counting(16)), 0x8972188433a5c5b7);
}

TEST(SipHash, EveryBitOfTheKeyCounts) {
    const uint64_t hash = siphash13(0, 0, counting(16));
    for (int bit = 0; bit < 64; ++bit) {
        EXPECT_NE(siphash13(uint64_t{1} << bit, 0, counting(16)), hash);
        EXPECT_NE(siphash13(0, uint64_t{1} << bit, counting(16)), hash);
    }
}

}  // namespace
}  // namespace marchproxy::routing
