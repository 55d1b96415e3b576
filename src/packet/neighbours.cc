#include "packet/neighbours.h"

#include <algorithm>
#include <map>

#include "packet/directory.h"
#include "packet/watch.h"

namespace marchproxy::packet {

void Neighbours::keep(std::set<IpAddress> endpoints) {
    if (endpoints == endpoints_) return;
    endpoints_ = std::move(endpoints);
    begin_again();
}

void Neighbours::turn(TimePoint now) {
    if (now < due_) return;
    due_ = now + (eager_ > 0 ? soon : interval);
    eager_ = std::max(eager_ - 1, 0);
    problems_.clear();
    std::map<std::pair<unsigned, IpAddress>, IpAddress> hops;  // and an endpoint behind each
    for (const IpAddress& endpoint : endpoints_) {
        const auto hop = find_next_hop(endpoint);
        if (!hop.ok())
            problems_.push_back(hop.error());
        else if (!hop->local)
            hops.try_emplace({hop->interface_index, hop->address}, endpoint);
    }
    for (const auto& [hop, endpoint] : hops)
        if (const auto asked = resolve_neighbour(endpoint); !asked.ok()) problems_.push_back(asked.error());
}

void Neighbours::take(const abi::neighbour_report& report) {
    const IpAddress address = from_abi(report.address);
    if (report.known) {
        learn_neighbour(report.interface, address, report.mac);
        return;
    }
    if (const auto asked = resolve_neighbour(address); !asked.ok())
        log_.limited(LogLevel::warn, "packet-neighbour", asked.error());
}

}  // namespace marchproxy::packet
