#include "packet/libbpf_messages.h"

#include <cstdarg>
#include <cstdio>
#include <string_view>
#include <vector>

namespace marchproxy::packet {
namespace {

constexpr size_t kept_bytes = 400;
std::string kept;

// Of the verifier's log, which comes as one message, the end says what it did not like.
std::string_view end_of(std::string_view text) {
    while (!text.empty() && text.back() == '\n')
        text.remove_suffix(1);
    constexpr std::string_view log_end = "\n-- END PROG LOAD LOG --";
    if (text.ends_with(log_end)) text.remove_suffix(log_end.size());
    if (text.size() > kept_bytes) text.remove_prefix(text.size() - kept_bytes);
    return text;
}

int keep(libbpf_print_level level, const char* format, va_list arguments) {
    if (level != LIBBPF_WARN) return 0;
    va_list again;
    va_copy(again, arguments);
    const int length = std::vsnprintf(nullptr, 0, format, again);
    va_end(again);
    if (length <= 0) return 0;
    std::vector<char> text(static_cast<size_t>(length) + 1);
    std::vsnprintf(text.data(), text.size(), format, arguments);
    const std::string_view said(text.data(), static_cast<size_t>(length));
    // What follows the first reason only repeats that it failed.
    if (kept.empty() || said.find("PROG LOAD LOG") != std::string_view::npos) kept = end_of(said);
    return 0;
}

}  // namespace

LibbpfMessages::LibbpfMessages() : printer_(libbpf_set_print(keep)) {
    kept.clear();
}

LibbpfMessages::~LibbpfMessages() {
    libbpf_set_print(printer_);
}

const std::string& LibbpfMessages::last() {
    return kept;
}

}  // namespace marchproxy::packet
