#include "probe/http_answer.h"

#include <fmt/format.h>

#include <charconv>

#include "model/quote.h"

namespace marchproxy::probe {

namespace {

constexpr size_t longest_status_line = 1024;

// "HTTP/1.1 200 OK": 200. None: it is no status line.
std::optional<int> status_of(std::string_view line) {
    if (!line.starts_with("HTTP/1.") || line.size() < 12 || line[8] != ' ') return std::nullopt;
    int status = 0;
    const auto [end, error] = std::from_chars(line.data() + 9, line.data() + 12, status);
    if (error != std::errc() || end != line.data() + 12 || status < 100) return std::nullopt;
    if (line.size() > 12 && line[12] != ' ') return std::nullopt;
    return status;
}

std::string why_not(int status, const ProbeSettings& settings) {
    if (settings.expect_status)
        return status == *settings.expect_status
                   ? std::string()
                   : fmt::format("status {} instead of {}", status, *settings.expect_status);
    return status >= 200 && status <= 399 ? std::string() : fmt::format("status {}", status);
}

}  // namespace

std::optional<std::string> judge(std::string_view answer, bool over, const ProbeSettings& settings) {
    answer = answer.substr(0, most_of_an_answer);
    const size_t line_end = answer.substr(0, longest_status_line).find('\n');
    if (line_end == std::string_view::npos) {
        if (!over && answer.size() < longest_status_line) return std::nullopt;
        return answer.empty() ? "closed without an answer" : "the answer is not HTTP/1";
    }
    std::string_view line = answer.substr(0, line_end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto status = status_of(line);
    if (!status) return "the answer is not HTTP/1";
    if (std::string why = why_not(*status, settings); !why.empty()) return why;
    if (settings.expect_body.empty()) return "";

    const size_t head_end = answer.find("\r\n\r\n");
    if (head_end != std::string_view::npos &&
        answer.substr(head_end + 4).find(settings.expect_body) != std::string_view::npos)
        return "";
    if (!over && answer.size() < most_of_an_answer) return std::nullopt;
    return fmt::format("the answer does not hold {}", quoted(settings.expect_body));
}

}  // namespace marchproxy::probe
