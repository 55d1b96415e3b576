// Asks a running proxy's admin API.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "model/address.h"
#include "model/result.h"

namespace httplib {
class Client;
}

namespace marchproxy::admin {

// What a client on this machine says to reach a listener, as the unspecified address is no destination:
// "127.0.0.1:8081".
std::string reachable(IpAddress address, uint16_t port);

class HttpClient {
  public:
    static Result<HttpClient> to(const std::string& url);  // "http://127.0.0.1:8081", with a path in front if need be
    HttpClient(HttpClient&&) noexcept;
    ~HttpClient();

    // The body of a 200. Errors say what was asked, what came back, and what to do.
    Result<std::string> get(const std::string& path);

  private:
    HttpClient(std::string url, const std::string& host, uint16_t port, std::string prefix);

    std::string url_, prefix_;
    std::unique_ptr<httplib::Client> client_;
};

}  // namespace marchproxy::admin
