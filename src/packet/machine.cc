#include "packet/machine.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

namespace marchproxy::packet {

std::set<IpAddress> own_addresses() {
    std::set<IpAddress> addresses;
    ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return addresses;
    const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
        if (entry->ifa_addr == nullptr) continue;
        if (entry->ifa_addr->sa_family == AF_INET)
            addresses.insert(
                IpAddress::v4(ntohl(reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr.s_addr)));
        if (entry->ifa_addr->sa_family == AF_INET6) {
            IpAddress address;
            std::memcpy(address.bytes.data(), &reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr,
                        address.bytes.size());
            addresses.insert(address);
        }
    }
    return addresses;
}

PortRange ports_beside(uint32_t first_local, uint32_t last_local) {
    constexpr uint32_t lowest = 1024, beyond = 65'536;
    if (first_local > last_local || last_local >= beyond) return {};
    const uint32_t below = first_local > lowest ? first_local - lowest : 0;
    const uint32_t above_first = std::max(last_local + 1, lowest), above = beyond - above_first;
    if (below == 0 && above == 0) return {};  // they have all: there is nothing to choose from
    if (below >= above) return {static_cast<uint16_t>(lowest), static_cast<uint16_t>(below)};
    return {static_cast<uint16_t>(above_first), static_cast<uint16_t>(above)};
}

PortRange free_ports() {
    uint32_t first = 0, last = 0;
    std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first >> last;
    return first == 0 ? PortRange{} : ports_beside(first, last);
}

uint64_t available_memory() {
    std::ifstream input("/proc/meminfo");
    std::string name, unit;
    uint64_t kibibytes = 0;
    while (input >> name >> kibibytes) {
        std::getline(input, unit);
        if (name == "MemAvailable:") return kibibytes * 1024;
    }
    return 0;
}

Result<void> allow_route_lookups() {
    for (const char* path : {"/proc/sys/net/ipv4/conf/lo/forwarding", "/proc/sys/net/ipv6/conf/lo/forwarding"}) {
        std::ifstream input(path);
        int forwards = 0;
        if (!(input >> forwards) || forwards == 1) continue;  // a kernel without IPv6 has no such file
        std::ofstream output(path);
        if (!(output << "1" << std::flush))
            return Error{fmt::format(
                "{} is 0 and cannot be written ({}); the packet plane asks for routes there: set it to 1 (sysctl -w "
                "net.ipv4.conf.lo.forwarding=1 net.ipv6.conf.lo.forwarding=1; it forwards nothing for anybody)",
                path, std::strerror(errno))};
    }
    return {};
}

}  // namespace marchproxy::packet
