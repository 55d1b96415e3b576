#include "config/options.h"

#include "config/table.h"

namespace marchproxy::config {

std::vector<Option> options() {
    return Tables::constant().options();
}

std::vector<std::string> restart_needed(const Snapshot& running, const Snapshot& next) {
    std::vector<std::string> keys;
    for (const Row<Snapshot>& row : Tables::constant().of<Snapshot>().rows)
        if (row.option.reload == Reload::restart && !row.equal(running, next)) keys.emplace_back(row.name);
    return keys;
}

}  // namespace marchproxy::config
