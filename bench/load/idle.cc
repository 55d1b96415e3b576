#include <iostream>
#include <vector>

#include "modes.h"
#include "sockets.h"

namespace marchproxy::bench {

nlohmann::json run_idle(const Idle& options) {
    std::vector<Descriptor> connections;
    connections.reserve(options.connections);
    for (unsigned i = 0; i < options.connections; ++i) {
        connections.push_back(connect_blocking(options.target));
        exchange(connections.back().get());  // held after use: what a proxy allotted for the bytes shows too
    }
    std::cout << nlohmann::json{{"open", connections.size()}}.dump() << std::endl;
    std::string line;
    while (std::getline(std::cin, line)) {
    }
    for (const Descriptor& connection : connections)
        exchange(connection.get());
    return {{"alive", connections.size()}};
}

}  // namespace marchproxy::bench
