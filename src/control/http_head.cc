#include "control/http_head.h"

#include <algorithm>
#include <charconv>

#include "control/hosts.h"

namespace marchproxy::control {

namespace {

// Takes the text before `separator` off the front of `rest`, and the separator.
std::string_view take_until(std::string_view& rest, std::string_view separator) {
    const std::string_view taken = rest.substr(0, rest.find(separator));
    rest.remove_prefix(std::min(rest.size(), taken.size() + separator.size()));
    return taken;
}

std::string_view trimmed(std::string_view text) {
    const size_t first = text.find_first_not_of(" \t");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// False: the head must be refused with head.refused.
bool take_request_line(std::string_view line, HttpHead& head) {
    head.method = take_until(line, " ");
    std::string_view target = take_until(line, " ");
    head.path = target.substr(0, target.find('?'));
    if (head.method.empty() || head.path.empty() || head.path[0] != '/') {
        head.refused = 400;
        return false;
    }
    if (line != "HTTP/1.1" && line != "HTTP/1.0") {
        head.refused = line.starts_with("HTTP/") ? 505 : 400;
        return false;
    }
    head.keep_alive = line == "HTTP/1.1";
    return true;
}

bool take_field(std::string_view line, HttpHead& head) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0) {
        head.refused = 400;
        return false;
    }
    const std::string name = lower_case(line.substr(0, colon));
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (name == "content-length") {
        const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), head.content_length);
        if (error != std::errc{} || end != value.data() + value.size()) head.refused = 400;
    } else if (name == "transfer-encoding") {
        head.refused = 411;
    } else if (name == "connection") {
        const std::string wish = lower_case(value);
        if (wish.find("close") != std::string::npos) head.keep_alive = false;
        if (wish.find("keep-alive") != std::string::npos) head.keep_alive = true;
    } else if (name == "expect") {
        head.expects_continue = lower_case(value) == "100-continue";
    }
    return head.refused == 0;
}

}  // namespace

std::optional<HttpHead> parse_head(std::string_view input) {
    HttpHead head;
    const size_t end = input.find("\r\n\r\n");
    if (end == std::string_view::npos || end + 4 > largest_head) {
        if (input.size() < largest_head) return std::nullopt;
        head.refused = 431;
        return head;
    }
    head.size = end + 4;
    std::string_view rest = input.substr(0, end);
    if (!take_request_line(take_until(rest, "\r\n"), head)) return head;
    while (!rest.empty())
        if (!take_field(take_until(rest, "\r\n"), head)) return head;
    return head;
}

}  // namespace marchproxy::control
