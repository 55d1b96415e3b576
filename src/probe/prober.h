// Asks targets again and again whether they are there, thousands of them from one thread, and tells what it finds: in
// gauges for whoever ranks them, and, the moment that one falls or rises, in the states of the endpoints behind it, so
// that no new connection goes to one that is known to be dead.
//
// A probe goes out each interval, or up to a tenth of that earlier: many probers, and many targets, are not to beat in
// time. While a target that is up does not answer, the next goes out as soon as the one before is lost: with the
// default probe a path that drops everything is down after 200 + 3 x 150 ms at most.
//
// Threads: any; the probing is on one of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "probe/gauge.h"
#include "probe/target.h"
#include "routing/endpoint_state.h"
#include "telemetry/log.h"

namespace marchproxy::probe {

struct Wanted {
    Target target;
    std::vector<std::shared_ptr<routing::EndpointState>> endpoints;  // that are there when the target is
};

struct Status {
    size_t targets = 0;
    uint64_t sent = 0, answered = 0, lost = 0;
    uint64_t late = 0;               // sent more than an interval later than they should have been: too much to do
    Duration cpu{};                  // that the thread has used
    std::vector<std::string> notes;  // what cannot work here
};

class Prober {
  public:
    // `changed` runs on the prober's thread when a target has fallen or risen, or was heard of for the first time; it
    // must only wake somebody.
    Prober(telemetry::Log& log, std::function<void()> changed);
    ~Prober();
    Prober(const Prober&) = delete;
    Prober& operator=(const Prober&) = delete;

    // Asks these from now on, and no others. What is known of those that were there before stays known. Returns the
    // gauges, in the same order. Endpoints that no target stands for any more are taken to be there.
    std::vector<std::shared_ptr<const Gauge>> follow(const std::vector<Wanted>& wanted);

    Status status() const;

  private:
    class Worker;
    std::unique_ptr<Worker> worker_;
};

}  // namespace marchproxy::probe
