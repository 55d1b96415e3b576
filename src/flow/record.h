// A flow record: one TCP connection, UDP session or flow of packets, finished or still open.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "abi/verdicts.h"
#include "model/decision.h"
#include "model/snapshot.h"

namespace marchproxy::flow {

// What many flows have in common, shared by pointer so that a record stays small.
struct Origin {
    std::string_view plane = "stream";  // "stream" or "packet"
    std::string service;
    std::string path;      // empty: the endpoint has none
    std::string endpoint;  // as configured: "db.example:5432"
    Protocol protocol = Protocol::tcp;
    Priority priority = Priority::p3;
    Policy policy = Policy::weighted_round_robin;
};

enum class State : uint8_t { connecting, active, closed };

struct Record {
    std::shared_ptr<const Origin> origin;  // never null
    DecisionPointer decision;              // null: nothing steers the service, or it is not known any more
    SocketAddress client;                  // as the PROXY header says, where one is accepted
    SocketAddress endpoint;                // resolved; port 0: none was reached
    uint64_t received_bytes = 0;           // client to endpoint
    uint64_t sent_bytes = 0;               // endpoint to client
    WallTime start;
    Duration duration{};
    State state = State::closed;
    Verdict end_reason = Verdict::finished;  // meaningful when closed
    uint8_t attempts = 1;                    // endpoints tried
};

// Where planes hand finished flows. Called from worker threads, in batches: one lock a batch, never one a flow.
class Sink {
  public:
    virtual ~Sink() = default;
    virtual void finished(std::vector<Record>& batch) = 0;  // takes the records and leaves the vector empty
};

}  // namespace marchproxy::flow
