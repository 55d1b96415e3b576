#include "flow/query.h"

#include <algorithm>

namespace marchproxy::flow {

namespace {

uint64_t bytes_of(const Record& record) {
    return record.received_bytes + record.sent_bytes;
}

bool before(const Record& a, const Record& b, Sort sort) {
    if (sort == Sort::duration && a.duration != b.duration) return a.duration > b.duration;
    if (sort == Sort::bytes && bytes_of(a) != bytes_of(b)) return bytes_of(a) > bytes_of(b);
    return a.start > b.start;
}

}  // namespace

void arrange(std::vector<const Record*>& found, const Query& query) {
    const size_t count = std::min(query.limit, found.size());
    std::partial_sort(found.begin(), found.begin() + static_cast<ptrdiff_t>(count), found.end(),
                      [&](const Record* a, const Record* b) { return before(*a, *b, query.sort); });
    found.resize(count);
}

std::optional<Sort> sort_from_name(std::string_view name) {
    if (name == "start") return Sort::start;
    if (name == "duration") return Sort::duration;
    if (name == "bytes") return Sort::bytes;
    return std::nullopt;
}

void arrange(std::vector<Record>& records, const Query& query) {
    std::erase_if(records, [&](const Record& record) { return !query.wants(record); });
    std::vector<const Record*> order;
    order.reserve(records.size());
    for (const Record& record : records)
        order.push_back(&record);
    arrange(order, query);
    std::vector<Record> sorted;
    sorted.reserve(order.size());
    for (const Record* record : order)
        sorted.push_back(*record);
    records = std::move(sorted);
}

}  // namespace marchproxy::flow
