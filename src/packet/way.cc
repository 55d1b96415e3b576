#include "packet/way.h"

#include "packet/device.h"

namespace marchproxy::packet {

namespace {

// Measured between namespaces (docs/benchmarks.md, packet-tcp): one TCP stream 10 Gbit/s at TC, 3 at XDP.
constexpr auto why_no_xdp_on_veth =
    "a veth pair hands over packets merged and with checksums yet to be computed, which XDP cannot take: its far end "
    "would have to be set up for it (ethtool -K IFACE tx off gro on), and bulk transfers would be slower; packet.mode: "
    "native attaches XDP all the same";

}  // namespace

Candidates candidates_for(PacketMode mode, std::string_view driver) {
    Candidates candidates{.ways = ways_for(mode), .passed_over = {}};
    if (driver != veth_driver || mode != PacketMode::automatic) return candidates;
    std::erase_if(candidates.ways, is_xdp);
    candidates.passed_over.push_back({Way::native, why_no_xdp_on_veth});
    return candidates;
}

}  // namespace marchproxy::packet
