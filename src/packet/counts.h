// What services of the packet plane carried, in the shape in which both planes tell it. The kernel's counters live as
// long as the maps and belong to numbers; these live as long as the process and belong to names, so that they never
// fall when a reload takes an endpoint away or gives a number to somebody else. One thread at a time.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "abi/packet.h"
#include "abi/verdicts.h"
#include "packet/programs.h"
#include "qos/packet_queues.h"
#include "telemetry/meter.h"
#include "telemetry/status.h"

namespace marchproxy::packet {

// Which of the kernel's counters stand for a service.
struct CountedService {
    std::string name;
    uint32_t index = 0;
    // By number, the path of each of its endpoints. An endpoint that several services share is counted with the first
    // of them, where a service has endpoints on several paths; where it has one path, its own counters say it all.
    std::map<uint32_t, std::string> paths;
    bool has_qos = false;
};

class Counts {
  public:
    // From now on; what was counted up to here is read first.
    // `others`: endpoints that are in none of the services and that flows of an earlier configuration may carry still;
    // it is only looked at how many live.
    void configure(const Programs& programs, std::vector<CountedService> services, std::set<uint32_t> others = {});

    // Adds what has been counted since the last time.
    void read(const Programs& programs);
    // Numbers that are given to somebody else begin anew.
    void forget_service(uint32_t index) { services_before_.erase(index), qos_before_.erase(index); }
    void forget_endpoint(uint32_t index) { endpoints_before_.erase(index); }
    void clear_configuration() {
        configured_.clear(), others_.clear(), services_before_.clear(), endpoints_before_.clear(), qos_before_.clear();
    }

    // Of a class whose packets wait for their turn.
    void read_queue(const std::string& service, bool up, Priority priority, const qos::QueueCounters& now);
    // Once in a while, after read(): how fast services' traffic comes and goes.
    void measure(TimePoint now);

    void flow_ended(const std::string& service, const std::string& path, Verdict why, Duration duration);

    // All but what the configuration says.
    void fill(const std::string& service, telemetry::ServiceStatus& status) const;
    std::vector<telemetry::PathTraffic> traffic() const;
    std::vector<std::string> names() const;
    // Dropped before it was known whose they are.
    const std::array<uint64_t, verdict_count>& dropped_of_none() const { return dropped_of_none_; }

    uint64_t live_of_service(uint32_t index) const;   // flows, when last read
    uint64_t live_of_endpoint(uint32_t index) const;  // of all services that share it

  private:
    struct Path {
        uint64_t flows = 0, received_bytes = 0, sent_bytes = 0;
        std::array<uint64_t, verdict_count> ended{};
    };
    struct QosClass {
        uint64_t bytes = 0, dropped_over = 0, dropped_bytes = 0;
        uint64_t dropped_full = 0, dropped_late = 0, marked = 0;  // of what waited
        qos::QueueCounters queue;                                 // when last read
        telemetry::Meter meter;
    };
    struct Service {
        uint64_t received_packets = 0, sent_packets = 0;
        uint64_t cookies = 0, proven = 0, uncounted = 0;
        std::array<uint64_t, verdict_count> dropped{};
        telemetry::Histogram duration;
        std::map<std::string, Path> paths;
        std::array<std::array<QosClass, abi::packet_priorities>, 2> qos;  // by direction and priority
    };

    Service& service(const std::string& name);
    void read_none(const Programs& programs);
    void read_service(const Programs& programs, const CountedService& counted);
    void read_qos(const Programs& programs, const CountedService& counted);
    void read_endpoints(const Programs& programs, const CountedService& counted, bool several_paths);

    std::vector<CountedService> configured_;
    std::set<uint32_t> others_;
    std::map<std::string, std::unique_ptr<Service>> services_;
    std::array<uint64_t, verdict_count> dropped_of_none_{};
    std::map<uint32_t, abi::packet_counters> services_before_;
    std::map<uint32_t, abi::endpoint_counters> endpoints_before_;
    std::map<uint32_t, abi::qos_counters> qos_before_;
    TimePoint measured_{};
};

}  // namespace marchproxy::packet
