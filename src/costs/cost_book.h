// The cost book: bytes and dollars by service, path, provider, region and day; what of each budget is spent; the rate
// at which carriers would bill each path.
//
// It lives in a file (ledger.h), to which what has passed is added every few seconds and at the end: restarts, both
// processes of a hot upgrade and several proxies of one machine add up, and a crash loses those seconds. Where the file
// cannot be used the book goes on in memory, and notes() says so. Days and months are UTC's.
//
// Threads: follow() and add() on one thread; the others on any. The file is touched by follow(), which may wait for
// another process for a second or so, by a thread of the book's own, and by rows().
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "costs/ledger.h"
#include "costs/report.h"
#include "model/snapshot.h"
#include "telemetry/log.h"

namespace marchproxy::costs {

// What passed since the last time.
struct Passed {
    std::string service, path;
    uint64_t received_bytes = 0, sent_bytes = 0;
};

bool covers(const BudgetScope& scope, const std::string& service, const Path& path);

class CostBook {
  public:
    explicit CostBook(telemetry::Log& log) : log_(log) {}
    ~CostBook();

    // Another configuration. Nothing is opened before there are paths.
    void follow(const std::vector<Path>& paths, const MulticloudSettings& settings, WallTime now);

    // To be called each second, whether anything has passed or not: days end by it. What belongs to no path of the
    // configuration is left out.
    void add(WallTime now, std::span<const Passed> passed);

    // What the next gigabyte costs by the path's tariff, after what the month has had so far. None: it is not known.
    std::optional<double> price(const Path& path) const;
    // In the order in which they are configured.
    std::vector<BudgetReading> budgets() const;
    std::vector<PathBill> bills() const;
    Result<std::vector<BookRow>> rows(BookQuery query);
    std::vector<std::string> notes() const;

    // Adds to the file what it does not have yet. False: that could not be, and is still to be done.
    bool save();

  private:
    // A sum of which the file has a part: what it had when last read, what is being written, and the rest.
    struct Sum {
        double written = 0, writing = 0, pending = 0;
        double all() const { return written + writing + pending; }
    };
    struct PathState {
        Path path;
        Day month{};
        Sum billed, dollars;  // of the month
        double dollars_ever = 0;
        Rates this_month, last_month;
    };
    struct BudgetState {
        Budget budget;
        Day since{};
        Sum dollars;
        bool told_warning = false, told_limit = false;
    };
    // What the sums are to be read for.
    struct Questions {
        Day month{};
        std::vector<std::pair<BudgetScope, Day>> budgets;
    };

    void open(const std::string& file);
    void carry_over(std::map<std::string, PathState>& paths, std::vector<BudgetState>& budgets, WallTime now) const;
    bool begin_periods(Day today);
    void book(WallTime now, const Passed& passed);
    void tell(BudgetState& state);
    BudgetReading reading_of(const BudgetState& state) const;

    void keep();
    void wake();
    bool save_file();
    Result<void> read_sums();
    Result<void> read_rates(WallTime now);
    void note_delay(const char* what, const Result<void>& result);

    telemetry::Log& log_;

    mutable std::mutex mutex_;        // over these
    std::vector<std::string> order_;  // of the paths
    std::map<std::string, PathState> paths_;
    std::vector<BudgetState> budgets_;
    Entries pending_;
    WallTime now_{};
    std::string trouble_, delay_;  // for notes()

    std::mutex file_mutex_;            // over these; taken before the other
    std::optional<std::string> file_;  // none: not opened yet
    bool in_memory_ = true;
    std::unique_ptr<Ledger> ledger_;
    int64_t rated_until_ = 0;
    Day pruned_{};

    std::mutex wake_mutex_;
    std::condition_variable wake_;
    bool wakes_ = false, ends_ = false;
    std::thread keeper_;
};

}  // namespace marchproxy::costs
