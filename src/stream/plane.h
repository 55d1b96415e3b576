// The stream plane: TCP and UDP proxying on sockets, one event loop a worker thread.
//
// Threads: all functions are called from the control thread or the admin threads (they lock), never from a worker.
#pragma once

#include <memory>
#include <vector>

#include "flow/query.h"
#include "model/resolution.h"
#include "model/snapshot.h"
#include "qos/shaper.h"
#include "routing/endpoint_states.h"
#include "routing/steering.h"
#include "stream/status.h"
#include "telemetry/log.h"

namespace marchproxy::stream {

// A bound socket handed from one process image to the next (SIGUSR2) or by the service manager.
struct ListeningSocket {
    int descriptor = -1;
    Protocol protocol = Protocol::tcp;
    SocketAddress address;
};

class Plane {
  public:
    // Starts `workers` threads, idle until the first apply. `inherited` sockets are used in place of new ones and those
    // that no service wants are closed by the first apply.
    // A worker's desk in `shapers` is its number.
    Plane(unsigned workers, telemetry::Log& log, flow::Sink& flows, qos::Shapers& shapers,
          routing::EndpointStates& endpoint_states, const std::vector<ListeningSocket>& inherited = {});
    ~Plane();  // ends what is left and joins the workers
    Plane(const Plane&) = delete;
    Plane& operator=(const Plane&) = delete;

    // Takes over a snapshot, or the same one where only names resolve otherwise: opens what is new, closes what is
    // gone, and hands limits, access lists, timeouts and endpoints to the established connections too. All or nothing:
    // when a listener cannot be opened the error names it and what to do, and what ran before goes on unchanged.
    // `shares`: of services that are steered, by resolved_endpoints().
    Result<void> apply(SnapshotPointer snapshot, const Resolution& resolution,
                       const routing::SharesByService& shares = {});

    // Shares of some services' endpoints are others. When it returns, all workers choose by them.
    void steer(const routing::SharesByService& shares, const DecisionsByService& decisions = {});

    // An endpoint is known to be dead: connects to it that are under way go on with another one, UDP sessions get
    // another one with their next datagram, and connections end as the service's `on_down` says.
    void endpoint_down(const std::string& service, const SocketAddress& address, const std::string& path);

    // No new work; what is there goes on. SIGTERM: what waits in the listeners' queues is still taken, and UDP sessions
    // still hear their clients. `handed_over`: another process reads the same sockets from now on.
    void stop_accepting(bool handed_over = false);
    uint64_t active_connections() const;
    void end_all(Verdict reason);  // after drain_timeout

    // All listening sockets. They stay the plane's, and are valid until the next apply or stop_accepting.
    std::vector<ListeningSocket> listeners() const;

    // Looks at what moved since the last call, for the rates that status() tells. To be called about once a second.
    void measure(TimePoint now);

    // Since the process began, by service and path.
    std::vector<telemetry::PathTraffic> traffic() const;
    Status status() const;
    std::vector<flow::Record> active_flows(const flow::Query& query) const;

  private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace marchproxy::stream
