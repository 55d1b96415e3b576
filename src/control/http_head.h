// The head of an HTTP/1.1 request (RFC 9112), as far as the demo upstreams need it. Pure: text in, value out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace marchproxy::control {

inline constexpr size_t largest_head = 8192;  // bytes, with the empty line at its end

struct HttpHead {
    std::string method;
    std::string path;  // without the query
    uint64_t content_length = 0;
    bool keep_alive = true;
    bool expects_continue = false;
    size_t size = 0;  // bytes the head takes in the input
    int refused = 0;  // 0, or the status to refuse it with: 400, 411, 431, 505
};

// Absent while the head is not complete. A refused head closes the connection: where it ends is not known.
std::optional<HttpHead> parse_head(std::string_view input);

}  // namespace marchproxy::control
