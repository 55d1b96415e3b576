// One HTTP connection as cpp-httplib's request processing sees it. The head is read whole and bounded before the
// library sees a byte of it, because the library (0.11) bounds neither the number of header lines nor the time they
// take, and answers a Range header with as many copies of the body as it names.
//
// One thread at a time.
#pragma once

#include <httplib.h>

#include <functional>
#include <string>

#include "model/address.h"
#include "model/units.h"

namespace marchproxy::admin {

struct HttpLimits {
    size_t head_bytes = 16 << 10;
    size_t head_lines = 100;
    Duration request = std::chrono::seconds(5);    // from accept to the whole head
    Duration yield = std::chrono::seconds(1);      // for a client that has sent nothing while others wait
    Duration stalled = std::chrono::seconds(5);    // no byte of the response taken
    Duration response = std::chrono::seconds(60);  // the whole response; event streams are exempt
};

class HttpConnection final : public httplib::Stream {
  public:
    // Owns `socket`, which must not block. `stop` becomes readable when the server stops. `crowded` tells whether other
    // clients wait for a thread.
    HttpConnection(int socket, int stop, HttpLimits limits, std::function<bool()> crowded);
    ~HttpConnection() override;  // says goodbye in a way that the last response is not lost
    HttpConnection(const HttpConnection&) = delete;
    HttpConnection& operator=(const HttpConnection&) = delete;

    enum class Head { complete, too_large, absent };
    Head read_head();

    void stream_without_end() { endless_ = true; }  // no limit for the whole response

    bool is_readable() const override;
    bool is_writable() const override;
    ssize_t read(char* target, size_t size) override;
    ssize_t write(const char* data, size_t size) override;
    void get_remote_ip_and_port(std::string& ip, int& port) const override;
    void get_local_ip_and_port(std::string& ip, int& port) const override;
    socket_t socket() const override;

  private:
    bool wait_for(short events, TimePoint until) const;
    bool wait_writable() const;
    bool peer_left() const;
    ssize_t receive(char* target, size_t size, TimePoint until);
    void linger();

    const int socket_;
    const int stop_;
    const HttpLimits limits_;
    const std::function<bool()> crowded_;
    const TimePoint accepted_ = Clock::now();
    TimePoint answering_since_ = accepted_;
    std::string buffer_;  // received and not yet read by the library
    size_t read_ = 0;     // of the buffer
    bool endless_ = false;
    bool answered_ = false;
};

}  // namespace marchproxy::admin
