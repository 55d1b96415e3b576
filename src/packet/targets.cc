#include "packet/targets.h"

#include <algorithm>
#include <set>

namespace marchproxy::packet {

std::vector<Target> targets_of(const Service& service, const Resolution& resolution, const Snapshot& snapshot) {
    std::vector<Target> targets;
    std::set<SocketAddress> seen;
    for (const auto& [endpoint, address, path] : resolved_endpoints(service, resolution, snapshot.path_table))
        if (address.ip.is_v4() == service.listen.ip.is_v4() && seen.insert(address).second)
            targets.push_back({.address = address,
                               .path = path,
                               .gateway = snapshot.egress(path, address.ip).gateway,
                               .weight = endpoint->weight});
    return targets;
}

namespace {

void append(const std::vector<IpAddress>& from, const auto& wanted, std::vector<IpAddress>& to) {
    for (const IpAddress& address : from)
        if (wanted(address) && std::find(to.begin(), to.end(), address) == to.end()) to.push_back(address);
}

}  // namespace

std::vector<IpAddress> SourceAddresses::towards(const Target& target) const {
    const bool v4 = target.address.ip.is_v4();
    const auto same_family = [v4](const IpAddress& address) { return address.is_v4() == v4; };
    std::vector<IpAddress> found;
    if (const auto of_path = by_path.find(target.path); of_path != by_path.end())
        append(of_path->second, same_family, found);
    if (const auto route = by_next_hop.find(target.gateway.value_or(target.address.ip));
        found.empty() && route != by_next_hop.end())
        found.push_back(route->second);
    if (found.empty()) append(general, same_family, found);
    return found;
}

std::vector<IpAddress> SourceAddresses::all() const {
    const auto any = [](const IpAddress&) { return true; };
    std::vector<IpAddress> found;
    append(general, any, found);
    for (const auto& [destination, source] : by_next_hop)
        append({source}, any, found);
    for (const auto& [path, addresses] : by_path)
        append(addresses, any, found);
    return found;
}

}  // namespace marchproxy::packet
