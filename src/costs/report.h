// What is told of the cost book.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "costs/calendar.h"
#include "model/snapshot.h"

namespace marchproxy::costs {

struct BudgetReading {
    Budget budget;
    double spent = 0;     // dollars, since
    Day since{}, ends{};  // the period: from the one, before the other

    bool is_warned() const { return spent >= budget.warn_at.fraction * budget.dollars; }
    bool is_spent() const { return spent >= budget.dollars; }
};

// The 95th percentile (percentile.h), bits a second.
struct Rates {
    double received = 0, sent = 0;
};

struct PathBill {
    std::string path;
    std::optional<double> price;   // of the next gigabyte
    double month_billed = 0;       // bytes
    double month_dollars = 0;      // dollars
    double dollars_ever = 0;       // since the process began
    Rates this_month, last_month;  // as far as the samples go
};

// What rows may be told by.
enum class BookColumn : uint8_t { day, month, service, path, provider, region };

struct BookQuery {
    std::vector<BookColumn> by;  // in the order in which rows are told; empty: one row of all
    std::optional<Day> since;    // none: the first of this month
    std::optional<Day> until;    // included; none: today
    BudgetScope scope;
    size_t limit = 10'000;
};

struct BookRow {
    std::vector<std::string> by;  // a text a column of the query
    uint64_t received = 0, sent = 0, billed = 0;
    double dollars = 0;
};

}  // namespace marchproxy::costs

template <>
struct marchproxy::Names<marchproxy::costs::BookColumn> {
    using Column = marchproxy::costs::BookColumn;
    static constexpr std::array<NameTable<Column>, 6> table{{{Column::day, "day"},
                                                             {Column::month, "month"},
                                                             {Column::service, "service"},
                                                             {Column::path, "path"},
                                                             {Column::provider, "provider"},
                                                             {Column::region, "region"}}};
};
