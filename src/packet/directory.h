// Builds the directory that packets are looked up in: pure, from entries to the table as it lies in the map.
#pragma once

#include <memory>
#include <span>

#include "abi/packet.h"
#include "model/address.h"
#include "model/result.h"

namespace marchproxy::packet {

abi::address to_abi(const IpAddress& address);
IpAddress from_abi(const abi::address& address);
uint16_t to_network(uint16_t port);

// Fails where two entries have the same address, port and protocol, naming them, and where they are too many for
// directory_slots, which is from about 25,000.
Result<std::unique_ptr<abi::directory>> build_directory(std::span<const abi::directory_entry> entries);

}  // namespace marchproxy::packet
