// What no single key can tell: names that are given twice or point nowhere, values that exclude each other.
#pragma once

#include "config/document.h"
#include "config/problems.h"
#include "model/snapshot.h"

namespace marchproxy::config {

// `root` is the tree that `snapshot` was bound from. Values that were refused there are passed over here.
void validate(const Snapshot& snapshot, const Node& root, Problems& problems);

}  // namespace marchproxy::config
