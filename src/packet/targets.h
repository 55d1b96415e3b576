// Whom a service's packets may go to, and from which of our addresses. Pure.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/resolution.h"
#include "model/snapshot.h"

namespace marchproxy::packet {

struct Target {
    SocketAddress address;
    std::string path;                    // name of a Path; empty: none
    std::optional<IpAddress> gateway{};  // the next hop; none: as the routes say
    uint32_t weight = 100;               // 0 takes no new flows
    std::optional<uint32_t> share{};     // of new flows; none: its weight's
    bool up = true;                      // what the caller knows of its health
    bool draining = false;
    bool lost = false;  // known to be dead, while others are there: its flows end, and begin anew with another one
    bool operator==(const Target&) const = default;
};

// The service's endpoints by address, each once, in the order of the configuration. Only of the family of its own
// address: packets are not translated between families. Of one address by several paths the first is taken: packets of
// a flow carry no more than their addresses to be told apart by. `snapshot`: whose paths count.
std::vector<Target> targets_of(const Service& service, const Resolution& resolution, const Snapshot& snapshot);

// Our own addresses, from which we speak to endpoints.
struct SourceAddresses {
    std::vector<IpAddress> general;                         // IPv4 and IPv6, in the order of preference
    std::map<IpAddress, IpAddress> by_next_hop;             // instead of those: what the routes prefer to go there
    std::map<std::string, std::vector<IpAddress>> by_path;  // instead of both; by name of path

    std::vector<IpAddress> towards(const Target& target) const;  // of its family, each once
    std::vector<IpAddress> all() const;
};

}  // namespace marchproxy::packet
