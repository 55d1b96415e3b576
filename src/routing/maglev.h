// Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4):
// a table that spreads clients evenly over endpoints and moves few of them when an endpoint comes or goes.
//
// Pure functions of identities, weights and seed; the order in the configuration changes nothing. Nodes that share
// these three choose alike, which is what lets any of them carry on any flow.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "model/address.h"

namespace marchproxy::routing {

struct MaglevEndpoint {
    std::string_view identity;  // unique in the service, the same on every node
    uint32_t weight = 1;        // relative; 0: not in the table
};

// The entry of a slot in which no endpoint is; only where none has a weight.
constexpr uint32_t maglev_nobody = UINT32_MAX;

// A prime of at least 100 slots an endpoint, so that shares differ by about one percent (the paper's 5.3); 65537 at
// least, so that few services ever change theirs, which would move every client.
uint32_t maglev_size(size_t endpoints);

// For each of `size` slots (a prime) the index of its endpoint. 4 bytes a slot.
std::vector<uint32_t> maglev_table(std::span<const MaglevEndpoint> endpoints, uint64_t seed, uint32_t size);

// Where a client stands in the tables of `seed`. The address alone, not the port: all connections of a client go to one
// endpoint, which is what `source` means to users of other proxies.
uint64_t maglev_hash(const IpAddress& client, uint64_t seed);

}  // namespace marchproxy::routing
