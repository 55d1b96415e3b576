// How what is sent to an endpoint leaves this machine.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

#include "model/address.h"

namespace marchproxy {

struct Egress {
    std::optional<IpAddress> source;   // that it comes from; none: what the routes prefer
    std::optional<IpAddress> gateway;  // the next hop; none: as the routes say
    // By which the kernel knows packets that are to go by the gateway (gateways/gateways.h). 0: there is no gateway, or
    // it cannot be used, and nothing is to leave another way.
    uint32_t mark = 0;

    bool is_possible() const { return !gateway || mark != 0; }
    auto operator<=>(const Egress&) const = default;
};

}  // namespace marchproxy
