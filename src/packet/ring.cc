#include "packet/ring.h"

#include <algorithm>
#include <array>
#include <string>

#include "routing/maglev.h"
#include "routing/steering.h"

namespace marchproxy::packet {

uint32_t ring_size(Policy policy, size_t targets) {
    constexpr std::array<uint32_t, 2> primes{2'039, 8'191};
    if (policy != Policy::maglev)
        for (const uint32_t prime : primes)
            if (targets * 100 <= prime) return prime;
    return routing::maglev_size(targets);
}

namespace {

bool has_share(const Target& target) {
    return target.share.value_or(1) > 0;
}

// Those with a share that are up; or who is; or anybody.
std::vector<bool> who_takes(std::span<const Target> targets) {
    std::vector<bool> takes;
    const auto ask = [&](bool also_without, bool also_down) {
        takes.clear();
        for (const Target& target : targets)
            takes.push_back(target.weight > 0 && !target.draining && (has_share(target) || also_without) &&
                            (target.up || also_down));
        return std::find(takes.begin(), takes.end(), true) != takes.end();
    };
    if (!ask(false, false) && !ask(true, false)) ask(true, true);
    return takes;
}

// A client's endpoint depends on weights alone with `maglev`, so that all nodes agree. A target without a share has its
// slots by weight, as it may have to take flows, and gives them up while it has not.
uint32_t weight_of(Policy policy, const Target& target) {
    if (target.weight == 0) return 0;
    if (policy != Policy::maglev && target.share && *target.share > 0) return *target.share;
    const uint32_t unit = policy != Policy::maglev && target.share ? routing::share_unit : 1;
    return unit * (policy == Policy::round_robin ? 1 : target.weight);
}

}  // namespace

std::vector<uint32_t> ring_of(Policy policy, uint64_t seed, std::span<const Target> targets) {
    const std::vector<bool> takes = who_takes(targets);
    if (std::find(takes.begin(), takes.end(), true) == takes.end()) return {};
    std::vector<std::string> names;
    for (const Target& target : targets)
        names.push_back(to_string(target.address));
    std::vector<routing::MaglevEndpoint> endpoints;
    for (size_t i = 0; i < targets.size(); ++i) {
        endpoints.push_back({names[i], weight_of(policy, targets[i])});
    }
    std::vector<uint32_t> ring = routing::maglev_table(endpoints, seed, ring_size(policy, targets.size()));

    // Backwards, twice round, so that the next slot that stays is known at each; `next` is one after the first lap.
    uint32_t next = 0;
    for (size_t step = 2 * ring.size(); step > 0; --step) {
        uint32_t& slot = ring[(step - 1) % ring.size()];
        if (takes[slot]) {
            next = slot;
        } else if (step <= ring.size()) {
            slot = next;
        }
    }
    return ring;
}

std::optional<uint32_t> find_region(const std::map<uint32_t, uint32_t>& taken, uint32_t slots, uint32_t limit) {
    uint64_t first = 0;
    for (const auto& [at, length] : taken) {
        if (at >= first + slots) break;
        first = std::max(first, uint64_t{at} + length);
    }
    if (first + slots > limit) return std::nullopt;
    return static_cast<uint32_t>(first);
}

}  // namespace marchproxy::packet
