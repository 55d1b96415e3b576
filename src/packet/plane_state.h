// What plane.cc and plane_status.cc share: the packet plane's state. Nobody else includes this.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>

#include "packet/access_memo.h"
#include "packet/counts.h"
#include "packet/decision_log.h"
#include "packet/interfaces.h"
#include "packet/machine.h"
#include "packet/neighbours.h"
#include "packet/origins.h"
#include "packet/plan.h"
#include "packet/plane.h"
#include "packet/shaper.h"
#include "packet/suitability.h"
#include "packet/sweeper.h"
#include "packet/watch.h"
#include "routing/endpoint_states.h"

namespace marchproxy::packet {

class Plane::Implementation {
  public:
    Implementation(telemetry::Log& log, flow::Sink& flows, qos::Shapers& shapers,
                   routing::EndpointStates& endpoint_states, unsigned desk)
        : log_(log),
          flows_(flows),
          endpoint_states_(endpoint_states),
          neighbours_(log),
          shapers_(shapers),
          desk_(desk) {}

    Result<void> prepare(SnapshotPointer snapshot, const Resolution& resolution,
                         const routing::SharesByService& shares);
    void apply();
    bool turn();
    void let_go();
    void resume();
    std::vector<int> descriptors() const;
    TimePoint due() const;
    void steer(const routing::SharesByService& shares);
    void explain(const DecisionsByService& decisions);
    void keep_decisions();
    Status status() const;
    std::vector<telemetry::PathTraffic> traffic() const { return counts_.traffic(); }
    std::vector<flow::Record> active_flows(const flow::Query& query);
    std::string reason(const std::string& service) const;

    mutable std::mutex mutex;
    bool paused = false;

    // Of a snapshot, what it means for the packet plane.
    struct Subject {
        SnapshotPointer snapshot;
        Resolution resolution;
        Assignments assignments;
        SourceAddresses sources;
        std::set<IpAddress> own;
        // Of the endpoints of its services: held here, they live as long as the snapshot runs.
        std::map<std::pair<std::string_view, SocketAddress>, std::shared_ptr<routing::EndpointState>> states{};
        bool wanted = false;    // a service is in the packet plane, or would be if an interface had the programs
        bool attached = false;  // whether one has, as the assignments took for granted

        std::unordered_map<std::string_view, size_t> numbers{};  // of the snapshot's services, by name

        void number_services();
        bool carries(size_t service) const { return assignments.services[service].packet; }
        // Null: the snapshot has no such service.
        const Assignment* assignment_of(std::string_view service) const;
    };
    std::optional<Subject> prepared;

  private:
    // --- deciding (plane_prepare.cc) ---
    Surroundings surroundings_of(const Subject& subject);
    void find_sources(Subject& subject) const;
    void find_states(Subject& subject) const;
    const std::string& why_unavailable();
    Result<void> load(const Subject& subject);
    Result<void> serve_ipv6();
    Result<void> take_over(const Subject& subject);
    void forget_loaded();
    Result<Planned> plan(const Subject& subject);
    std::string why_unattached() const { return interfaces_ ? interfaces_->why_none() : std::string(); }

    // --- taking over (plane.cc) ---
    void settle();
    Result<void> clear_newcomers(const Plan& plan);
    Result<void> write(Planned planned);
    void name_origins();
    void count_services();
    void unload();
    void end();

    // --- what waits (plane_queues.cc) ---
    std::map<uint32_t, const Service*> waiting_services() const;  // by number
    void follow_queues();
    std::string begin_queues(const std::vector<QueuedInterface>& interfaces);
    void end_queues();
    void count_queues() const;
    void tell_queues(Status& status) const;

    // --- turns ---
    // Programs may be loaded for a snapshot that was prepared only: then there is nothing to look after.
    bool works() const { return programs_ && !paused && current_ && current_->wanted; }
    void follow_kernel();
    void tell_vlans();
    void keep_route_lookups();
    bool addresses_moved();
    bool attachment_moved(TimePoint now);
    void sweep(TimePoint now);
    void look_after(TimePoint now);
    void release_numbers();
    void take_report(const abi::flow_report& report, std::vector<flow::Record>& ended,
                     std::vector<flow::Record>* listed);

    static void share_out(const routing::Shares& shares, const Service& service, const Subject& subject,
                          std::vector<Target>& targets);
    static void lose_dead(const Service& service, const Subject& subject, std::vector<Target>& targets);
    std::vector<Target> targets_now(const Service& service, const Subject& subject) const;
    telemetry::ServiceStatus status_of(const Service& service, const std::string& why) const;

    telemetry::Log& log_;
    flow::Sink& flows_;
    routing::EndpointStates& endpoint_states_;

    std::optional<std::string> unavailable_;  // why this machine has no packet plane; empty: it has; nothing: not asked
    std::string refused_;                     // why loading was refused last
    std::optional<PinLock> pin_lock_;
    std::optional<PinnedMaps> pins_;
    std::optional<Attacher> attacher_;
    std::optional<Interfaces> interfaces_;
    mutable std::optional<Programs> programs_;
    std::optional<NetworkWatch> watch_;

    std::optional<Subject> current_;
    AccessMemo access_;
    Plan held_;
    routing::SharesByService shares_;
    std::map<std::string, DecisionLog> decisions_;
    Indexes indexes_;
    Planned planned_;            // of `prepared`
    uint64_t written_ = 0;       // counts changes of held_
    uint64_t planned_over_ = 0;  // which of them planned_ was made over
    std::vector<std::string> notes_;
    std::string failure_;          // why the maps are not as they should be; empty: they are
    bool routes_of_ipv6_ = false;  // are asked for too
    std::string unasked_;          // why the programs cannot ask for routes; empty: they can

    mutable Counts counts_;
    Origins origins_;
    Neighbours neighbours_;
    Sweeper sweeper_;
    qos::Shapers& shapers_;
    const unsigned desk_;
    std::unique_ptr<Shaper> shaper_;              // null: nothing waits
    std::map<uint32_t, const Service*> waiting_;  // those it has, of `current_`'s snapshot, by number
    std::string no_queues_;                       // why nothing can; empty: it can, as far as known
    bool assign_for_queues_ = false;              // that has changed since it was decided who carries the services
    TimePoint look_after_at_{};
    bool network_moved_ = false;
    bool was_attached_ = false;                     // since it was last decided who carries the services
    TimePoint assign_again_at_ = TimePoint::max();  // as interfaces have come, or all have gone
    bool flows_live_ = true;  // at the last look, at most a second ago; without any there is nothing to sweep
    bool cleared_leftovers_ = false;
};

}  // namespace marchproxy::packet
