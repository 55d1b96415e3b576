#include "packet/access_entries.h"

#include <algorithm>
#include <vector>

namespace marchproxy::packet {
namespace {

struct Listed {
    bool allowed = false, denied = false;
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

// Bit by bit, unlike Prefix::contains: as the trie does it.
bool surrounds(const Prefix& outer, const Prefix& inner) {
    if (outer.length > inner.length) return false;
    const size_t whole = outer.length / 8, rest = outer.length % 8;
    if (!std::equal(outer.ip.bytes.begin(), outer.ip.bytes.begin() + whole, inner.ip.bytes.begin())) return false;
    return rest == 0 || (outer.ip.bytes[whole] ^ inner.ip.bytes[whole]) >> (8 - rest) == 0;
}

}  // namespace

// Sorted, a prefix comes directly before all those inside it; what lies around the one looked at is a stack.
FoldedAccess fold_access(const Access& access) {
    std::map<Prefix, Listed> all;
    for (const Prefix& prefix : access.allow)
        all[prefix].allowed = true;
    for (const Prefix& prefix : access.deny)
        all[prefix].denied = true;
    if (!all.empty()) all[all_v4()];

    FoldedAccess folded{.entries = {}, .others_pass = access.allow.empty()};
    std::vector<Level> around;
    for (const auto& [prefix, listed] : all) {
        const bool fresh = prefix == all_v4();
        while (!around.empty() && !surrounds(around.back().prefix, prefix))
            around.pop_back();
        // What the trie would answer without this entry: an IPv6 prefix around IPv4's block stays on the stack for it.
        const bool answer = around.empty() ? folded.others_pass : around.back().passes;
        Level level{prefix, listed, false};
        if (!fresh && !around.empty()) {
            level.listed.allowed |= around.back().listed.allowed;
            level.listed.denied |= around.back().listed.denied;
        }
        level.passes = !level.listed.denied && (access.allow.empty() || level.listed.allowed);
        if (level.passes != answer) folded.entries[prefix] = level.passes;
        around.push_back(level);
    }
    return folded;
}

}  // namespace marchproxy::packet
