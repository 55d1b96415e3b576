// Keeps the hardware addresses of next hops known to the kernel: the programs cannot wait for one. Those towards
// endpoints are resolved before packets need them and kept fresh; others when the programs ask. One thread at a time.
#pragma once

#include <set>
#include <vector>

#include "abi/packet.h"
#include "model/address.h"
#include "model/units.h"
#include "telemetry/log.h"

namespace marchproxy::packet {

class Neighbours {
  public:
    explicit Neighbours(telemetry::Log& log) : log_(log) {}

    // From now on, these; resolved with the next turn.
    void keep(std::set<IpAddress> endpoints);
    void routes_changed() { begin_again(); }

    TimePoint due() const { return endpoints_.empty() ? TimePoint::max() : due_; }
    void turn(TimePoint now);

    void take(const abi::neighbour_report& report);

    // Why endpoints cannot be reached, in words; of the last turn.
    const std::vector<std::string>& problems() const { return problems_; }

  private:
    // Fresh entries become stale after half a minute or more (net.ipv4.neigh.*.base_reachable_time).
    static constexpr Duration interval = std::chrono::seconds(20);
    // After a change a link may still be coming up: the first asking is in vain then, and is done again soon.
    static constexpr Duration soon = std::chrono::seconds(1);
    static constexpr int eager_turns = 3;

    void begin_again() {
        due_ = {};
        eager_ = eager_turns;
    }

    telemetry::Log& log_;
    std::set<IpAddress> endpoints_;
    std::vector<std::string> problems_;
    TimePoint due_{};
    int eager_ = 0;
};

}  // namespace marchproxy::packet
