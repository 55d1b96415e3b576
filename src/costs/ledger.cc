#include "costs/ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "costs/percentile.h"

namespace marchproxy::costs {

namespace {

constexpr int64_t version = 1;  // of the tables
constexpr std::chrono::days days_kept{400}, samples_kept{70};

constexpr const char* tables = R"(
    PRAGMA max_page_count = 262144;
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS traffic(
        day INTEGER, service TEXT, path TEXT, provider TEXT, region TEXT,
        received INTEGER, sent INTEGER, billed INTEGER, dollars REAL,
        PRIMARY KEY(day, service, path, provider, region)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS samples(
        path TEXT, slot INTEGER, received INTEGER, sent INTEGER, PRIMARY KEY(path, slot)) WITHOUT ROWID;
    PRAGMA user_version = 1;
    COMMIT;
)";

int64_t number_of(Day day) {
    return day.time_since_epoch().count();
}
Day day_of_number(int64_t number) {
    return Day(std::chrono::days(number));
}
int64_t stored(uint64_t value) {
    return static_cast<int64_t>(value);
}
uint64_t read(int64_t value) {
    return static_cast<uint64_t>(std::max<int64_t>(value, 0));
}

std::string_view expression_of(BookColumn column) {
    switch (column) {
        case BookColumn::day:
            return "day";
        case BookColumn::month:
            return "strftime('%Y-%m', day * 86400, 'unixepoch')";
        case BookColumn::service:
            return "service";
        case BookColumn::path:
            return "path";
        case BookColumn::provider:
            return "provider";
        case BookColumn::region:
            break;
    }
    return "region";
}

// Restricts to what is named; `?` for each, in this order.
constexpr std::string_view in_scope =
    "(?1 = '' OR service = ?1) AND (?2 = '' OR path = ?2) AND (?3 = '' OR provider = ?3) AND (?4 = '' OR region = ?4)";

void bind_scope(Statement& statement, const BudgetScope& scope) {
    for (const std::string& name : {scope.service, scope.path, scope.provider, scope.region})
        statement.bind(std::string_view(name));
}

}  // namespace

void Entries::add(const Entries& more) {
    for (const auto& [key, amount] : more.amounts) {
        Amount& sum = amounts[key];
        sum.received += amount.received;
        sum.sent += amount.sent;
        sum.billed += amount.billed;
        sum.dollars += amount.dollars;
    }
    for (const auto& [key, sample] : more.samples) {
        samples[key].received += sample.received;
        samples[key].sent += sample.sent;
    }
}

Result<std::unique_ptr<Ledger>> Ledger::open(const std::string& file) {
    if (!file.empty()) {
        std::error_code ignored;  // opening says what is wrong
        const std::filesystem::path directory = std::filesystem::path(file).parent_path();
        if (std::filesystem::create_directory(directory, ignored))
            std::filesystem::permissions(directory, std::filesystem::perms(0750), ignored);
    }
    auto database = Database::open(file);
    if (!database) return Error{database.error()};
    std::unique_ptr<Ledger> ledger(new Ledger(std::move(*database)));
    if (auto prepared = ledger->prepare(); !prepared) return Error{prepared.error()};
    return ledger;
}

Result<void> Ledger::prepare() {
    int64_t found = 0;
    {
        Statement statement = database_->prepare("PRAGMA user_version");
        if (statement.step()) found = statement.integer(0);
    }
    if (std::string problem = database_->take_problem(); !problem.empty()) return Error{std::move(problem)};
    if (found > version)
        return Error{fmt::format("it is of version {}, and this program knows versions up to {}", found, version)};
    auto made = database_->run(tables);
    if (!made) database_->rollback();
    return made;
}

Result<void> Ledger::add(const Entries& entries) {
    if (auto begun = database_->run("BEGIN IMMEDIATE"); !begun) return begun;
    add_amounts(entries);
    add_samples(entries);
    std::string problem = database_->take_problem();
    if (problem.empty())
        if (const auto committed = database_->run("COMMIT"); !committed) problem = committed.error();
    if (problem.empty()) return {};
    database_->rollback();
    return Error{std::move(problem)};
}

void Ledger::add_amounts(const Entries& entries) {
    Statement statement = database_->prepare(
        "INSERT INTO traffic VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET received = received + "
        "excluded.received, sent = sent + excluded.sent, billed = billed + excluded.billed, dollars = dollars + "
        "excluded.dollars");
    for (const auto& [key, amount] : entries.amounts) {
        statement.bind(number_of(key.day)).bind(std::string_view(key.service)).bind(std::string_view(key.path));
        statement.bind(std::string_view(key.provider)).bind(std::string_view(key.region));
        statement.bind(stored(amount.received)).bind(stored(amount.sent)).bind(stored(amount.billed));
        statement.bind(amount.dollars).step();
        statement.reset();
    }
}

void Ledger::add_samples(const Entries& entries) {
    Statement statement = database_->prepare(
        "INSERT INTO samples VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET received = received + excluded.received, "
        "sent = sent + excluded.sent");
    for (const auto& [key, sample] : entries.samples) {
        statement.bind(std::string_view(key.first)).bind(key.second);
        statement.bind(stored(sample.received)).bind(stored(sample.sent)).step();
        statement.reset();
    }
}

Result<Entries> Ledger::all() {
    Entries entries;
    Statement traffic = database_->prepare("SELECT * FROM traffic");
    while (traffic.step())
        entries.amounts[{.day = day_of_number(traffic.integer(0)),
                         .service = traffic.text(1),
                         .path = traffic.text(2),
                         .provider = traffic.text(3),
                         .region = traffic.text(4)}] = {.received = read(traffic.integer(5)),
                                                        .sent = read(traffic.integer(6)),
                                                        .billed = read(traffic.integer(7)),
                                                        .dollars = traffic.real(8)};
    Statement samples = database_->prepare("SELECT * FROM samples");
    while (samples.step())
        entries.samples[{samples.text(0), samples.integer(1)}] = {read(samples.integer(2)), read(samples.integer(3))};
    return found(std::move(entries));
}

Result<Ledger::Sum> Ledger::sum(const BudgetScope& scope, Day since) {
    Sum sum;
    Statement statement = database_->prepare(
        fmt::format("SELECT TOTAL(billed), TOTAL(dollars) FROM traffic WHERE {} AND day >= ?5", in_scope));
    bind_scope(statement, scope);
    if (statement.bind(number_of(since)).step()) sum = {statement.real(0), statement.real(1)};
    return found(sum);
}

Result<std::map<std::string, Ledger::Sum>> Ledger::sums_by_path(Day since) {
    std::map<std::string, Sum> sums;
    Statement statement =
        database_->prepare("SELECT path, TOTAL(billed), TOTAL(dollars) FROM traffic WHERE day >= ? GROUP BY path");
    statement.bind(number_of(since));
    while (statement.step())
        sums[statement.text(0)] = {statement.real(1), statement.real(2)};
    return found(std::move(sums));
}

Result<Rates> Ledger::rates(const std::string& path, int64_t since, int64_t until) {
    std::vector<uint64_t> received, sent;
    Statement first = database_->prepare("SELECT MIN(slot) FROM samples WHERE path = ?");
    // Before its first sample there was no such path, or nobody who looked.
    if (first.bind(std::string_view(path)).step()) since = std::max(since, first.integer(0));
    Statement statement =
        database_->prepare("SELECT received, sent FROM samples WHERE path = ? AND slot >= ? AND slot < ?");
    statement.bind(std::string_view(path)).bind(since).bind(until);
    while (statement.step()) {
        received.push_back(read(statement.integer(0)));
        sent.push_back(read(statement.integer(1)));
    }
    const uint64_t slots = read(until - since);
    return found(
        Rates{.received = billed_rate(std::move(received), slots), .sent = billed_rate(std::move(sent), slots)});
}

Result<std::vector<BookRow>> Ledger::rows(const BookQuery& query) {
    std::string columns;
    for (const BookColumn column : query.by)
        columns += fmt::format("{}{}", columns.empty() ? "" : ", ", expression_of(column));
    const std::string grouped = columns.empty() ? "" : fmt::format(" GROUP BY {0} ORDER BY {0}", columns);
    std::vector<BookRow> rows;
    Statement statement = database_->prepare(
        fmt::format("SELECT SUM(received), SUM(sent), SUM(billed), SUM(dollars){}{} FROM traffic WHERE {} AND day "
                    "BETWEEN ?5 AND ?6{} LIMIT ?7",
                    columns.empty() ? "" : ", ", columns, in_scope, grouped));
    bind_scope(statement, query.scope);
    statement.bind(number_of(*query.since)).bind(number_of(*query.until)).bind(stored(query.limit));
    while (statement.step()) {
        BookRow& row = rows.emplace_back();
        row.received = read(statement.integer(0));
        row.sent = read(statement.integer(1));
        row.billed = read(statement.integer(2));
        row.dollars = statement.real(3);
        for (size_t i = 0; i < query.by.size(); ++i) {
            const int column = static_cast<int>(4 + i);
            row.by.push_back(query.by[i] == BookColumn::day ? text_of(day_of_number(statement.integer(column)))
                                                            : statement.text(column));
        }
    }
    return found(std::move(rows));
}

Result<void> Ledger::prune(Day today) {
    Statement traffic = database_->prepare("DELETE FROM traffic WHERE day < ?");
    traffic.bind(number_of(today - days_kept)).step();
    Statement samples = database_->prepare("DELETE FROM samples WHERE slot < ?");
    samples.bind(first_slot(today - samples_kept)).step();
    if (std::string problem = database_->take_problem(); !problem.empty()) return Error{std::move(problem)};
    return {};
}

}  // namespace marchproxy::costs
