// The packet plane in the process: decides which services it carries, keeps the kernel's programs, maps and interfaces
// as the snapshot wants them, takes what the kernel reports, and tells about all of it. What it set up outlives it: a
// process that ends, or is killed, leaves programs and flows working, and the next one goes on with them.
//
// Threads: prepare, apply and turn on the control thread; the others on any (they lock).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flow/query.h"
#include "model/snapshot.h"
#include "packet/status.h"
#include "packet/targets.h"
#include "qos/shaper.h"
#include "routing/endpoint_states.h"
#include "routing/steering.h"
#include "telemetry/log.h"

namespace marchproxy::packet {

class Plane {
  public:
    // `desk`: the packet plane's in `shapers`.
    Plane(telemetry::Log& log, flow::Sink& flows, qos::Shapers& shapers, routing::EndpointStates& endpoint_states,
          unsigned desk);
    ~Plane();  // leaves what is pinned
    Plane(const Plane&) = delete;
    Plane& operator=(const Plane&) = delete;

    // Everything of a snapshot that can fail or takes long, so that apply() does not: which services it can carry, the
    // programs loaded, the plan of the maps. Packets see nothing of it yet. Error: a service with `plane: packet`
    // cannot be carried, or something is used up; names it and what to do.
    // `shares`: of services that are steered, by resolved_endpoints().
    Result<void> prepare(SnapshotPointer snapshot, const Resolution& resolution,
                         const routing::SharesByService& shares = {});
    // Of what was prepared: whether the packet plane carries a service. The others are the stream plane's.
    bool carries(const std::string& service) const;

    // Takes over what was prepared. What fails here goes on being tried by turn() and is in status().
    void apply();

    // What the control thread waits for. turn() does what is due; true: the machine's addresses or routes have changed,
    // and the snapshot is to be prepared and applied again.
    std::vector<int> descriptors() const;
    TimePoint due() const;
    bool turn();

    // Another process goes on with the maps, or may: this one leaves them alone until it is told otherwise.
    void pause(bool paused);

    // Shares of some services' endpoints, or only the states of endpoints, are others: who takes new flows is planned
    // anew.
    void steer(const routing::SharesByService& shares);
    // Why they are as they are, for the records of flows that begin from now on.
    void explain(const DecisionsByService& decisions);

    // Since the process began, by service and path; as of the last second.
    std::vector<telemetry::PathTraffic> traffic() const;
    Status status() const;
    // Why the service is in the plane it is in.
    std::string reason(const std::string& service) const;
    std::vector<flow::Record> active_flows(const flow::Query& query) const;

    // Removes links, maps and everything else that is pinned in `pin`, and sets the machine back to what it was: the
    // packet plane ends there, whoever ran it. Idempotent.
    struct Removed {
        unsigned interfaces = 0;        // from which programs were taken
        std::vector<std::string> left;  // what could not be set back, and what to do
    };
    static Result<Removed> remove(const std::string& pin);

  private:
    class Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace marchproxy::packet
