// What the packet plane asks the machine: its own addresses, the ports that its sockets leave free, its memory; and
// what it sets there. Thread: the control thread; each takes microseconds to milliseconds.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

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

unsigned possible_cpus();  // that packets may come in on, now or later

uint64_t available_memory();  // bytes; 0: unknown

// Lets the programs ask for routes as the machine itself does, from the loopback interface: the kernel answers only for
// interfaces that forward, and lo is the one on which that opens nothing to anybody. Sets net.ipv4.conf.lo.forwarding
// to 1, and IPv6's where that is wanted. What was 0 is noted below `directory` (packet.pin), for the end.
Result<void> allow_route_lookups(const std::string& directory, bool ipv6);

// Sets back to 0 what the note names, unless the whole machine forwards by now, and removes the note. Returns what
// could not be set back, and what to do; the note stays then.
std::vector<std::string> end_route_lookups(const std::string& directory);

}  // namespace marchproxy::packet
