// What bytes cost: by tiers of a calendar month's volume, as clouds price what leaves them.
//
// Gigabytes are 10^9 bytes. A tier holds up to its `up_to`, counted from the month's first byte; beyond the last tier
// its price goes on. Pure.
#pragma once

#include <cstdint>
#include <optional>

#include "model/snapshot.h"

namespace marchproxy::costs {

// Of the next gigabyte when so much has passed this month. None: nothing is known of what the path costs.
std::optional<double> price_at(const Tariff& tariff, uint64_t volume);

// Dollars for `bytes` more.
double dollars_for(const Tariff& tariff, uint64_t volume, uint64_t bytes);

// What the provider counts of traffic.
uint64_t billed_bytes(Billed billed, uint64_t received, uint64_t sent);

}  // namespace marchproxy::costs
