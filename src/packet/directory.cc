#include "packet/directory.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <cstring>

#include "bpf/lib/directory.h"

namespace marchproxy::packet {

abi::address to_abi(const IpAddress& address) {
    abi::address out;
    static_assert(sizeof out == sizeof address.bytes);
    std::memcpy(&out, address.bytes.data(), sizeof out);
    return out;
}

IpAddress from_abi(const abi::address& address) {
    IpAddress out;
    std::memcpy(out.bytes.data(), &address, sizeof address);
    return out;
}

uint16_t to_network(uint16_t port) {
    return htons(port);
}

namespace {

bool same(const abi::directory_entry& a, const abi::directory_entry& b) {
    return std::memcmp(&a.address, &b.address, sizeof a.address) == 0 && a.port_be == b.port_be &&
           a.protocol == b.protocol;
}

std::string name_of(const abi::directory_entry& entry) {
    const SocketAddress address{from_abi(entry.address), ntohs(entry.port_be)};
    return fmt::format("{} (protocol {})", to_string(address), entry.protocol);
}

}  // namespace

Result<std::unique_ptr<abi::directory>> build_directory(std::span<const abi::directory_entry> entries) {
    auto table = std::make_unique<abi::directory>();
    std::memset(table.get(), 0, sizeof *table);
    for (const abi::directory_entry& entry : entries) {
        uint32_t at = abi::directory_place(&entry.address, entry.port_be, entry.protocol);
        int probe = 0;
        for (; probe < abi::directory_probes; ++probe, at = (at + 1) & (abi::directory_slots - 1)) {
            abi::directory_entry& slot = table->entry[at];
            if (slot.kind == abi::directory_empty) {
                slot = entry;
                break;
            }
            if (same(slot, entry))
                return Error{fmt::format("packet plane: {} has two meanings; give one of them another address or port",
                                         name_of(entry))};
        }
        if (probe == abi::directory_probes)
            return Error{
                fmt::format("packet plane: the directory has no room for {} among {} addresses; spread the "
                            "services over more nodes",
                            name_of(entry), entries.size())};
    }
    return table;
}

}  // namespace marchproxy::packet
