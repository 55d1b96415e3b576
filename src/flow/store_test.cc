#include "flow/store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

namespace marchproxy::flow {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

std::shared_ptr<const Origin> origin_of(const std::string& service) {
    auto origin = std::make_shared<Origin>();
    origin->service = service;
    origin->endpoint = "10.1.0.10:80";
    return origin;
}

Record record(uint64_t number, const std::shared_ptr<const Origin>& origin) {
    Record result;
    result.origin = origin;
    result.start = WallTime{seconds(1'000'000 + number)};
    result.received_bytes = number;
    return result;
}

std::vector<uint64_t> numbers(const std::vector<Record>& records) {
    std::vector<uint64_t> result;
    for (const Record& item : records)
        result.push_back(item.received_bytes);
    return result;
}

struct StoreTest : testing::Test {
    std::shared_ptr<const Origin> web = origin_of("web"), dns = origin_of("dns");

    void add(Store& store, uint64_t from, uint64_t to, const std::shared_ptr<const Origin>& origin) {
        std::vector<Record> batch;
        for (uint64_t i = from; i < to; ++i)
            batch.push_back(record(i, origin));
        store.finished(batch);
        EXPECT_TRUE(batch.empty());
    }
};

TEST_F(StoreTest, KeepsExactlyTheLastOnes) {
    Store store({.keep = 3});
    add(store, 0, 5, web);
    add(store, 5, 6, web);
    EXPECT_THAT(numbers(store.query({})), ElementsAre(5, 4, 3));
    EXPECT_EQ(store.status().total, 6u);
    EXPECT_EQ(store.status().kept, 3u);
}

TEST_F(StoreTest, StaysBoundedOverManyTimesItsSize) {
    Store store({.keep = 5000});
    for (uint64_t i = 0; i < 100'000; i += 100)
        add(store, i, i + 100, web);
    EXPECT_EQ(store.status().kept, 5000u);
    const auto all = store.query({.limit = 1'000'000});
    ASSERT_EQ(all.size(), 5000u);
    EXPECT_EQ(all.front().received_bytes, 99'999u);
    EXPECT_EQ(all.back().received_bytes, 95'000u);
}

TEST_F(StoreTest, FindsByServiceAndSorts) {
    Store store({.keep = 100});
    std::vector<Record> batch;
    const int durations[] = {5, 9, 1};
    for (uint64_t i = 0; i < 3; ++i) {
        batch.push_back(record(i, web));
        batch.back().duration = seconds(durations[i]);
        batch.back().sent_bytes = i == 0 ? 1000 : 0;
    }
    batch.push_back(record(7, dns));
    store.finished(batch);
    EXPECT_THAT(numbers(store.query({.service = "web"})), ElementsAre(2, 1, 0));
    EXPECT_THAT(numbers(store.query({.service = "web", .sort = Sort::duration})), ElementsAre(1, 0, 2));
    EXPECT_THAT(numbers(store.query({.service = "web", .limit = 2, .sort = Sort::bytes})), ElementsAre(0, 2));
    EXPECT_THAT(numbers(store.query({.service = "dns"})), ElementsAre(7));
    EXPECT_TRUE(store.query({.service = "nothing"}).empty());
    EXPECT_TRUE(store.query({.limit = 0}).empty());
}

TEST_F(StoreTest, ForgetsTheOldestWhenAReloadKeepsLess) {
    Store store({.keep = 10'000});
    add(store, 0, 9000, web);
    store.configure({.keep = 2});
    EXPECT_THAT(numbers(store.query({})), ElementsAre(8999, 8998));
    store.configure({.keep = 0});
    EXPECT_TRUE(store.query({}).empty());
    add(store, 0, 10, web);
    EXPECT_EQ(store.status().kept, 0u);
    EXPECT_EQ(store.status().total, 9010u);
}

TEST_F(StoreTest, AnswersWhileWorkersHandInFlows) {
    Store store({.keep = 2000});
    std::atomic<bool> done = false;
    std::thread reader([&] {
        while (!done)
            EXPECT_LE(store.query({.limit = 5000}).size(), 2000u);
    });
    std::vector<std::thread> workers;
    for (int worker = 0; worker < 2; ++worker)
        workers.emplace_back([&] {
            for (uint64_t i = 0; i < 20'000; i += 50)
                add(store, i, i + 50, web);
        });
    for (std::thread& worker : workers)
        worker.join();
    done = true;
    reader.join();
    EXPECT_EQ(store.status().total, 40'000u);
}

TEST_F(StoreTest, SortsListsFromElsewhere) {
    std::vector<Record> records = {record(1, web), record(3, web), record(2, dns), record(2, web)};
    arrange(records, {.service = "web", .limit = 2});
    EXPECT_THAT(numbers(records), ElementsAre(3, 2));
}

struct FileTest : StoreTest {
    std::filesystem::path directory;
    std::string file;

    void SetUp() override {
        std::string pattern = testing::TempDir() + "flow_store_XXXXXX";
        directory = mkdtemp(pattern.data());
        file = directory / "flows.json";
    }
    void TearDown() override { std::filesystem::remove_all(directory); }

    static std::vector<uint64_t> lines_of(const std::string& path) {
        std::ifstream input(path);
        std::vector<uint64_t> result;
        for (std::string line; std::getline(input, line);)
            result.push_back(nlohmann::json::parse(line)["received_bytes"].get<uint64_t>());
        return result;
    }

    template <class Condition>
    static bool eventually(Condition condition) {
        for (int i = 0; i < 500; ++i) {
            if (condition()) return true;
            std::this_thread::sleep_for(milliseconds(10));
        }
        return false;
    }
};

TEST_F(FileTest, AppendsOneJsonObjectALine) {
    {
        std::ofstream(file) << R"({"received_bytes":99})"
                            << "\n";
    }
    {
        Store store({.keep = 1, .file = file});
        add(store, 0, 3, web);
    }
    EXPECT_THAT(lines_of(file), ElementsAre(99, 0, 1, 2));
}

TEST_F(FileTest, WritesEverythingThatWaitsBeforeItEnds) {
    {
        Store store({.keep = 0, .file = file});
        add(store, 0, 30'000, web);
    }
    const auto lines = lines_of(file);
    ASSERT_EQ(lines.size(), 30'000u);
    EXPECT_EQ(lines.back(), 29'999u);
}

TEST_F(FileTest, GoesOnInANewFileAfterLogrotate) {
    Store store({.keep = 1, .file = file});
    add(store, 0, 1, web);
    ASSERT_TRUE(eventually([&] { return store.status().written == 1; }));
    std::filesystem::rename(file, file + ".1");
    store.reopen();
    add(store, 1, 2, web);
    ASSERT_TRUE(eventually([&] { return store.status().written == 2; }));
    EXPECT_THAT(lines_of(file + ".1"), ElementsAre(0));
    EXPECT_THAT(lines_of(file), ElementsAre(1));
}

TEST_F(FileTest, TakesAnotherFileByReload) {
    Store store({.keep = 1, .file = file});
    add(store, 0, 1, web);
    ASSERT_TRUE(eventually([&] { return store.status().written == 1; }));
    store.configure({.keep = 1, .file = file + ".other"});
    add(store, 1, 2, web);
    ASSERT_TRUE(eventually([&] { return store.status().written == 2; }));
    EXPECT_THAT(lines_of(file + ".other"), ElementsAre(1));
}

TEST_F(FileTest, ReportsAFailureOnceCountsWhatIsLostAndRecovers) {
    std::mutex mutex;
    std::vector<std::pair<bool, std::string>> reports;
    Store store({.keep = 10, .file = directory / "missing" / "flows.json"},
                [&](bool works, const std::string& message) {
                    std::lock_guard lock(mutex);
                    reports.emplace_back(works, message);
                });
    for (uint64_t i = 0; i < 3; ++i) {
        add(store, i, i + 1, web);
        ASSERT_TRUE(eventually([&] { return store.status().dropped == i + 1; }));
    }
    EXPECT_THAT(store.status().file_error, HasSubstr("No such file or directory"));
    std::filesystem::create_directory(directory / "missing");
    add(store, 7, 8, web);
    ASSERT_TRUE(eventually([&] { return store.status().written == 1; }));
    EXPECT_EQ(store.status().file_error, "");
    std::lock_guard lock(mutex);
    ASSERT_EQ(reports.size(), 2u);
    EXPECT_FALSE(reports[0].first);
    EXPECT_THAT(reports[0].second, HasSubstr("missing/flows.json"));
    EXPECT_TRUE(reports[1].first);
    EXPECT_EQ(store.query({}).size(), 4u) << "memory is not affected";
}

TEST_F(FileTest, ReportsAFullDisk) {
    Store store({.keep = 10, .file = "/dev/full"});
    add(store, 0, 5, web);
    ASSERT_TRUE(eventually([&] { return store.status().dropped == 5; }));
    EXPECT_THAT(store.status().file_error, HasSubstr("No space left on device"));
}

TEST_F(FileTest, NeverBlocksTheDataPathOnAFileThatTakesNothing) {
    ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
    const int reader = open(file.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    ASSERT_GE(reader, 0);
    {
        Store store({.keep = 10, .file = file, .queued_for_file = 1000});
        const auto begin = std::chrono::steady_clock::now();
        for (uint64_t i = 0; i < 200; ++i)
            add(store, i * 100, (i + 1) * 100, web);
        EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(500));
        EXPECT_GT(store.status().dropped, 0u);
    }
    close(reader);
}

}  // namespace
}  // namespace marchproxy::flow
