// Refused input inside an error message: bounded in length and free of control characters, whatever the user sent.
#pragma once

#include <string>
#include <string_view>

namespace marchproxy {

inline std::string quoted(std::string_view text) {
    constexpr size_t longest = 60;
    std::string out = "\"";
    for (const char c : text.substr(0, longest)) {
        const bool printable = static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
        out += printable ? c : '?';
    }
    out += text.size() > longest ? "...\"" : "\"";
    return out;
}

}  // namespace marchproxy
