// Names as endpoints: resolved on a thread of its own with c-ares, never on the data path, A and AAAA, the hosts file
// first (hosts(5)), then DNS with the servers and search domains of resolv.conf(5).
//
// A name is asked again when the shortest TTL of its answer is over, within [ttl_floor, ttl_ceiling]; one from the
// hosts file after hosts_interval. A failure keeps the last addresses (an endpoint that cannot be looked up is most
// often still there), is logged with their age, and is tried again after first_retry, twice as late each time up to
// last_retry. At most `concurrent` names are asked for at one time.
//
// Threads: every function from any thread.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "model/resolution.h"
#include "model/units.h"
#include "telemetry/log.h"

namespace marchproxy::control {

struct ResolverOptions {
    std::string servers;  // "127.0.0.1:5353,[::1]:53"; empty: those of resolv.conf
    std::string hosts_file = "/etc/hosts";
    Duration ttl_floor = std::chrono::seconds(1);
    Duration ttl_ceiling = std::chrono::minutes(5);
    Duration hosts_interval = std::chrono::seconds(30);
    Duration first_retry = std::chrono::seconds(1);
    Duration last_retry = std::chrono::seconds(30);
    Duration query_timeout = std::chrono::seconds(1);  // each try, two tries a server
    unsigned concurrent = 64;
};

class Resolver {
  public:
    // `changed` runs on the resolver's thread whenever some name's set of addresses became another one; it must only
    // wake somebody, who then reads current().
    Resolver(telemetry::Log& log, std::function<void()> changed, ResolverOptions options = {});
    ~Resolver();
    Resolver(const Resolver&) = delete;
    Resolver& operator=(const Resolver&) = delete;

    // Adds names to those looked after and waits until each new one has an answer or a failure, at most `patience`:
    // a dead DNS server must not hold up a start. Names come as endpoints are written; literals are left out.
    Resolution require(const std::set<HostPort>& names, Duration patience);

    // Forgets every name that is not among these: the second step of a reload, after the plane has taken it.
    void retain(const std::set<HostPort>& names);

    // Sorted, without duplicates; a name without any address yet has an empty list.
    Resolution current() const;

    // Names that do not resolve at the moment, since when, and what that means.
    std::vector<std::string> notes() const;

  private:
    class Worker;
    std::unique_ptr<Worker> worker_;
};

}  // namespace marchproxy::control
