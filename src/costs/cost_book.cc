#include "costs/cost_book.h"

#include <fmt/format.h>

#include <algorithm>

#include "costs/tariff.h"

namespace marchproxy::costs {

namespace {

constexpr std::chrono::seconds save_interval{10};

Day period_begin(Period period, Day today) {
    return period == Period::day ? today : month_begin(today);
}

Day period_end(Period period, Day begin) {
    return period == Period::day ? begin + std::chrono::days(1) : next_month(begin);
}

std::string_view consequence_of(AtLimit at_limit) {
    switch (at_limit) {
        case AtLimit::warn:
            return "nothing else happens";
        case AtLimit::prefer_cheaper:
            return "services that it covers choose by cost";
        case AtLimit::stop_new:
            break;
    }
    return "what it covers takes no new connections";
}

uint64_t volume_of(double bytes) {
    return static_cast<uint64_t>(std::max(bytes, 0.0));
}

}  // namespace

bool covers(const BudgetScope& scope, const std::string& service, const Path& path) {
    const auto fits = [](const std::string& wanted, const std::string& is) { return wanted.empty() || wanted == is; };
    return fits(scope.service, service) && fits(scope.path, path.name) && fits(scope.provider, path.provider) &&
           fits(scope.region, path.region);
}

CostBook::~CostBook() {
    {
        std::lock_guard lock(wake_mutex_);
        ends_ = true;
    }
    wake_.notify_one();
    if (keeper_.joinable()) keeper_.join();
    if (file_) save();
}

// --- another configuration -----------------------------------------------------------------------------------------

void CostBook::follow(const std::vector<Path>& paths, const MulticloudSettings& settings, WallTime now) {
    std::map<std::string, PathState> next_paths;
    std::vector<BudgetState> next_budgets;
    std::vector<std::string> order;
    for (const Path& path : paths) {
        next_paths[path.name].path = path;
        order.push_back(path.name);
    }
    if (settings.enabled)
        for (const Budget& budget : settings.budgets)
            next_budgets.push_back({.budget = budget, .since = {}, .dollars = {}});

    std::lock_guard file_lock(file_mutex_);
    {
        std::lock_guard lock(mutex_);
        carry_over(next_paths, next_budgets, now);
        paths_ = std::move(next_paths);
        budgets_ = std::move(next_budgets);
        order_ = std::move(order);
        now_ = now;
        begin_periods(day_of(now));
    }
    if (paths.empty() && !file_) return;
    if (!paths.empty()) open(settings.cost_book);
    save_file();
    rated_until_ = 0;
    if (!keeper_.joinable())
        keeper_ = std::thread([this] { keep(); });
    else
        wake();
}

// What is known stays known until the file has been read again.
void CostBook::carry_over(std::map<std::string, PathState>& paths, std::vector<BudgetState>& budgets,
                          WallTime now) const {
    for (auto& [name, state] : paths) {
        const auto before = paths_.find(name);
        if (before == paths_.end()) continue;
        Path path = std::move(state.path);
        state = before->second;
        state.path = std::move(path);
    }
    for (BudgetState& state : budgets) {
        state.since = period_begin(state.budget.period, day_of(now));
        for (const BudgetState& before : budgets_) {
            if (before.budget.name != state.budget.name || before.budget.scope != state.budget.scope ||
                before.since != state.since)
                continue;
            Budget budget = std::move(state.budget);
            state = before;
            state.budget = std::move(budget);
        }
    }
}

// Where the file cannot be used the book goes on in memory, and moves into the file when it can.
void CostBook::open(const std::string& file) {
    if (file_ == file && (!in_memory_ || file.empty())) return;
    if (ledger_ && !in_memory_) save_file();
    std::unique_ptr<Ledger> before = in_memory_ ? std::move(ledger_) : nullptr;
    ledger_.reset();
    file_ = file;
    std::string trouble;
    auto opened = Ledger::open(file);
    in_memory_ = file.empty() || !opened;
    if (!opened) {
        trouble = fmt::format(
            "cost book: {} cannot be used ({}): costs are counted in memory and end with this process; set "
            "multicloud.cost_book to a file that this process may write, then reload",
            file, opened.error());
        log_.error("the cost book's file cannot be used", {{"file", file}, {"error", opened.error()}});
        opened = Ledger::open("");
    }
    if (opened) ledger_ = std::move(*opened);
    if (before && ledger_) {
        const auto moved = before->all();
        std::lock_guard lock(mutex_);
        if (moved) pending_.add(*moved);
    }
    std::lock_guard lock(mutex_);
    trouble_ = std::move(trouble);
}

// --- counting ------------------------------------------------------------------------------------------------------

void CostBook::add(WallTime now, std::span<const Passed> passed) {
    bool stale = false;
    {
        std::lock_guard lock(mutex_);
        stale = slot_of(now) != slot_of(now_);
        now_ = now;
        stale |= begin_periods(day_of(now));
        for (const Passed& one : passed)
            if (one.received_bytes + one.sent_bytes > 0) book(now, one);
    }
    if (stale) wake();
}

// True: some sum is another from now on.
bool CostBook::begin_periods(Day today) {
    bool begun = false;
    for (auto& [name, state] : paths_) {
        const Day month = month_begin(today);
        if (state.month == month) continue;
        state.month = month;
        state.billed = state.dollars = {};
        begun = true;
    }
    for (BudgetState& state : budgets_) {
        const Day since = period_begin(state.budget.period, today);
        if (state.since == since) continue;
        state = {.budget = std::move(state.budget), .since = since, .dollars = {}};
        begun = true;
    }
    return begun;
}

void CostBook::book(WallTime now, const Passed& passed) {
    const auto found = paths_.find(passed.path);
    if (found == paths_.end()) return;
    PathState& state = found->second;
    const Path& path = state.path;
    const uint64_t billed = billed_bytes(path.billed, passed.received_bytes, passed.sent_bytes);
    const double dollars = dollars_for(path.cost_per_gb, volume_of(state.billed.all()), billed);
    state.billed.pending += static_cast<double>(billed);
    state.dollars.pending += dollars;
    state.dollars_ever += dollars;

    Entries::Amount& amount = pending_.amounts[{.day = day_of(now),
                                                .service = passed.service,
                                                .path = path.name,
                                                .provider = path.provider,
                                                .region = path.region}];
    amount.received += passed.received_bytes;
    amount.sent += passed.sent_bytes;
    amount.billed += billed;
    amount.dollars += dollars;
    Entries::Sample& sample = pending_.samples[{path.name, slot_of(now)}];
    sample.received += passed.received_bytes;
    sample.sent += passed.sent_bytes;

    for (BudgetState& budget : budgets_) {
        if (!covers(budget.budget.scope, passed.service, path)) continue;
        budget.dollars.pending += dollars;
        tell(budget);
    }
}

void CostBook::tell(BudgetState& state) {
    const BudgetReading reading = reading_of(state);
    const Budget& budget = state.budget;
    const auto say = [&](const char* what) {
        log_.warn(what, {{"budget", budget.name},
                         {"spent_dollars", reading.spent},
                         {"budget_dollars", budget.dollars},
                         {"period", name_of(budget.period)},
                         {"until", text_of(reading.ends)},
                         {"at_limit", name_of(budget.at_limit)}});
    };
    state.told_limit &= reading.is_spent();  // as after a reload that lets more be spent
    state.told_warning &= reading.is_warned();
    if (reading.is_spent() && !std::exchange(state.told_limit, true)) {
        state.told_warning = true;
        say("a budget is spent");
    } else if (reading.is_warned() && !std::exchange(state.told_warning, true)) {
        say("a budget is nearly spent");
    }
}

// --- the file ------------------------------------------------------------------------------------------------------

void CostBook::wake() {
    {
        std::lock_guard lock(wake_mutex_);
        wakes_ = true;
    }
    wake_.notify_one();
}

void CostBook::keep() {
    for (;;) {
        {
            std::unique_lock lock(wake_mutex_);
            wake_.wait_for(lock, save_interval, [this] { return wakes_ || ends_; });
            wakes_ = false;
            if (ends_) return;
        }
        std::lock_guard file_lock(file_mutex_);
        WallTime now;
        {
            std::lock_guard lock(mutex_);
            now = now_;
        }
        if (!save_file()) continue;  // all that is looked at below is in the file by then
        if (slot_of(now) != rated_until_)
            if (const auto rated = read_rates(now); !rated) note_delay("read", rated);
        if (day_of(now) == pruned_) continue;
        const auto pruned = ledger_->prune(day_of(now));
        if (pruned)
            pruned_ = day_of(now);
        else
            note_delay("written", pruned);
    }
}

bool CostBook::save() {
    std::lock_guard file_lock(file_mutex_);
    return save_file();
}

bool CostBook::save_file() {
    if (!ledger_) return false;
    Entries entries;
    {
        std::lock_guard lock(mutex_);
        entries = std::move(pending_);
        pending_ = {};
        const auto begin_writing = [](Sum& sum) { sum.writing += std::exchange(sum.pending, 0); };
        for (auto& [name, state] : paths_) {
            begin_writing(state.billed);
            begin_writing(state.dollars);
        }
        for (BudgetState& state : budgets_)
            begin_writing(state.dollars);
    }
    const Result<void> added = entries.empty() ? Result<void>() : ledger_->add(entries);
    if (!added) {
        note_delay("written", added);
        std::lock_guard lock(mutex_);
        entries.add(pending_);
        pending_ = std::move(entries);
        return false;
    }
    const Result<void> read = read_sums();
    note_delay("read", read);
    return read.ok();
}

void CostBook::note_delay(const char* what, const Result<void>& result) {
    std::string delay;
    if (!result) {
        delay = fmt::format(
            "cost book: {} cannot be {} at the moment ({}): what is missing there is kept and written later", *file_,
            what, result.error());
        log_.limited(LogLevel::error, "cost book", fmt::format("the cost book's file cannot be {}; trying again", what),
                     {{"file", *file_}, {"error", result.error()}});
    }
    std::lock_guard lock(mutex_);
    delay_ = std::move(delay);
}

// From what the file says now, other processes' entries with it. A period that has ended meanwhile is left alone.
Result<void> CostBook::read_sums() {
    Questions questions;
    {
        std::lock_guard lock(mutex_);
        questions.month = month_begin(day_of(now_));
        for (const BudgetState& state : budgets_)
            questions.budgets.emplace_back(state.budget.scope, state.since);
    }
    const auto by_path = ledger_->sums_by_path(questions.month);
    if (!by_path) return Error{by_path.error()};
    std::vector<double> spent;
    for (const auto& [scope, since] : questions.budgets) {
        const auto sum = ledger_->sum(scope, since);
        if (!sum) return Error{sum.error()};
        spent.push_back(sum->dollars);
    }
    std::lock_guard lock(mutex_);
    const auto settle = [](Sum& sum, double written) {
        sum.written = written;
        sum.writing = 0;
    };
    for (auto& [name, state] : paths_) {
        if (state.month != questions.month) continue;
        const auto found = by_path->find(name);
        settle(state.billed, found == by_path->end() ? 0 : found->second.billed);
        settle(state.dollars, found == by_path->end() ? 0 : found->second.dollars);
    }
    for (size_t i = 0; i < budgets_.size(); ++i) {
        if (i >= spent.size() || budgets_[i].since != questions.budgets[i].second) continue;
        settle(budgets_[i].dollars, spent[i]);
        tell(budgets_[i]);
    }
    return {};
}

Result<void> CostBook::read_rates(WallTime now) {
    if (!ledger_) return {};
    std::vector<std::string> paths;
    {
        std::lock_guard lock(mutex_);
        paths = order_;
    }
    const Day month = month_begin(day_of(now));
    for (const std::string& path : paths) {
        const auto current = ledger_->rates(path, first_slot(month), slot_of(now));
        const auto last = ledger_->rates(path, first_slot(previous_month(month)), first_slot(month));
        if (!current || !last) return Error{current ? last.error() : current.error()};
        std::lock_guard lock(mutex_);
        if (const auto found = paths_.find(path); found != paths_.end()) {
            found->second.this_month = *current;
            found->second.last_month = *last;
        }
    }
    rated_until_ = slot_of(now);
    return {};
}

// --- what it tells -------------------------------------------------------------------------------------------------

std::optional<double> CostBook::price(const Path& path) const {
    std::lock_guard lock(mutex_);
    const auto found = paths_.find(path.name);
    return price_at(path.cost_per_gb, found == paths_.end() ? 0 : volume_of(found->second.billed.all()));
}

BudgetReading CostBook::reading_of(const BudgetState& state) const {
    return {.budget = state.budget,
            .spent = state.dollars.all(),
            .since = state.since,
            .ends = period_end(state.budget.period, state.since)};
}

std::vector<BudgetReading> CostBook::budgets() const {
    std::lock_guard lock(mutex_);
    std::vector<BudgetReading> readings;
    for (const BudgetState& state : budgets_)
        readings.push_back(reading_of(state));
    return readings;
}

std::vector<PathBill> CostBook::bills() const {
    std::lock_guard lock(mutex_);
    std::vector<PathBill> bills;
    for (const std::string& name : order_) {
        const PathState& state = paths_.at(name);
        bills.push_back({.path = name,
                         .price = price_at(state.path.cost_per_gb, volume_of(state.billed.all())),
                         .month_billed = state.billed.all(),
                         .month_dollars = state.dollars.all(),
                         .dollars_ever = state.dollars_ever,
                         .this_month = state.this_month,
                         .last_month = state.last_month});
    }
    return bills;
}

Result<std::vector<BookRow>> CostBook::rows(BookQuery query) {
    std::lock_guard file_lock(file_mutex_);
    if (!ledger_) return std::vector<BookRow>{};
    save_file();
    {
        std::lock_guard lock(mutex_);
        if (!query.until) query.until = day_of(now_);
    }
    if (!query.since) query.since = month_begin(*query.until);
    auto rows = ledger_->rows(query);
    if (!rows) return Error{fmt::format("the cost book cannot be read at the moment: {}", rows.error())};
    return rows;
}

std::vector<std::string> CostBook::notes() const {
    std::lock_guard lock(mutex_);
    std::vector<std::string> notes;
    for (const std::string* note : {&trouble_, &delay_})
        if (!note->empty()) notes.push_back(*note);
    for (const BudgetState& state : budgets_) {
        const BudgetReading reading = reading_of(state);
        if (!reading.is_spent()) continue;
        notes.push_back(fmt::format("budget {}: {:.2f} of {:.2f} dollars are spent; {} until {}", state.budget.name,
                                    reading.spent, state.budget.dollars, consequence_of(state.budget.at_limit),
                                    text_of(reading.ends)));
    }
    return notes;
}

}  // namespace marchproxy::costs
