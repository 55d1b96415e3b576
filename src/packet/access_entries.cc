#include "packet/access_entries.h"

#include <algorithm>

namespace marchproxy::packet {
namespace {

struct Listed {
    bool allowed = false, denied = false;

    void add(const Listed& other) {
        allowed |= other.allowed;
        denied |= other.denied;
    }
};

struct Level {
    Prefix prefix;
    Listed listed;  // by this prefix or one around it
    bool passes;
};

// Where IPv4 addresses are held. As Prefix::contains has it, an IPv6 prefix around it does not mean them, so that here
// everything begins anew.
Prefix all_v4() {
    return {IpAddress::any_v4(), 96};
}

// Bit by bit, unlike Prefix::contains: as the tree does it.
bool surrounds(const Prefix& outer, const Prefix& inner) {
    if (outer.length > inner.length) return false;
    const size_t whole = outer.length / 8, rest = outer.length % 8;
    if (!std::equal(outer.ip.bytes.begin(), outer.ip.bytes.begin() + whole, inner.ip.bytes.begin())) return false;
    return rest == 0 || (outer.ip.bytes[whole] ^ inner.ip.bytes[whole]) >> (8 - rest) == 0;
}

// Each prefix once, sorted.
std::vector<std::pair<Prefix, Listed>> all_of(const Access& access) {
    std::vector<std::pair<Prefix, Listed>> all;
    for (const Prefix& prefix : access.allow)
        all.push_back({prefix, {.allowed = true}});
    for (const Prefix& prefix : access.deny)
        all.push_back({prefix, {.denied = true}});
    if (!all.empty()) all.push_back({all_v4(), {}});
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    size_t kept = 0;
    for (size_t i = 0; i < all.size(); ++i) {
        if (kept > 0 && all[kept - 1].first == all[i].first)
            all[kept - 1].second.add(all[i].second);
        else
            all[kept++] = all[i];
    }
    all.resize(kept);
    return all;
}

}  // namespace

// What lies around the one looked at is a stack.
FoldedAccess fold_access(const Access& access) {
    FoldedAccess folded{.entries = {}, .others_pass = access.allow.empty()};
    std::vector<Level> around;
    for (const auto& [prefix, listed] : all_of(access)) {
        const bool fresh = prefix == all_v4();
        while (!around.empty() && !surrounds(around.back().prefix, prefix))
            around.pop_back();
        // What the tree would answer without this entry: an IPv6 prefix around IPv4's block stays on the stack for it.
        const bool answer = around.empty() ? folded.others_pass : around.back().passes;
        Level level{prefix, listed, false};
        if (!fresh && !around.empty()) level.listed.add(around.back().listed);
        level.passes = !level.listed.denied && (access.allow.empty() || level.listed.allowed);
        if (level.passes != answer) folded.entries.emplace_back(prefix, level.passes);
        around.push_back(level);
    }
    return folded;
}

}  // namespace marchproxy::packet
