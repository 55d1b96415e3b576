// Who may change something: the admin API's POST requests.
#pragma once

#include <optional>
#include <string>

namespace marchproxy::admin {

struct Caller {
    std::string remote_address;
    std::string authorization;  // the header's values; empty: absent
    std::string host;
    std::string origin;
};

struct Refusal {
    int status = 403;  // 401: a token would do
    std::string message;
};

// With a token set, whoever presents it. Without one, only processes of this machine, and not a browser that a web page
// of somebody else directs here: a foreign Host is the sign of DNS rebinding, a foreign Origin that of a cross-site
// request.
std::optional<Refusal> refuse_change(const Caller& caller, const std::string& token);

}  // namespace marchproxy::admin
