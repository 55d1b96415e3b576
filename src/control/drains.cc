#include "control/drains.h"

#include <algorithm>

namespace marchproxy::control {

using admin::Drainable;

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
        text += std::string(name_of(what)) + ' ' + name + '\n';
    return text;
}

Drains Drains::from_text(std::string_view text) {
    Drains drains;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        const size_t blank = std::min(line.find(' '), line.size());
        const auto what = from_name<Drainable>(line.substr(0, blank));
        if (what && blank + 1 < line.size()) drains.add(*what, std::string(line.substr(blank + 1)));
    }
    return drains;
}

}  // namespace marchproxy::control
