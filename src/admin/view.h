// What the admin API shows and may change, as the control room offers it. The admin room knows nobody behind it, so a
// test can put anything there.
//
// Threads: called from the admin server's threads, several at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

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
    virtual bool drain_endpoint(const std::string& address, bool draining) = 0;  // false: no service has it
};

}  // namespace marchproxy::admin
