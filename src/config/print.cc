#include "config/print.h"

#include <nlohmann/json.hpp>

#include "config/table.h"

namespace marchproxy::config {

nlohmann::json to_json(const Snapshot& snapshot) {
    return print_object(snapshot, Tables::constant());
}

}  // namespace marchproxy::config
