// A small bounded HTTP/1.1 server: sockets and threads are ours, parsing and writing are cpp-httplib's. One request a
// connection: an idle client holds nothing.
#pragma once

#include <httplib.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "admin/http_connection.h"
#include "model/address.h"
#include "model/result.h"
#include "telemetry/log.h"

namespace marchproxy::admin {

class HttpServer : private httplib::Server {
  public:
    // Called from several threads. Sets the status, the headers and the body; an empty body of an error is filled in.
    using Handler = std::function<void(const httplib::Request&, httplib::Response&)>;

    // The response to `endless_path` is an event stream and may take as long as it likes.
    HttpServer(unsigned threads, HttpLimits limits, std::string endless_path, Handler handler, telemetry::Log& log);
    ~HttpServer() override;

    Result<void> start(const SocketAddress& address);
    uint16_t port() const;
    void stop();
    bool stopping() const { return stopping_.load(); }

  private:
    static constexpr size_t most_waiting = 64;  // beyond it connections wait in the kernel's queue

    Result<int> listen_at(const SocketAddress& address) const;
    void accept_connections();
    void accept_one();
    void enqueue(int socket);
    void serve();
    int next_connection();
    void answer(int socket);

    const unsigned thread_count_;
    const HttpLimits limits_;
    const std::string endless_path_;
    telemetry::Log& log_;

    int listener_ = -1;
    int stop_event_ = -1;
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<int> waiting_;
};

}  // namespace marchproxy::admin
