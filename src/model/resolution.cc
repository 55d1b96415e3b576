#include "model/resolution.h"

#include <set>

namespace marchproxy {

std::vector<SocketAddress> addresses_of(const Endpoint& endpoint, const Resolution& resolution) {
    if (const auto literal = IpAddress::parse(endpoint.address.host)) return {{*literal, endpoint.address.port}};
    const auto found = resolution.find(endpoint.address);
    return found == resolution.end() ? std::vector<SocketAddress>{} : found->second;
}

std::vector<ResolvedEndpoint> resolved_endpoints(const Service& service, const Resolution& resolution) {
    std::vector<ResolvedEndpoint> result;
    std::set<SocketAddress> seen;
    for (const Endpoint& endpoint : service.endpoints)
        for (const SocketAddress& address : addresses_of(endpoint, resolution))
            if (seen.insert(address).second) result.push_back({&endpoint, address});
    return result;
}

}  // namespace marchproxy
