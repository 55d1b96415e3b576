// What the packet plane asks the machine: its own addresses, the ports that its sockets leave free, its memory.
// Thread: the control thread; each takes microseconds to milliseconds.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "model/address.h"
#include "model/result.h"

namespace marchproxy::packet {

// Of all interfaces, in the calling thread's network namespace.
std::set<IpAddress> own_addresses();

// Ports at our own addresses for flows to endpoints. They must not meet those that the kernel gives to the machine's
// own sockets (net.ipv4.ip_local_port_range): a packet that comes back shows no more than the port of whose it is.
struct PortRange {
    uint16_t first = 1024, count = 64'512;
};
PortRange ports_beside(uint32_t first_local, uint32_t last_local);  // the larger part, above 1023
PortRange free_ports();

uint64_t available_memory();  // bytes; 0: unknown

// Lets the programs ask for routes as the machine itself does, from the loopback interface: the kernel answers only for
// interfaces that forward, and lo is the one on which that opens nothing to anybody.
Result<void> allow_route_lookups();

}  // namespace marchproxy::packet
