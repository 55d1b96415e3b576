#include "packet/pinned_maps.h"

#include <gmock/gmock.h>
#include <sys/wait.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "packet/pinned_text.h"
#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

MapsMade some_maps() {
    MapsMade made{.capacity = {.flows = 5'000'000'000,
                               .services = 12,
                               .endpoints = 34,
                               .ring_slots = 56,
                               .report_bytes = 4096,
                               .ipv6_clients = false,
                               .nat_port_first = 10'000,
                               .nat_ports = 55'536}};
    made.table.key[0] = UINT64_MAX;
    made.table.key[1] = 1;
    made.table.chunks = 77;
    made.table.alignment = 48;
    return made;
}

TEST(MapsMadeText, ComesBackWhole) {
    const MapsMade made = some_maps();
    const auto read = MapsMade::from_text(made.to_text());
    ASSERT_TRUE(read.has_value());
    EXPECT_EQ(read->capacity, made.capacity);
    EXPECT_EQ(read->table.key[0], made.table.key[0]);
    EXPECT_EQ(read->table.key[1], made.table.key[1]);
    EXPECT_EQ(read->table.chunks, made.table.chunks);
    EXPECT_EQ(read->table.alignment, made.table.alignment);
}

TEST(MapsMadeText, OfAnotherRevisionIsNotGoneOnWith) {
    Json json = Json::parse(some_maps().to_text());
    for (const int revision : {0, int{abi::packet_revision} + 1, -1}) {
        json["revision"] = revision;
        EXPECT_FALSE(MapsMade::from_text(json.dump()).has_value()) << revision;
    }
    json.erase("revision");
    EXPECT_FALSE(MapsMade::from_text(json.dump()).has_value());
}

TEST(MapsMadeText, ThatIsNoneIsRefused) {
    for (const char* text : {"", "{", "null", "[]", "7", "\"revision\"", "{}", "\xff\xfe", "{\"revision\": 1}"})
        EXPECT_FALSE(MapsMade::from_text(text).has_value()) << text;
    const Json whole = Json::parse(some_maps().to_text());
    for (const auto& [name, value] : whole.items()) {
        Json without = whole, null = whole, text = whole;
        without.erase(name);
        null[name] = nullptr;
        text[name] = "1";
        for (const Json& json : {without, null, text})
            EXPECT_FALSE(MapsMade::from_text(json.dump()).has_value()) << json;
    }
}

// A number that wrapped would have maps of another size opened, and flows looked for where none are.
TEST(MapsMadeText, WithANumberOutOfRangeIsRefusedNotWrapped) {
    const Json whole = Json::parse(some_maps().to_text());
    struct Row {
        const char* name;
        Json value;
    };
    const Row rows[] = {
        {"flows", -1},
        {"flows", 0},
        {"flows", 1.5},
        {"flows", 1e30},
        {"services", -1},
        {"services", 0},
        {"services", int{abi::max_packet_services} + 1},
        {"services", (uint64_t{1} << 32) + 12},
        {"endpoints", int{abi::max_packet_endpoints} + 1},
        {"ring_slots", -56},
        {"ring_slots", uint64_t{1} << 40},
        {"report_bytes", uint64_t{1} << 32},
        {"ipv6_clients", 1},
        {"nat_port_first", 65'536 + 10'000},
        {"nat_port_first", -1},
        {"nat_ports", 65'536},
        {"nat_ports", 55'537},
        {"nat_ports", 0},
        {"chunks", 0},
        {"chunks", (uint64_t{1} << 32) + 77},
        {"alignment", 64},
        {"key", {1}},
        {"key", {1, -1}},
        {"key", 7},
    };
    for (const Row& row : rows) {
        Json json = whole;
        json[row.name] = row.value;
        EXPECT_FALSE(MapsMade::from_text(json.dump()).has_value()) << row.name << ": " << row.value;
    }
}

class Pinned : public testing::PinNamespace {
  protected:
    void SetUp() override {
        PinNamespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        directory_ = bpffs + "/marchproxy";
    }
    static size_t entries_of(const std::string& directory) {
        size_t count = 0;
        for ([[maybe_unused]] const auto& entry : std::filesystem::recursive_directory_iterator(directory))
            ++count;
        return count;
    }

    std::string directory_;
};

TEST_F(Pinned, KeepsWhatTheMapsWereMadeForAndTheBook) {
    const PinnedMaps pins(directory_);
    EXPECT_FALSE(pins.any());
    EXPECT_FALSE(pins.read_made().has_value());
    const auto made = pins.make_directory();
    ASSERT_TRUE(made.ok()) << made.error();
    EXPECT_TRUE(pins.any());
    ASSERT_TRUE(pins.write_made(some_maps()).ok());
    ASSERT_TRUE(pins.write_book("{}").ok());
    ASSERT_TRUE(pins.read_made().has_value());
    EXPECT_EQ(pins.read_made()->capacity, some_maps().capacity);
    EXPECT_EQ(pins.read_book(), "{}");
}

TEST_F(Pinned, RemovesEverythingAndASecondTimeNothing) {
    const PinnedMaps pins(directory_);
    ASSERT_TRUE(pins.make_directory().ok());
    ASSERT_TRUE(pins.write_made(some_maps()).ok());
    ASSERT_TRUE(pins.write_book("{}").ok());
    for (const char* map : {"services", "endpoints"})
        ASSERT_TRUE(write_pinned_text(pins.path_of(map), "a map").ok());
    for (const char* left : {"/made-new", "/book-new"})
        ASSERT_TRUE(write_pinned_text(directory_ + left, "half").ok());
    pins.remove();
    EXPECT_EQ(entries_of(directory_), 0u);
    EXPECT_FALSE(pins.any());
    EXPECT_FALSE(pins.read_made().has_value());
    pins.remove();
    EXPECT_EQ(entries_of(directory_), 0u);
}

TEST_F(Pinned, IsOneProcesssAtATime) {
    ASSERT_TRUE(PinnedMaps(directory_).make_directory().ok());
    std::optional<PinLock> held;
    {
        auto first = PinLock::take(directory_);
        ASSERT_TRUE(first.ok()) << first.error();
        held = std::move(*first);
    }
    const auto second = PinLock::take(directory_);
    ASSERT_FALSE(second.ok()) << "moved, it is held still";
    EXPECT_THAT(second.error(), HasSubstr(directory_ + " is another running process's"));
    held.reset();
    EXPECT_TRUE(PinLock::take(directory_).ok());
}

TEST_F(Pinned, IsLetGoOfWithTheProcessThatHeldIt) {
    ASSERT_TRUE(PinnedMaps(directory_).make_directory().ok());
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t process = ::fork();
    if (process == 0) {
        const auto lock = PinLock::take(directory_);
        const char word = lock.ok() ? 'y' : 'n';
        if (::write(ready[1], &word, 1) != 1) std::_Exit(1);
        ::pause();
        std::_Exit(1);
    }
    char word = 0;
    ASSERT_EQ(::read(ready[0], &word, 1), 1);
    EXPECT_EQ(word, 'y');
    EXPECT_FALSE(PinLock::take(directory_).ok());
    ::kill(process, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(process, &status, 0), process);
    EXPECT_TRUE(PinLock::take(directory_).ok());
    ::close(ready[0]);
    ::close(ready[1]);
}

TEST_F(Pinned, SaysThatItsDirectoryIsNotThere) {
    const auto lock = PinLock::take(bpffs + "/nowhere");
    ASSERT_FALSE(lock.ok());
    EXPECT_THAT(lock.error(), HasSubstr(bpffs + "/nowhere"));
}

}  // namespace
}  // namespace marchproxy::packet
