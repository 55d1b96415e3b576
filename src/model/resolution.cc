#include "model/resolution.h"

#include <set>

namespace marchproxy {

std::vector<SocketAddress> addresses_of(const Endpoint& endpoint, const Resolution& resolution) {
    if (const auto literal = IpAddress::parse(endpoint.address.host)) return {{*literal, endpoint.address.port}};
    const auto found = resolution.find(endpoint.address);
    return found == resolution.end() ? std::vector<SocketAddress>{} : found->second;
}

std::vector<ResolvedEndpoint> resolved_endpoints(const Service& service, const Resolution& resolution,
                                                 const PathTable& paths) {
    std::vector<ResolvedEndpoint> result;
    std::set<std::pair<SocketAddress, std::string>> seen;
    for (const Endpoint& endpoint : service.endpoints)
        for (const SocketAddress& address : addresses_of(endpoint, resolution)) {
            const std::string& path = endpoint.path.empty() ? paths.path_to(address.ip) : endpoint.path;
            if (seen.emplace(address, path).second) result.push_back({&endpoint, address, path});
        }
    return result;
}

}  // namespace marchproxy
