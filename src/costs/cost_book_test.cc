#include "costs/cost_book.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace marchproxy::costs {
namespace {

using namespace std::chrono_literals;
using std::chrono::sys_days;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t gigabyte = 1'000'000'000;

class CostBookTest : public ::testing::Test {
  protected:
    CostBookTest() {
        char name[] = "/tmp/marchproxy-costs-XXXXXX";
        directory = mkdtemp(name);
        settings.enabled = true;
        settings.cost_book = file();
        paths = {path("aws-1", "aws", 0.10), path("aws-2", "aws", 0.05), path("gcp-1", "gcp", 0.02)};
    }
    ~CostBookTest() override { std::filesystem::remove_all(directory); }

    static Path path(const std::string& name, const std::string& provider, double price) {
        Path path;
        path.name = name;
        path.provider = provider;
        path.region = name.ends_with("1") ? "east" : "west";
        path.cost_per_gb = Tariff::flat(price);
        return path;
    }
    std::string file() const { return directory + "/book/costs.db"; }
    std::unique_ptr<CostBook> open() {
        auto book = std::make_unique<CostBook>(log);
        book->follow(paths, settings, now);
        return book;
    }
    void pass(CostBook& book, const std::string& service, const std::string& by, double gigabytes) {
        const Passed passed{service, by, 7, static_cast<uint64_t>(gigabytes * gigabyte)};
        book.add(now, std::span(&passed, 1));
    }
    static std::vector<std::pair<std::string, double>> dollars(CostBook& book, std::vector<BookColumn> by,
                                                               BudgetScope scope = {}) {
        std::vector<std::pair<std::string, double>> found;
        const auto rows = book.rows({.by = std::move(by), .since = {}, .until = {}, .scope = std::move(scope)});
        if (!rows) return {{rows.error(), 0}};
        for (const BookRow& row : *rows) {
            std::string key;
            for (const std::string& part : row.by)
                key += (key.empty() ? "" : " ") + part;
            found.emplace_back(key, std::round(row.dollars * 1e6) / 1e6);
        }
        return found;
    }
    Budget& budget(const std::string& name, double limit) {
        settings.budgets.emplace_back();
        settings.budgets.back().name = name;
        settings.budgets.back().dollars = limit;
        return settings.budgets.back();
    }

    std::string directory;
    std::ostringstream lines;
    telemetry::Log log{LogLevel::info, LogFormat::text, [this](std::string_view line) { lines << line << '\n'; }};
    MulticloudSettings settings;
    std::vector<Path> paths;
    WallTime now = WallTime(sys_days(2026y / 11 / 29)) + 23h + 59min + 30s;
};

TEST_F(CostBookTest, AddsUpByWhateverIsAsked) {
    const auto book = open();
    pass(*book, "web", "aws-1", 1);
    pass(*book, "web", "aws-2", 2);
    pass(*book, "db", "gcp-1", 5);
    now += 1min;  // the 30th
    pass(*book, "web", "aws-1", 3);
    const auto day = BookColumn::day, month = BookColumn::month, service = BookColumn::service,
               provider = BookColumn::provider, region = BookColumn::region, by_path = BookColumn::path;
    using Rows = std::vector<std::pair<std::string, double>>;
    EXPECT_EQ(dollars(*book, {by_path}), (Rows{{"aws-1", 0.4}, {"aws-2", 0.1}, {"gcp-1", 0.1}}));
    EXPECT_EQ(dollars(*book, {provider}), (Rows{{"aws", 0.5}, {"gcp", 0.1}}));
    EXPECT_EQ(dollars(*book, {region}), (Rows{{"east", 0.5}, {"west", 0.1}}));
    EXPECT_EQ(dollars(*book, {service}), (Rows{{"db", 0.1}, {"web", 0.5}}));
    EXPECT_EQ(dollars(*book, {day}), (Rows{{"2026-11-29", 0.3}, {"2026-11-30", 0.3}}));
    EXPECT_EQ(dollars(*book, {month}), (Rows{{"2026-11", 0.6}}));
    EXPECT_EQ(dollars(*book, {}), (Rows{{"", 0.6}}));
    EXPECT_EQ(dollars(*book, {day, provider}),
              (Rows{{"2026-11-29 aws", 0.2}, {"2026-11-29 gcp", 0.1}, {"2026-11-30 aws", 0.3}}));
    EXPECT_EQ(dollars(*book, {service}, {.service = {}, .path = {}, .provider = "aws", .region = {}}),
              (Rows{{"web", 0.5}}));
    const auto rows = book->rows({.by = {by_path}, .since = {}, .until = {}, .scope = {}});
    EXPECT_EQ(rows->at(0).sent, 4 * gigabyte);
    EXPECT_EQ(rows->at(0).received, 14u);
    EXPECT_EQ(rows->at(0).billed, 4 * gigabyte);
}

TEST_F(CostBookTest, OutlivesTheProcess) {
    {
        const auto book = open();
        pass(*book, "web", "aws-1", 1);
    }
    struct stat found {};
    ASSERT_EQ(stat(file().c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 07, 0u) << "what somebody pays is not for everybody";
    const auto book = open();
    EXPECT_DOUBLE_EQ(book->bills().at(0).month_dollars, 0.1);
    EXPECT_EQ(book->bills().at(0).dollars_ever, 0) << "of this process";
    pass(*book, "web", "aws-1", 2);
    EXPECT_DOUBLE_EQ(book->bills().at(0).month_dollars, 0.3);
    EXPECT_DOUBLE_EQ(book->bills().at(0).dollars_ever, 0.2);
    EXPECT_THAT(book->notes(), IsEmpty());
}

TEST_F(CostBookTest, ProcessesThatShareAFileAddUp) {
    const auto first = open(), second = open();
    pass(*first, "web", "aws-1", 1);
    pass(*second, "web", "aws-1", 2);
    EXPECT_TRUE(first->save());
    EXPECT_TRUE(second->save());
    EXPECT_TRUE(first->save());
    EXPECT_DOUBLE_EQ(first->bills().at(0).month_dollars, 0.3);
    EXPECT_DOUBLE_EQ(second->bills().at(0).month_dollars, 0.3);
}

TEST_F(CostBookTest, ATiersPriceIsOfTheWholeMonth) {
    paths[0].cost_per_gb = {{{Bytes{2 * gigabyte}, 0.10}, {std::nullopt, 0.04}}};
    {
        const auto book = open();
        EXPECT_EQ(book->price(paths[0]), 0.10);
        pass(*book, "web", "aws-1", 1.5);
    }
    const auto book = open();
    pass(*book, "db", "aws-1", 1.5);
    EXPECT_DOUBLE_EQ(book->bills().at(0).month_dollars, 0.15 + 0.05 + 0.04);
    EXPECT_EQ(book->price(paths[0]), 0.04);
    now += 48h;  // December
    book->add(now, {});
    EXPECT_EQ(book->price(paths[0]), 0.10);
    EXPECT_EQ(book->bills().at(0).month_dollars, 0);
}

TEST_F(CostBookTest, ABudgetIsSpentAndBeginsAnew) {
    budget("a day of aws", 1).scope.provider = "aws";
    settings.budgets.back().period = Period::day;
    settings.budgets.back().at_limit = AtLimit::stop_new;
    const auto book = open();
    pass(*book, "web", "gcp-1", 1000);
    EXPECT_EQ(book->budgets().at(0).spent, 0) << "that is no part of it";
    pass(*book, "web", "aws-1", 7.9);
    EXPECT_FALSE(book->budgets().at(0).is_warned());
    pass(*book, "web", "aws-2", 0.3);
    EXPECT_TRUE(book->budgets().at(0).is_warned());
    EXPECT_THAT(lines.str(), HasSubstr("a budget is nearly spent"));
    pass(*book, "web", "aws-1", 3);
    EXPECT_TRUE(book->budgets().at(0).is_spent());
    EXPECT_THAT(lines.str(), HasSubstr("a budget is spent"));
    EXPECT_THAT(book->notes(), ElementsAre(HasSubstr("budget a day of aws: 1.10 of 1.00 dollars are spent; what it "
                                                     "covers takes no new connections until 2026-11-30")));
    now += 30s;
    book->add(now, {});
    EXPECT_EQ(book->budgets().at(0).spent, 0) << "a new day";
    EXPECT_THAT(book->notes(), IsEmpty());
    EXPECT_TRUE(book->save());
    EXPECT_EQ(book->budgets().at(0).spent, 0) << "and the file says the same";
}

TEST_F(CostBookTest, WhatIsSpentStaysSpent) {
    budget("month", 1);
    {
        const auto book = open();
        pass(*book, "web", "aws-1", 20);
    }
    lines.str("");
    const auto book = open();
    EXPECT_TRUE(book->budgets().at(0).is_spent()) << "known before the first connection";
    settings.budgets.at(0).dollars = 3;
    book->follow(paths, settings, now);
    EXPECT_FALSE(book->budgets().at(0).is_spent()) << "more may be spent now";
    EXPECT_DOUBLE_EQ(book->budgets().at(0).spent, 2);
    lines.str("");
    pass(*book, "web", "aws-1", 20);
    EXPECT_THAT(lines.str(), HasSubstr("a budget is spent")) << "again";
    settings.enabled = false;
    book->follow(paths, settings, now);
    EXPECT_THAT(book->budgets(), IsEmpty());
}

TEST_F(CostBookTest, AnUnusableFileIsToldAndNothingIsLost) {
    settings.cost_book = "/proc/none/costs.db";
    const auto book = open();
    EXPECT_THAT(book->notes(), ElementsAre(HasSubstr("/proc/none/costs.db cannot be used (No such file")));
    pass(*book, "web", "aws-1", 1);
    EXPECT_EQ(dollars(*book, {BookColumn::path}).size(), 1u);
    settings.cost_book = file();
    book->follow(paths, settings, now);
    EXPECT_THAT(book->notes(), IsEmpty());
    pass(*book, "web", "aws-1", 1);
    EXPECT_TRUE(book->save());
    const auto other = open();
    EXPECT_DOUBLE_EQ(other->bills().at(0).month_dollars, 0.2) << "what was counted in memory has moved";
}

TEST_F(CostBookTest, AForeignFileIsLeftAlone) {
    std::filesystem::create_directory(directory + "/book");
    const std::string text(5000, 'x');
    std::ofstream(file()) << text;
    const auto book = open();
    EXPECT_THAT(book->notes(), ElementsAre(HasSubstr("file is not a database")));
    pass(*book, "web", "aws-1", 1);
    EXPECT_EQ(dollars(*book, {BookColumn::path}).size(), 1u);
    std::stringstream after;
    after << std::ifstream(file()).rdbuf();
    EXPECT_EQ(after.str(), text);
}

TEST_F(CostBookTest, AFileOfALaterVersionIsLeftAlone) {
    open().reset();
    ASSERT_TRUE((*Database::open(file()))->run("PRAGMA user_version = 9"));
    EXPECT_THAT(open()->notes(), ElementsAre(HasSubstr("it is of version 9, and this program knows versions up to 1")));
}

TEST_F(CostBookTest, WhoeverLocksTheFileDelaysAndLosesNothing) {
    const auto book = open();
    const auto other = Database::open(file());
    ASSERT_TRUE((*other)->run("BEGIN EXCLUSIVE"));
    pass(*book, "web", "aws-1", 1);
    EXPECT_FALSE(book->save());
    EXPECT_THAT(book->notes(), ElementsAre(HasSubstr("cannot be written at the moment (database is locked)")));
    pass(*book, "web", "aws-1", 1);
    EXPECT_DOUBLE_EQ(book->bills().at(0).month_dollars, 0.2) << "counted all the same";
    ASSERT_TRUE((*other)->run("COMMIT"));
    EXPECT_TRUE(book->save());
    EXPECT_THAT(book->notes(), IsEmpty());
    EXPECT_DOUBLE_EQ(book->bills().at(0).month_dollars, 0.2);
    EXPECT_DOUBLE_EQ(open()->bills().at(0).month_dollars, 0.2);
}

TEST_F(CostBookTest, BillsRatesByTheirSamples) {
    now = WallTime(sys_days(2026y / 11 / 10));
    const auto book = open();
    // A day of 1 Mbit/s with an hour at 100 in it: that hour is forgiven. An hour and a half is not.
    const auto day = [&](int fast_slots) {
        for (int slot = 0; slot < 288; ++slot, now += 5min)
            pass(*book, "web", "aws-1", slot < fast_slots ? 3.75 : 0.0375);
        book->add(now, {});
        for (int i = 0; i < 500 && !(book->bills().at(0).this_month.sent > 0); ++i)
            std::this_thread::sleep_for(10ms);
        EXPECT_TRUE(book->save());
    };
    day(12);
    const auto rate = [&] { return book->bills().at(0).this_month.sent; };
    const auto becomes = [&](double wanted) {
        for (int i = 0; i < 500; ++i) {
            if (std::abs(rate() - wanted) < wanted / 100) return true;
            std::this_thread::sleep_for(10ms);
        }
        return false;
    };
    EXPECT_TRUE(becomes(1e6)) << rate();
    day(18);
    EXPECT_TRUE(becomes(100e6)) << rate();
    EXPECT_EQ(book->bills().at(1).this_month.sent, 0);
    now = WallTime(sys_days(2026y / 12 / 1)) + 6min;
    book->add(now, {});
    for (int i = 0; i < 500 && book->bills().at(0).last_month.sent == 0; ++i)
        std::this_thread::sleep_for(10ms);
    EXPECT_EQ(rate(), 0);
    EXPECT_GT(book->bills().at(0).last_month.sent, 0);
}

TEST_F(CostBookTest, NothingIsOpenedWithoutPaths) {
    paths.clear();
    const auto book = open();
    pass(*book, "web", "", 1);
    EXPECT_FALSE(book->save());
    EXPECT_FALSE(std::filesystem::exists(file()));
    EXPECT_THAT(book->notes(), IsEmpty());
}

TEST(Ledger, ForgetsWhatIsOld) {
    const auto ledger = Ledger::open("");
    const Day today = sys_days(2026y / 11 / 30);
    Entries entries;
    for (const int age : {0, 69, 71, 399, 401}) {
        const Day day = today - std::chrono::days(age);
        entries.amounts[{day, "web", "a", "", ""}] = {1, 1, 1, 1};
        entries.samples[{"a", first_slot(day)}] = {1, 1};
    }
    ASSERT_TRUE((*ledger)->add(entries));
    ASSERT_TRUE((*ledger)->prune(today));
    const auto left = (*ledger)->all();
    EXPECT_EQ(left->amounts.size(), 4u);
    EXPECT_EQ(left->samples.size(), 2u);
}

TEST(Ledger, NamesAreNothingButNames) {
    const auto ledger = Ledger::open("");
    const Day today = sys_days(2026y / 11 / 30);
    const std::string name = "'; DROP TABLE traffic; --";
    Entries entries;
    entries.amounts[{today, name, name, name, name}] = {1, 2, 3, 4};
    ASSERT_TRUE((*ledger)->add(entries));
    BookQuery query{.by = {BookColumn::service}, .since = today, .until = today, .scope = {}};
    query.scope.path = name;
    const auto rows = (*ledger)->rows(query);
    ASSERT_TRUE(rows.ok()) << rows.error();
    ASSERT_EQ(rows->size(), 1u);
    EXPECT_EQ(rows->at(0).by.at(0), name);
}

}  // namespace
}  // namespace marchproxy::costs
