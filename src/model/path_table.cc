#include "model/path_table.h"

#include <algorithm>
#include <numeric>

#include "model/snapshot.h"

namespace marchproxy {

namespace {

IpAddress network_of(IpAddress address, uint8_t length) {
    for (size_t i = 0; i < address.bytes.size(); ++i) {
        const int bits = std::clamp(static_cast<int>(length) - static_cast<int>(8 * i), 0, 8);
        address.bytes[i] &= static_cast<uint8_t>(0xff00 >> bits);
    }
    return address;
}

}  // namespace

PathTable::PathTable(const std::vector<Path>& paths) {
    for (const Path& path : paths) {
        for (const Prefix& prefix : path.destinations)
            by_length_[prefix.length].push_back({prefix.ip, static_cast<uint32_t>(names_.size())});
        names_.push_back(path.name);
    }
    // Of one prefix in two paths, which the configuration refuses, the first path's stays first.
    for (auto& [length, entries] : by_length_)
        std::stable_sort(entries.begin(), entries.end(),
                         [](const Entry& a, const Entry& b) { return a.network < b.network; });
    by_name_.resize(names_.size());
    std::iota(by_name_.begin(), by_name_.end(), uint32_t{0});
    std::sort(by_name_.begin(), by_name_.end(), [this](uint32_t a, uint32_t b) { return names_[a] < names_[b]; });
}

std::optional<size_t> PathTable::index_of(std::string_view name) const {
    const auto found =
        std::lower_bound(by_name_.begin(), by_name_.end(), name,
                         [this](uint32_t path, std::string_view wanted) { return names_[path] < wanted; });
    if (found == by_name_.end() || names_[*found] != name) return std::nullopt;
    return *found;
}

const std::string& PathTable::path_to(const IpAddress& address) const {
    static const std::string none;
    for (const auto& [length, entries] : by_length_) {
        // "::/0" is of IPv6 alone, as Prefix::contains has it.
        if (length < 96 && address.is_v4()) break;
        const IpAddress network = network_of(address, length);
        const auto found = std::lower_bound(entries.begin(), entries.end(), network,
                                            [](const Entry& entry, const IpAddress& ip) { return entry.network < ip; });
        if (found != entries.end() && found->network == network) return names_[found->path];
    }
    return none;
}

}  // namespace marchproxy
