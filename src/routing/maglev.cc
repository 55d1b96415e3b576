#include "routing/maglev.h"

#include <algorithm>
#include <array>
#include <string>

#include "routing/siphash.h"

namespace marchproxy::routing {
namespace {

// The second half of the key, so that the three uses of a seed have nothing to do with each other.
enum class Use : uint64_t { offset = 1, skip = 2, client = 3 };

uint64_t hash_of(std::span<const uint8_t> bytes, uint64_t seed, Use use) {
    return siphash13(seed, static_cast<uint64_t>(use), bytes);
}

// One endpoint's permutation of the slots: offset, offset + skip, offset + 2 skip ... modulo the prime size.
struct Preference {
    uint32_t index;
    uint32_t next;
    uint32_t skip;
    uint64_t weight;
    uint64_t credit = 0;
};

std::vector<Preference> preferences_of(std::span<const MaglevEndpoint> endpoints, uint64_t seed, uint32_t size) {
    std::vector<Preference> preferences;
    for (uint32_t i = 0; i < endpoints.size(); ++i) {
        if (endpoints[i].weight == 0) continue;
        const std::string_view identity = endpoints[i].identity;
        const std::span bytes(reinterpret_cast<const uint8_t*>(identity.data()), identity.size());
        preferences.push_back({.index = i,
                               .next = static_cast<uint32_t>(hash_of(bytes, seed, Use::offset) % size),
                               .skip = static_cast<uint32_t>(hash_of(bytes, seed, Use::skip) % (size - 1) + 1),
                               .weight = endpoints[i].weight});
    }
    std::sort(preferences.begin(), preferences.end(), [&](const Preference& a, const Preference& b) {
        return endpoints[a.index].identity < endpoints[b.index].identity;
    });
    return preferences;
}

}  // namespace

uint32_t maglev_size(size_t endpoints) {
    constexpr std::array<uint32_t, 3> primes{65'537, 655'373, 6'553'621};
    for (const uint32_t prime : primes)
        if (endpoints * 100 <= prime) return prime;
    return primes.back();
}

// Endpoints take turns in placing themselves on their next free slot. The heaviest has a turn in each round, the others
// whenever their weights have added up to its weight.
std::vector<uint32_t> maglev_table(std::span<const MaglevEndpoint> endpoints, uint64_t seed, uint32_t size) {
    std::vector<uint32_t> table(size, maglev_nobody);
    std::vector<Preference> preferences = preferences_of(endpoints, seed, size);
    uint64_t heaviest = 0;
    for (const Preference& preference : preferences)
        heaviest = std::max(heaviest, preference.weight);
    if (heaviest == 0) return table;

    for (uint32_t filled = 0;;) {
        for (Preference& preference : preferences) {
            preference.credit += preference.weight;
            if (preference.credit < heaviest) continue;
            preference.credit -= heaviest;
            const auto advance = [&] {
                const uint32_t slot = preference.next;
                const uint64_t next = uint64_t{slot} + preference.skip;
                preference.next = static_cast<uint32_t>(next < size ? next : next - size);
                return slot;
            };
            uint32_t slot = advance();
            while (table[slot] != maglev_nobody)
                slot = advance();
            table[slot] = preference.index;
            if (++filled == size) return table;
        }
    }
}

uint64_t maglev_hash(const IpAddress& client, uint64_t seed) {
    return hash_of(client.bytes, seed, Use::client);
}

}  // namespace marchproxy::routing
