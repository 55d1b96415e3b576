#include "control/drains.h"

#include <algorithm>
#include <array>

namespace marchproxy::control {

namespace {

using admin::Drainable;

constexpr std::array<std::pair<Drainable, std::string_view>, 4> words{{{Drainable::endpoint, "endpoint"},
                                                                       {Drainable::path, "path"},
                                                                       {Drainable::provider, "provider"},
                                                                       {Drainable::region, "region"}}};

}  // namespace

bool Drains::cover(const Path& path) const {
    return has(Drainable::path, path.name) || has(Drainable::provider, path.provider) ||
           has(Drainable::region, path.region);
}

bool Drains::cover(const std::string& endpoint, const SocketAddress& address) const {
    return has(Drainable::endpoint, endpoint) || has(Drainable::endpoint, to_string(address));
}

std::string Drains::to_text() const {
    std::string text;
    for (const auto& [what, name] : entries_)
        for (const auto& [kind, word] : words)
            if (kind == what) text += std::string(word) + ' ' + name + '\n';
    return text;
}

Drains Drains::from_text(std::string_view text) {
    Drains drains;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        for (const auto& [kind, word] : words)
            if (line.size() > word.size() + 1 && line.starts_with(word) && line[word.size()] == ' ')
                drains.add(kind, std::string(line.substr(word.size() + 1)));
    }
    return drains;
}

}  // namespace marchproxy::control
