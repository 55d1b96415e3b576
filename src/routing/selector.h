// The choose step: which endpoint takes a new connection or session.
//
// A Selector is built for a service and snapshot, and anew when shares change (steering.h); it is immutable after that:
// any number of workers choose at once. Draining and health are read from the endpoints' shared state at each choice,
// so that what has just gone down is left at once, before there are new shares.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/address.h"
#include "model/names.h"
#include "routing/endpoint_state.h"
#include "routing/steering.h"

namespace marchproxy::routing {

struct Candidate {
    std::string identity;            // unique in the service, the same on every node: Maglev hashes it
    uint32_t weight = 1;             // relative; 0 takes no new connections
    EndpointState* state = nullptr;  // never null; outlives the Selector
};

// One choice to be made.
struct Question {
    IpAddress client;     // Maglev
    uint64_t random = 0;  // uniform; for least_connections, and when most endpoints are down
    uint64_t& cursor;     // the asking worker's position in the rotation: it shares nothing with other workers
    TimePoint now{};
    std::span<const uint32_t> tried;  // answers to the same question that did not work out
};

class Selector {
  public:
    Selector() = default;  // of a service without endpoints
    // Without shares, every candidate's is its weight, and a policy that looks at paths is weighted_round_robin.
    Selector(Policy policy, uint64_t seed, std::span<const Candidate> candidates, const Shares* shares = nullptr);

    // The index of a candidate, with leave from its Health: the caller owes it succeeded() or failed(), where either
    // shows. When no endpoint that was not tried is healthy, one that is not is taken, since trying is better than
    // refusing; shares say in which order. None: all were tried, drain, or have no weight.
    std::optional<uint32_t> choose(const Question& question) const;

    size_t size() const { return entries_.size(); }

  private:
    struct Entry {
        EndpointState* state;
        uint32_t share;
        bool takes;  // its weight is not 0
        double inverse_share;
        uint64_t rank;  // hash of the identity
    };
    enum class Need : uint8_t { healthy, any };

    bool fits(uint32_t index, const Question& question, Need need) const;
    bool take(uint32_t index, const Question& question, Need need) const;
    double load_of(uint32_t index) const;

    std::optional<uint32_t> by_policy(const Question& question, Need need) const;
    std::optional<uint32_t> in_turn(const Question& question, Need need) const;
    std::optional<uint32_t> by_weight(const Question& question, Need need) const;
    std::optional<uint32_t> least_loaded(const Question& question, Need need) const;
    std::optional<uint32_t> by_client(const Question& question, Need need) const;
    std::optional<uint32_t> by_rank(const Question& question, Need need, uint64_t hash) const;
    std::optional<uint32_t> in_order(const Question& question, Need need) const;

    Policy policy_ = Policy::round_robin;
    uint64_t seed_ = 0;
    std::vector<Entry> entries_;
    std::vector<uint32_t> slots_;  // the rotation, or the Maglev table
    std::vector<uint32_t> order_;  // the best first, where somebody has no turn; else empty
    bool trust_health_ = true;
};

}  // namespace marchproxy::routing
