// The states of all endpoints, by service, resolved address and path: what planes and steering share. A state lives
// for as long as somebody holds it: a snapshot that has the endpoint, or a connection that uses it.
//
// Threads: any.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "model/address.h"
#include "routing/endpoint_state.h"

namespace marchproxy::routing {

class EndpointStates {
  public:
    std::shared_ptr<EndpointState> of(const std::string& service, const SocketAddress& address,
                                      const std::string& path) {
        std::lock_guard lock(mutex_);
        if (states_.size() >= next_sweep_) sweep();
        std::weak_ptr<EndpointState>& known = states_[{service, address, path}];
        std::shared_ptr<EndpointState> state = known.lock();
        if (!state) known = state = std::make_shared<EndpointState>();
        return state;
    }

  private:
    // Forgets those that nobody holds, when they may be half of all.
    void sweep() {
        std::erase_if(states_, [](const auto& entry) { return entry.second.expired(); });
        next_sweep_ = 2 * states_.size() + 64;
    }

    std::mutex mutex_;
    std::map<std::tuple<std::string, SocketAddress, std::string>, std::weak_ptr<EndpointState>> states_;
    size_t next_sweep_ = 64;
};

}  // namespace marchproxy::routing
