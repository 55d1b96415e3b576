// What the kernel and its driver say of an interface (netdevice(7), ethtool), by its name in the calling thread's
// network namespace. Each takes microseconds. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace marchproxy::packet {

inline constexpr std::string_view veth_driver = "veth";

std::string driver_of(const std::string& interface);  // empty: it names none
unsigned mtu_of(const std::string& interface);        // bytes; 0: not known
std::optional<std::array<uint8_t, 6>> hardware_address(const std::string& interface);

unsigned receive_queues(const std::string& interface);  // 1 where that is not known

// Whether the card takes a frame's tag out before XDP sees it.
bool takes_tags_off(const std::string& interface);

}  // namespace marchproxy::packet
