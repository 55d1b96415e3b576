#include "packet/source_runs.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace marchproxy::packet {
namespace {

// Groups begin this far apart where there is room, so that they can grow.
constexpr uint32_t spacing = 8;

bool all_free(const Book<IpAddress>& book, uint32_t first, size_t count) {
    for (uint32_t number = first; number < first + count; ++number)
        if (!book.free(number)) return false;
    return true;
}

// Where a group that has no number yet begins; 0: nowhere.
uint32_t place_for(const Book<IpAddress>& book, size_t count) {
    const auto room = static_cast<uint32_t>((count + spacing - 1) / spacing * spacing);
    for (uint32_t first = 1; first < book.limit(); first += spacing)
        if (all_free(book, first, std::min(room, book.limit() - first)) && first + count <= book.limit()) return first;
    for (uint32_t first = 1; first + count <= book.limit(); ++first)
        if (all_free(book, first, count)) return first;
    return 0;
}

SourceRun longest_run(const std::set<uint32_t>& numbers) {
    SourceRun longest, run;
    for (const uint32_t number : numbers) {
        if (number != uint32_t{run.first} + run.count || run.count == 0) run = {static_cast<uint8_t>(number), 0};
        ++run.count;
        if (run.count > longest.count) longest = run;
    }
    return longest;
}

}  // namespace

SourceRun take_sources(std::span<const IpAddress> addresses, Book<IpAddress>& book, std::vector<std::string>& notes) {
    std::set<uint32_t> numbers;
    std::vector<IpAddress> newcomers;
    for (const IpAddress& address : addresses)
        if (book.knows(address))
            numbers.insert(*book.take(address));
        else
            newcomers.push_back(address);

    uint32_t next = numbers.empty() ? place_for(book, newcomers.size()) : 0;
    for (const IpAddress& address : newcomers) {
        const SourceRun run = longest_run(numbers);
        if (!numbers.empty()) next = uint32_t{run.first} + run.count;
        if (!book.free(next) && run.first > 1) next = run.first - 1U;
        if (book.free(next) && book.take_at(address, next))
            numbers.insert(next);
        else
            notes.push_back(fmt::format("source address {} is not used: it cannot have a number beside the others",
                                        to_string(address)));
    }
    return longest_run(numbers);
}

}  // namespace marchproxy::packet
