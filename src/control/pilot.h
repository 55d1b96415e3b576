// Sees to it that new connections go where it is best at the moment: has the endpoints probed, puts together what
// probes, connections and traffic show, steers each service by it (routing/steering.h) and hands the shares to the
// planes. Keeps the cost book, and holds services to their budgets. Keeps what was drained by hand. Explains all of it.
//
// Without `multicloud.enabled` nothing is probed, steered or held to a budget; draining and the cost book work all the
// same.
//
// Threads: prepare, take_over, turn and due on the control thread; the others on any (they lock).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "admin/view.h"
#include "control/drains.h"
#include "costs/cost_book.h"
#include "model/resolution.h"
#include "packet/plane.h"
#include "probe/prober.h"
#include "routing/course.h"
#include "routing/endpoint_states.h"
#include "stream/plane.h"

namespace marchproxy::control {

class Pilot {
  public:
    // `news` runs on another thread and must only see to it that turn() is called.
    Pilot(stream::Plane& stream, packet::Plane& packet, routing::EndpointStates& states, telemetry::Log& log,
          std::function<void()> news);
    ~Pilot();

    // The shares with which a snapshot would begin, by what is known already. Nothing else changes until take_over().
    const routing::SharesByService& prepare(const SnapshotPointer& snapshot, const Resolution& resolution);
    void take_over();

    TimePoint due() const;
    void turn(TimePoint now);

    // False: there is no such endpoint (as configured, or resolved), path, provider or region.
    bool drain(admin::Drainable what, const std::string& name, bool draining);
    Drains drains() const;
    void take_drains(Drains drains);  // of the process that this one follows; before the first snapshot

    std::vector<admin::PathReading> paths() const;
    // Error: there is no such service.
    Result<admin::Explanation> explain(const std::string& service, const IpAddress& client) const;
    std::vector<std::string> notes() const;  // what cannot work here
    Result<std::vector<costs::BookRow>> costs(const costs::BookQuery& query) { return book_.rows(query); }
    std::vector<costs::BudgetReading> budgets() const { return book_.budgets(); }
    std::optional<probe::Status> probes() const;

  private:
    struct Candidate {
        Decision::Text endpoint;  // as configured; this and the path's name are shared with decisions
        SocketAddress address;
        Decision::Text path;  // empty: none
        probe::Target target;
        std::shared_ptr<const probe::Gauge> gauge{};  // null: not probed, or not yet
    };
    // A service under way; its candidates and those of its course are the same.
    struct Steered {
        const Service* service;
        std::vector<Candidate> candidates;
        routing::Course course;
        std::vector<uint8_t> closed{};  // of each, why it is: as the packet plane knows it
        DecisionPointer decision{};     // the last that was told
        TimePoint decided{};
        uint64_t attempts = 0;  // connections, by then
    };
    struct Chart {
        SnapshotPointer snapshot;
        Resolution resolution;
        bool has_paths() const { return snapshot && !snapshot->paths.empty(); }
        std::map<std::string, Steered> services;
        routing::SharesByService shares;  // of those that are steered
        bool steers() const { return snapshot && snapshot->settings.multicloud.enabled; }
    };

    Steered steered(const Chart& chart, const Service& service) const;
    Candidate candidate_of(const Chart& chart, const Service& service, const ResolvedEndpoint& endpoint) const;
    routing::Course::Candidate course_candidate(const Chart& chart, const Service& service,
                                                const ResolvedEndpoint& endpoint) const;
    static void carry_over(Steered& next, const Steered& before);
    void close_drained(const Chart& chart) const;
    bool drain_endpoint(const std::string& name, bool draining);
    bool drain_paths(admin::Drainable what, const std::string& name, bool draining);
    static std::optional<size_t> choice_of(const Steered& steered, const routing::Course& course,
                                           const IpAddress& client);
    static bool follow_closed(Steered& steered);
    static uint64_t attempts_of(const Steered& steered);
    static DecisionPointer decision_of(const Steered& steered);
    DecisionsByService renewed_decisions(TimePoint now, const routing::SharesByService& changed);
    void follow_probes();
    void measure(TimePoint now);
    std::vector<costs::Passed> passed();
    void follow_loads(const std::vector<costs::Passed>& passed, double seconds);
    void follow_costs();
    routing::Course::Look look_of(const Steered& steered) const;
    void log_ejected(const Steered& steered, size_t candidate, bool is) const;
    admin::PathReading reading_of(const Path& path, costs::PathBill bill) const;

    stream::Plane& stream_;
    packet::Plane& packet_;
    routing::EndpointStates& states_;
    telemetry::Log& log_;
    const std::function<void()> wake_;
    std::atomic<bool> news_{false};

    mutable std::mutex mutex_;  // over all below
    Chart now_, next_;
    Drains drains_;
    struct Load {
        double up = 0, down = 0;  // bits a second
    };
    std::map<std::string, Load> loads_;  // by path
    std::string renewed_last_;           // whose decision; the next in turn comes after it
    // By plane, service and path: what they had carried at the last look.
    std::map<std::tuple<std::string_view, std::string, std::string>, std::pair<uint64_t, uint64_t>> carried_;
    costs::CostBook book_;
    TimePoint measured_{}, turned_{};
    uint64_t late_before_ = 0, late_ = 0;    // probes; the latter in the last second
    std::unique_ptr<probe::Prober> prober_;  // last: its thread calls wake_
};

}  // namespace marchproxy::control
