// Which flows somebody asks for, and in which order.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flow/record.h"

namespace marchproxy::flow {

enum class Sort : uint8_t { start, duration, bytes };
std::optional<Sort> sort_from_name(std::string_view name);

struct Query {
    std::string service{};  // empty: all
    size_t limit = 100;
    Sort sort = Sort::start;  // the newest, longest or largest first

    bool wants(const Record& record) const { return service.empty() || record.origin->service == service; }
};

// The first `query.limit` of `found` in the query's order.
void arrange(std::vector<const Record*>& found, const Query& query);
// Of lists that hold all services too.
void arrange(std::vector<Record>& records, const Query& query);

}  // namespace marchproxy::flow
