#include "costs/tariff.h"

#include <algorithm>

namespace marchproxy::costs {

namespace {

constexpr double gigabyte = 1e9;

const CostTier& tier_at(const Tariff& tariff, uint64_t volume) {
    const auto found = std::find_if(tariff.tiers.begin(), tariff.tiers.end(),
                                    [&](const CostTier& tier) { return !tier.up_to || volume < tier.up_to->count; });
    return found == tariff.tiers.end() ? tariff.tiers.back() : *found;
}

}  // namespace

std::optional<double> price_at(const Tariff& tariff, uint64_t volume) {
    if (tariff.tiers.empty()) return std::nullopt;
    return tier_at(tariff, volume).cost;
}

double dollars_for(const Tariff& tariff, uint64_t volume, uint64_t bytes) {
    if (tariff.tiers.empty()) return 0;
    double dollars = 0;
    while (bytes > 0) {
        const CostTier& tier = tier_at(tariff, volume);
        const bool ends = tier.up_to && volume < tier.up_to->count;
        const uint64_t part = ends ? std::min(bytes, tier.up_to->count - volume) : bytes;
        dollars += static_cast<double>(part) / gigabyte * tier.cost;
        volume += part;
        bytes -= part;
    }
    return dollars;
}

uint64_t billed_bytes(Billed billed, uint64_t received, uint64_t sent) {
    switch (billed) {
        case Billed::sent:
            return sent;
        case Billed::received:
            return received;
        case Billed::both:
            break;
    }
    return received + sent;
}

}  // namespace marchproxy::costs
