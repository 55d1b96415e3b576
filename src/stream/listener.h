// Listening sockets: one a worker and service, sharing the port by SO_REUSEPORT.
#pragma once

#include "model/snapshot.h"
#include "stream/plane.h"

namespace marchproxy::stream {

struct WorkerService;

// On a worker.
struct Listener {
    int descriptor = -1;
    WorkerService* service = nullptr;
    Protocol protocol = Protocol::tcp;
    SocketAddress address;
    bool any_address = false;  // UDP: bound to all addresses, so replies must name the one that was asked
};

// Binds and, for TCP, listens. Errors say which service and address, and what to do.
Result<int> open_listener(const Service& service);

// Of a socket that is open already: limits.backlog, mss and marks as a reload has them.
void refresh_listener(int descriptor, const Service& service, const QosSettings& qos);

// SO_REUSEPORT would let two proxies share a port unseen: this asks without it whether somebody holds the port.
Result<void> check_free(const Service& service);

}  // namespace marchproxy::stream
