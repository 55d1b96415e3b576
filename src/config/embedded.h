// A configuration that is part of another document, as in the simulator's scenarios.
#pragma once

#include "config/document.h"
#include "model/snapshot.h"

namespace marchproxy::config {

// `root`: the map that a configuration file would be. What is wrong is told with its place in the document.
Snapshot read_embedded(Node root, Problems& problems);

}  // namespace marchproxy::config
