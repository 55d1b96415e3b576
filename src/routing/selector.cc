#include "routing/selector.h"

#include <algorithm>
#include <cassert>

#include "routing/maglev.h"
#include "routing/rotation.h"
#include "routing/siphash.h"

namespace marchproxy::routing {
namespace {

// Up to here least_connections compares all endpoints; above, two drawn at random (Mitzenmacher, "The Power of Two
// Choices in Randomized Load Balancing", 2001), which is nearly as even and costs the same for any number of them.
constexpr size_t few = 64;

// How many slots are looked at before all endpoints are gone through one by one instead. Only reached when most of them
// are down, drain or were tried.
constexpr size_t patience = 64;

// SplitMix64's finalizer (Steele, Lea and Flood, OOPSLA 2014).
uint64_t mix(uint64_t value) {
    value += 0x9e3779b97f4a7c15;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

// Uniform below `bound`, without a division (Lemire, 2019); the bias is bound / 2^64.
uint64_t below(uint64_t bound, uint64_t random) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>(Wide{random} * bound >> 64);
}

std::vector<uint32_t> maglev_of(std::span<const Candidate> candidates, uint64_t seed) {
    std::vector<MaglevEndpoint> endpoints;
    for (const Candidate& candidate : candidates)
        endpoints.push_back({candidate.identity, candidate.weight});
    return maglev_table(endpoints, seed, maglev_size(endpoints.size()));
}

}  // namespace

Selector::Selector(Policy policy, uint64_t seed, std::span<const Candidate> candidates, const Shares* shares)
    : policy_(policy), seed_(seed), trust_health_(!shares || shares->trust_health) {
    std::vector<uint32_t> turns;
    for (size_t i = 0; i < candidates.size(); ++i) {
        const Candidate& candidate = candidates[i];
        assert(candidate.state != nullptr);
        const uint32_t share = shares                          ? shares->of[i]
                               : policy == Policy::round_robin ? std::min(candidate.weight, 1U)
                                                               : candidate.weight;
        const std::span identity(reinterpret_cast<const uint8_t*>(candidate.identity.data()),
                                 candidate.identity.size());
        entries_.push_back({.state = candidate.state,
                            .share = share,
                            .takes = candidate.weight > 0,
                            .inverse_share = share == 0 ? 0 : 1.0 / share,
                            .rank = siphash13(seed, 0, identity)});
        turns.push_back(share);
    }
    if (std::none_of(entries_.begin(), entries_.end(), [](const Entry& entry) { return entry.takes; })) return;
    slots_ = policy == Policy::maglev ? maglev_of(candidates, seed) : weighted_rotation(turns);
    if (shares && policy != Policy::maglev && std::find(turns.begin(), turns.end(), 0U) != turns.end())
        order_ = shares->order;
}

bool Selector::fits(uint32_t index, const Question& question, Need need) const {
    const Entry& entry = entries_[index];
    const uint8_t closed = entry.state->closed.load(std::memory_order_relaxed);
    if (!entry.takes || (closed & closed_for_all)) return false;
    if (need == Need::healthy && trust_health_ && (closed || !entry.state->health.usable(question.now))) return false;
    return std::find(question.tried.begin(), question.tried.end(), index) == question.tried.end();
}

// Another worker may have taken the one trial since fits() looked.
bool Selector::take(uint32_t index, const Question& question, Need need) const {
    return need == Need::any || !trust_health_ || entries_[index].state->health.take(question.now);
}

double Selector::load_of(uint32_t index) const {
    const Entry& entry = entries_[index];
    return static_cast<double>(entry.state->active.load(std::memory_order_relaxed) + 1) * entry.inverse_share;
}

std::optional<uint32_t> Selector::choose(const Question& question) const {
    for (const Need need : {Need::healthy, Need::any}) {
        std::optional<uint32_t> choice = slots_.empty() ? std::nullopt : by_policy(question, need);
        if (!choice) choice = in_order(question, need);
        if (choice) return choice;
    }
    return std::nullopt;
}

std::optional<uint32_t> Selector::by_policy(const Question& question, Need need) const {
    switch (policy_) {
        case Policy::maglev:
            return by_client(question, need);
        case Policy::least_connections:
            return least_loaded(question, need);
        default:
            return in_turn(question, need);
    }
}

// The next best, when those with turns are not to be had.
std::optional<uint32_t> Selector::in_order(const Question& question, Need need) const {
    for (const uint32_t index : order_)
        if (fits(index, question, need) && take(index, question, need)) return index;
    return std::nullopt;
}

// Whom it passes over loses the turn, and the cursor stands behind whom it takes: so the others share a missing one's
// turns by their weights, instead of its successor having them all.
std::optional<uint32_t> Selector::in_turn(const Question& question, Need need) const {
    size_t slot = question.cursor < slots_.size() ? question.cursor : question.cursor % slots_.size();
    for (size_t step = 0; step < std::min(slots_.size(), patience); ++step) {
        const uint32_t index = slots_[slot];
        slot = slot + 1 < slots_.size() ? slot + 1 : 0;
        if (!fits(index, question, need) || !take(index, question, need)) continue;
        question.cursor = slot;
        return index;
    }
    if (slots_.size() <= patience) return std::nullopt;
    return by_weight(question, need);
}

std::optional<uint32_t> Selector::by_weight(const Question& question, Need need) const {
    uint64_t total = 0;
    for (uint32_t i = 0; i < entries_.size(); ++i)
        if (fits(i, question, need)) total += entries_[i].share;
    uint64_t point = below(total, mix(question.random + ++question.cursor));
    for (uint32_t i = 0; i < entries_.size(); ++i) {
        if (!fits(i, question, need)) continue;
        if (point < entries_[i].share && take(i, question, need)) return i;
        point -= std::min(point, uint64_t{entries_[i].share});
    }
    return std::nullopt;
}

std::optional<uint32_t> Selector::least_loaded(const Question& question, Need need) const {
    std::optional<uint32_t> best;
    double least = 0;
    const auto consider = [&](uint32_t index) {
        if (entries_[index].share == 0) return;
        const double load = load_of(index);
        if (best && load >= least) return;
        best = index;
        least = load;
    };

    uint64_t random = question.random;
    if (entries_.size() > few) {
        for (size_t draw = 0, found = 0; draw < patience && found < 2; ++draw, random = mix(random)) {
            const uint32_t index = slots_[below(slots_.size(), random)];
            if (!fits(index, question, need)) continue;
            consider(index);
            ++found;
        }
    }
    if (!best) {
        // From a random one on, so that those equally loaded take turns.
        auto index = static_cast<uint32_t>(below(entries_.size(), random));
        for (size_t step = 0; step < entries_.size(); ++step) {
            if (fits(index, question, need)) consider(index);
            index = index + 1 < entries_.size() ? index + 1 : 0;
        }
    }
    if (best && take(*best, question, need)) return best;
    return std::nullopt;
}

// From an endpoint that is not to be had, on to the next slots: each client of a missing endpoint finds another one of
// its own, the same on every node that sees the same endpoints up.
std::optional<uint32_t> Selector::by_client(const Question& question, Need need) const {
    const uint64_t hash = maglev_hash(question.client, seed_);
    size_t slot = hash % slots_.size();
    for (size_t step = 0; step < patience; ++step) {
        const uint32_t index = slots_[slot];
        if (fits(index, question, need) && take(index, question, need)) return index;
        slot = slot + 1 < slots_.size() ? slot + 1 : 0;
    }
    return by_rank(question, need, hash);
}

// Rendezvous hashing (Thaler and Ravishankar, 1998) among the few that are left.
std::optional<uint32_t> Selector::by_rank(const Question& question, Need need, uint64_t hash) const {
    std::optional<uint32_t> best;
    uint64_t highest = 0;
    for (uint32_t i = 0; i < entries_.size(); ++i) {
        if (!fits(i, question, need)) continue;
        const uint64_t rank = mix(hash ^ entries_[i].rank);
        if (best && rank <= highest) continue;
        best = i;
        highest = rank;
    }
    if (best && take(*best, question, need)) return best;
    return std::nullopt;
}

}  // namespace marchproxy::routing
