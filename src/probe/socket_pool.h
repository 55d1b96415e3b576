// Sockets that probes go by, watched by one epoll: an event's data.ptr is the ProbeSocket. At rest are those of targets
// that answered, the last used first, whose memory is warm; one whose probe was lost is left, so that what comes late
// finds it closed. There are as many as probes were ever on their way at once since clear(): a limit below that would
// have sockets made and closed just when there is most to do.
//
// One thread.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "probe/probe_socket.h"

namespace marchproxy::probe {

class SocketPool {
  public:
    explicit SocketPool(int epoll) : epoll_(epoll) {}
    SocketPool(const SocketPool&) = delete;
    SocketPool& operator=(const SocketPool&) = delete;

    // One that can ask this target.
    ProbeSocket::Opened take(const Target& target);
    // After the target's answer.
    void put_back(const Target& target, std::unique_ptr<ProbeSocket> socket);
    void leave(std::unique_ptr<ProbeSocket> socket);
    // Closes what is at rest.
    void clear();

  private:
    using Use = std::tuple<ProbeKind, bool, Egress>;  // kind, IPv4, and how it leaves this machine
    static Use use_of(const Target& target) { return {target.settings.kind, target.address.ip.is_v4(), target.egress}; }

    const int epoll_;
    std::map<Use, std::vector<std::unique_ptr<ProbeSocket>>> at_rest_;
};

}  // namespace marchproxy::probe
