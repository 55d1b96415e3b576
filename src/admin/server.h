// The admin HTTP server: health, metrics, status, the API under /api/v1 and the dashboard.
//
// Bounded for hostile clients: requests of at most 96 KiB that must be there within 5 seconds, a fixed number of
// threads, a bounded queue of connections in front of them, and at most `most_subscribers` event streams.
// The token that guards changes is read from the view's snapshot at each request, so a reload changes it too.
#pragma once

#include <memory>

#include "admin/view.h"
#include "model/address.h"
#include "model/result.h"
#include "telemetry/log.h"

namespace marchproxy::admin {

class Server {
  public:
    static constexpr unsigned request_threads = 6;
    static constexpr unsigned most_subscribers = 8;

    Server(View& view, telemetry::Log& log);
    ~Server();  // stop()
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Listens and answers from now on. Port 0: any free one. An occupied port is an error that says so.
    Result<void> start(const IpAddress& address, uint16_t port);
    uint16_t port() const;  // 0: not started

    // Ends open event streams and idle connections and joins; requests being answered get their answer.
    void stop();

  private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace marchproxy::admin
