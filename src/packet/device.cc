#include "packet/device.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "model/descriptor.h"

namespace marchproxy::packet {

namespace {

bool ask(const std::string& interface, unsigned long question, ifreq& request) {
    const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    interface.copy(request.ifr_name, sizeof request.ifr_name - 1);
    return socket && ::ioctl(socket.get(), question, &request) == 0;
}

// `question` is one of ethtool's shapes, its command filled in.
template <class Question>
bool ask_driver(const std::string& interface, Question& question) {
    ifreq request{};
    request.ifr_data = reinterpret_cast<char*>(&question);
    return ask(interface, SIOCETHTOOL, request);
}

}  // namespace

std::string driver_of(const std::string& interface) {
    ethtool_drvinfo driver{.cmd = ETHTOOL_GDRVINFO};
    if (!ask_driver(interface, driver)) return {};
    return {driver.driver, ::strnlen(driver.driver, sizeof driver.driver)};
}

unsigned mtu_of(const std::string& interface) {
    ifreq request{};
    return ask(interface, SIOCGIFMTU, request) ? static_cast<unsigned>(request.ifr_mtu) : 0;
}

std::optional<std::array<uint8_t, 6>> hardware_address(const std::string& interface) {
    ifreq request{};
    if (!ask(interface, SIOCGIFHWADDR, request)) return {};
    std::array<uint8_t, 6> address{};
    std::memcpy(address.data(), request.ifr_hwaddr.sa_data, address.size());
    return address;
}

unsigned receive_queues(const std::string& interface) {
    ethtool_channels channels{.cmd = ETHTOOL_GCHANNELS};
    return ask_driver(interface, channels) ? std::max(channels.rx_count + channels.combined_count, 1U) : 1;
}

bool takes_tags_off(const std::string& interface) {
    ethtool_value flags{.cmd = ETHTOOL_GFLAGS};
    return ask_driver(interface, flags) && (flags.data & ETH_FLAG_RXVLAN) != 0;
}

}  // namespace marchproxy::packet
