// One proxied TCP connection: two legs, two directions. Allocated once, small while idle (sizeof is asserted below).
#pragma once

#include <memory>
#include <vector>

#include "qos/timer_wheel.h"
#include "stream/admit.h"
#include "stream/forward.h"
#include "stream/losses.h"
#include "stream/worker_service.h"

namespace marchproxy::stream {

enum class Stage : uint8_t {
    header,      // waits for the client's PROXY header
    connecting,  // waits for an endpoint
    established,
    ended,  // closed; freed at the end of the worker's turn, since events for it may be in hand
};

// The endpoints that did not take this connection. Allocated by the first failure only.
struct FailedAttempts {
    std::vector<std::shared_ptr<EndpointRuntime>> endpoints;
    int last_error = 0;
};

struct Connection : qos::Timer {  // the timer: header, connect or idle timeout, as the stage is
    WorkerService* service = nullptr;
    Connection* before = nullptr;  // in the service's list
    Connection* after = nullptr;
    std::shared_ptr<EndpointRuntime> endpoint;
    DecisionPointer decision;  // why that one
    std::unique_ptr<FailedAttempts> failed;
    Direction up, down;
    TimePoint started, last_activity, losses_counted;
    TimePoint attempt_started;
    SocketAddress client;  // as the PROXY header says, where one is accepted
    SocketAddress asked;   // the address that the client connected to, where a PROXY header said it; else port 0
    Leg client_leg, endpoint_leg;
    Admission admission;
    Losses losses;  // on the way to the endpoint, when last looked at
    Stage stage = Stage::header;
    bool client_watched = false;     // by epoll
    bool keepalive = false;          // probes for a dead peer were asked for
    uint8_t arrived = unknown_mark;  // what the client's handshake came with, where that matters
    uint8_t dscp = 0;                // what both legs send with
    Priority priority() const { return service->view->treatment(arrived).priority; }
    bool queued = false;  // used up its budget, or its worker's attention is otherwise due
};

// The contract promises 2 KiB of user memory a held idle connection; what is left is for the allocator.
static_assert(sizeof(Connection) <= 384);

}  // namespace marchproxy::stream
