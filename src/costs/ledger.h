// The file of the cost book: a SQLite database of what passed by day, service and path, and of five-minute samples by
// path. Processes that share it add to it; nobody overwrites what another has written.
//
// Days are kept for 400 days, samples for 70; a gigabyte at most.
//
// One thread at a time.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "costs/calendar.h"
#include "costs/database.h"
#include "costs/report.h"
#include "model/result.h"

namespace marchproxy::costs {

// What is to be added to what the file has.
struct Entries {
    struct Key {
        Day day{};
        std::string service, path, provider, region;
        auto operator<=>(const Key&) const = default;
    };
    struct Amount {
        uint64_t received = 0, sent = 0, billed = 0;
        double dollars = 0;
    };
    struct Sample {
        uint64_t received = 0, sent = 0;
    };
    std::map<Key, Amount> amounts;
    std::map<std::pair<std::string, int64_t>, Sample> samples;  // by path and slot

    bool empty() const { return amounts.empty() && samples.empty(); }
    void add(const Entries& more);
};

class Ledger {
  public:
    // Empty: in memory. Makes the file, and its directory, where they are missing.
    static Result<std::unique_ptr<Ledger>> open(const std::string& file);

    // All of it, or nothing.
    Result<void> add(const Entries& entries);
    Result<Entries> all();

    struct Sum {
        double billed = 0, dollars = 0;
    };
    Result<Sum> sum(const BudgetScope& scope, Day since);
    Result<std::map<std::string, Sum>> sums_by_path(Day since);

    // Of the slots of [since, until), from the path's first on.
    Result<Rates> rates(const std::string& path, int64_t since, int64_t until);

    Result<std::vector<BookRow>> rows(const BookQuery& query);

    // Forgets what has been kept long enough.
    Result<void> prune(Day today);

  private:
    explicit Ledger(std::unique_ptr<Database> database) : database_(std::move(database)) {}
    Result<void> prepare();
    // The value, unless a statement has gone wrong.
    template <class T>
    Result<T> found(T value) {
        if (std::string problem = database_->take_problem(); !problem.empty()) return Error{std::move(problem)};
        return value;
    }
    void add_amounts(const Entries& entries);
    void add_samples(const Entries& entries);

    std::unique_ptr<Database> database_;
};

}  // namespace marchproxy::costs
