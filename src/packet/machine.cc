#include "packet/machine.h"

#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>

#include "packet/pinned_text.h"

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

unsigned possible_cpus() {
    const int cpus = libbpf_num_possible_cpus();
    return cpus > 0 ? static_cast<unsigned>(cpus) : 1;
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

namespace {

// Of IP version '4' or '6'.
std::string forwarding_file(char version, const char* interface) {
    return fmt::format("/proc/sys/net/ipv{}/conf/{}/forwarding", version, interface);
}
std::string forwarding_name(char version) {
    return fmt::format("net.ipv{}.conf.lo.forwarding", version);
}

// Nothing: a kernel without IPv6 has no such file.
std::optional<bool> forwards(char version, const char* interface) {
    std::ifstream input(forwarding_file(version, interface));
    int value = 0;
    return input >> value ? std::optional(value != 0) : std::nullopt;
}

bool set_forwarding_of_lo(char version, char value) {
    std::ofstream output(forwarding_file(version, "lo"));
    return static_cast<bool>(output << value << std::flush);
}

std::string note_in(const std::string& directory) {
    return directory + "/forwarding";
}

}  // namespace

// The note comes first: whenever the process ends, it names what is to be set back.
Result<void> allow_route_lookups(const std::string& directory, bool ipv6) {
    std::string wanting;
    for (const char version : std::string_view(ipv6 ? "46" : "4"))
        if (forwards(version, "lo") == false) wanting += version;
    if (wanting.empty()) return {};
    std::string noted = read_pinned_text(note_in(directory)).value_or("");
    for (const char version : wanting)
        if (noted.find(version) == std::string::npos) noted += version;
    if (auto written = write_pinned_text(note_in(directory), noted); !written.ok()) return written;
    for (const char version : wanting)
        if (!set_forwarding_of_lo(version, '1'))
            return Error{fmt::format(
                "{0} is 0 and cannot be written ({1}); the packet plane asks for routes there: set it to 1 (sysctl -w "
                "{0}=1; it forwards nothing for anybody)",
                forwarding_name(version), std::strerror(errno))};
    return {};
}

std::vector<std::string> end_route_lookups(const std::string& directory) {
    std::vector<std::string> left;
    for (const char version : read_pinned_text(note_in(directory)).value_or("")) {
        if (forwards(version, "lo") != true || forwards(version, "all") == true) continue;
        if (!set_forwarding_of_lo(version, '0'))
            left.push_back(
                fmt::format("{0} stays 1, which forwards nothing for anybody, and cannot be written ({1}): "
                            "sysctl -w {0}=0",
                            forwarding_name(version), std::strerror(errno)));
    }
    if (left.empty()) ::unlink(note_in(directory).c_str());
    return left;
}

}  // namespace marchproxy::packet
