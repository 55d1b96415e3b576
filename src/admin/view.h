// What the admin API shows and may change, as the control room offers it. The admin room knows nobody behind it, so a
// test can put anything there.
//
// Threads: called from the admin server's threads, several at a time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "costs/report.h"
#include "flow/store.h"
#include "model/result.h"
#include "model/snapshot.h"
#include "packet/status.h"
#include "stream/status.h"

namespace marchproxy::admin {

enum class ProcessState : uint8_t { starting, ready, draining };

struct ReloadStatus {
    uint64_t succeeded = 0, failed = 0;  // the first load at start is not counted
    std::optional<WallTime> last;
    std::string last_error;  // of the last one; empty: it succeeded
};

struct ProcessStatus {
    ProcessState state = ProcessState::starting;
    std::string version, commit;
    WallTime started;
    Duration uptime{};
    ReloadStatus reload;
    std::vector<std::string> notes;  // what cannot work here, in words, besides the planes' own notes
};

// Both planes together.
struct Status {
    std::vector<telemetry::ServiceStatus> services;
    std::vector<stream::WorkerStatus> workers;
    uint64_t descriptors_used = 0, descriptors_limit = 0;
    bool accepting = true;
    std::vector<std::string> notes;  // what cannot work here, in words
    packet::Status packet;           // its services and notes are those above
};

// What is known of a path, besides what planes count: of all endpoints behind it together.
struct PathReading {
    std::string path;
    bool draining = false;
    std::optional<Duration> round_trip, least;  // of the nearest of them
    std::optional<Duration> jitter;
    std::optional<Duration> traffic_round_trip;  // of connections, as the kernel has it
    std::optional<double> loss_ratio;            // of probes
    std::optional<double> score;                 // the best that one of them has in some service
    std::optional<WallTime> changed;             // when one fell or rose
    double received_rate = 0, sent_rate = 0;     // bits a second
    costs::PathBill bill;
};

// Why a new connection of a service would go where it would go.
struct CandidateReading {
    std::string path, endpoint, address;
    bool up = true;
    std::optional<Duration> round_trip, traffic_round_trip;
    double loss_ratio = 0;
    std::optional<double> cost_per_gb, distance;
    std::optional<double> score;
    double share = 0;  // of new connections
    bool preferred = false;
    std::string reason;
};
struct Explanation {
    std::string service;
    Policy policy{};
    bool steered = false;  // by probes and scores
    std::optional<size_t> chosen{};
    std::vector<CandidateReading> candidates{};
    std::vector<std::string> notes{};  // why it is not the policy alone that decides
};

enum class Drainable : uint8_t { endpoint, path, provider, region };

class View {
  public:
    virtual ~View() = default;

    virtual ProcessStatus process() const = 0;
    virtual SnapshotPointer snapshot() const = 0;  // null only while starting
    virtual Status status() const = 0;
    virtual std::vector<flow::Record> active_flows(const flow::Query& query) const = 0;
    virtual const flow::Store& flows() const = 0;

    // Reads the configuration again, as SIGHUP does, and returns when it runs or was refused.
    virtual Result<void> reload() = 0;
    // False: there is no such.
    virtual bool drain(Drainable what, const std::string& name, bool draining) = 0;
    virtual std::vector<PathReading> path_readings() const = 0;
    virtual Result<Explanation> explain(const std::string& service, const IpAddress& client) const = 0;
    virtual Result<std::vector<costs::BookRow>> costs(const costs::BookQuery& query) = 0;
    virtual std::vector<costs::BudgetReading> budgets() const = 0;
};

}  // namespace marchproxy::admin

template <>
struct marchproxy::Names<marchproxy::admin::Drainable> {
    using Drainable = marchproxy::admin::Drainable;
    static constexpr std::array<NameTable<Drainable>, 4> table{{{Drainable::endpoint, "endpoint"},
                                                                {Drainable::path, "path"},
                                                                {Drainable::provider, "provider"},
                                                                {Drainable::region, "region"}}};
};
