// Names as endpoints, once they have addresses. Pure: who looks them up is another's affair.
#pragma once

#include <map>
#include <vector>

#include "model/snapshot.h"

namespace marchproxy {

// Where the names among the endpoints are at the moment. Literal addresses need no entry.
using Resolution = std::map<HostPort, std::vector<SocketAddress>>;

// A literal's own address, a name's as they resolve; none: it has not resolved.
std::vector<SocketAddress> addresses_of(const Endpoint& endpoint, const Resolution& resolution);

struct ResolvedEndpoint {
    const Endpoint* endpoint;  // of the service
    SocketAddress address;
    std::string path;  // the endpoint's, or else the one whose destinations hold the address; empty: none
};

// The snapshot's service's endpoints by address, in the order of the configuration, each address once a path: two names
// may lead to one, which is one endpoint, the first's.
std::vector<ResolvedEndpoint> resolved_endpoints(const Service& service, const Resolution& resolution,
                                                 const PathTable& paths);

}  // namespace marchproxy
