// A service's access lists as prefixes of which the longest decides. Pure.
#pragma once

#include <utility>
#include <vector>

#include "model/snapshot.h"

namespace marchproxy::packet {

// The verdict of an entry, true: may pass, is that of all addresses whose longest match it is. Sorted, so that a prefix
// comes directly before all those inside it.
using AccessEntries = std::vector<std::pair<Prefix, bool>>;

struct FoldedAccess {
    AccessEntries entries;
    bool others_pass = true;  // whoever no entry covers
};

// Folds "deny wins over allow; an empty allow list is everybody" into as few entries as say the same.
FoldedAccess fold_access(const Access& access);

}  // namespace marchproxy::packet
