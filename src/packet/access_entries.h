// A service's access list as the packet plane's trie holds it. Pure.
#pragma once

#include <map>

#include "model/snapshot.h"

namespace marchproxy::packet {

// The verdict of an entry is that of all addresses whose longest match it is.
using AccessEntries = std::map<Prefix, bool>;  // true: may pass

struct FoldedAccess {
    AccessEntries entries;
    bool others_pass = true;  // whoever no entry covers
};

// Folds "deny wins over allow; an empty allow list is everybody" into as few entries as say the same.
FoldedAccess fold_access(const Access& access);

}  // namespace marchproxy::packet
