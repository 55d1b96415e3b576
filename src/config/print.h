// The effective configuration as /api/v1/config shows it: the contract's spelling of every key, rates in bits per
// second, sizes in bytes, durations in seconds, shares from 0 to 1; null where nothing is set; secrets as "***".
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "model/snapshot.h"

namespace marchproxy::config {

nlohmann::json to_json(const Snapshot& snapshot);

}  // namespace marchproxy::config
