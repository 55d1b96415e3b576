// VLAN devices (802.1Q, 802.1ad) of the network namespace: what XDP has to know of them, which sees frames with their
// tags in, and can send them only to the device below. Pure, but for the bytes of the routing socket.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "abi/packet.h"
#include "netlink/netlink.h"

namespace marchproxy::packet {

struct Vlan {
    std::string name;
    unsigned below = 0;      // index of the device that it is on
    bool elsewhere = false;  // that one is in another network namespace
    uint32_t tag = 0;        // as it lies in a frame
    bool operator==(const Vlan&) const = default;
};
using Vlans = std::map<unsigned, Vlan>;  // by index

// Brings `vlans` up to date with what one datagram of the routing socket says. Takes any bytes.
void note_vlans(netlink::Bytes datagram, Vlans& vlans);

// What the programs are told. A device on top of another VLAN device has no parent there: it would take two tags.
std::map<unsigned, abi::packet_vlan> records_of(const Vlans& vlans);

// By which device the kernel itself would see a frame with this tag, or without (0), that came in by `interface`. 0: by
// none.
unsigned device_of(const Vlans& vlans, unsigned interface, uint32_t tag);

// The devices that XDP cannot send by, and why, for people.
std::vector<std::string> out_of_reach(const Vlans& vlans);

}  // namespace marchproxy::packet
