#include "control/hosts.h"

#include <algorithm>

namespace marchproxy::control {

namespace {

constexpr std::string_view blanks = " \t\r\v\f";

// Takes the next word off the front of `line`; empty at its end.
std::string_view next_word(std::string_view& line) {
    line.remove_prefix(std::min(line.find_first_not_of(blanks), line.size()));
    const std::string_view word = line.substr(0, line.find_first_of(blanks));
    line.remove_prefix(word.size());
    return word;
}

}  // namespace

std::string lower_case(std::string_view name) {
    std::string result(name);
    for (char& c : result)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return result;
}

Hosts parse_hosts(std::string_view text) {
    Hosts hosts;
    while (!text.empty()) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        line = line.substr(0, line.find('#'));
        const auto address = IpAddress::parse(next_word(line));
        if (!address.ok()) continue;
        for (std::string_view name = next_word(line); !name.empty(); name = next_word(line))
            hosts[lower_case(name)].push_back(*address);
    }
    return hosts;
}

}  // namespace marchproxy::control
