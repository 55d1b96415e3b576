#include "stream/near_leg.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <fstream>

namespace marchproxy::stream {

namespace {

std::string system_congestion_control() {
    std::string name;
    std::ifstream("/proc/sys/net/ipv4/tcp_congestion_control") >> name;
    return name;
}

bool is_near(int descriptor) {
    tcp_info info{};
    socklen_t size = sizeof info;
    if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return false;
    // tcpi_rtt is smoothed and in microseconds; it is 0 before the first sample.
    return info.tcpi_rtt != 0 && std::chrono::microseconds(info.tcpi_rtt) < NearLeg::near_round_trip;
}

}  // namespace

void NearLeg::configure(const std::string& setting) {
    only_when_near_ = setting == "auto";
    if (setting == "system")
        wanted_.clear();
    else if (setting != "auto")
        wanted_ = setting;
    else
        wanted_ = system_congestion_control() == "bbr" ? "cubic" : "";
}

void NearLeg::apply(int descriptor) const {
    if (wanted_.empty() || (only_when_near_ && !is_near(descriptor))) return;
    // Refused where the administrator restricts the choice (tcp_allowed_congestion_control): the leg keeps what it has.
    setsockopt(descriptor, IPPROTO_TCP, TCP_CONGESTION, wanted_.data(), static_cast<socklen_t>(wanted_.size()));
}

}  // namespace marchproxy::stream
