#include "flow/query.h"

#include <gmock/gmock.h>

namespace marchproxy::flow {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;

// `number` stands in the client's port, so that bytes and times can be anything.
Record record(uint16_t number, int start, int duration, uint64_t received, uint64_t sent) {
    static const auto origin = std::make_shared<const Origin>(Origin{.service = "web"});
    Record made;
    made.origin = origin;
    made.client = {IpAddress::v4(0x7f000001), number};
    made.start = WallTime{seconds(1'000'000 + start)};
    made.duration = seconds(duration);
    made.received_bytes = received;
    made.sent_bytes = sent;
    return made;
}

struct Arrange : testing::Test {
    const std::vector<Record> records = {record(1, 10, 5, 100, 0), record(2, 30, 1, 0, 500), record(3, 20, 9, 300, 300),
                                         record(4, 40, 5, 100, 0)};

    std::vector<uint16_t> arranged(const Query& query) const {
        std::vector<const Record*> found;
        for (const Record& one : records)
            found.push_back(&one);
        arrange(found, query);
        std::vector<uint16_t> numbers;
        for (const Record* one : found)
            numbers.push_back(one->client.port);
        std::vector<Record> copies = records;
        arrange(copies, query);
        std::vector<uint16_t> again;
        for (const Record& one : copies)
            again.push_back(one.client.port);
        EXPECT_EQ(again, numbers) << "records themselves come in the same order";
        return numbers;
    }
};

TEST_F(Arrange, PutsTheNewestLongestOrLargestFirst) {
    EXPECT_THAT(arranged({.sort = Sort::start}), ElementsAre(4, 2, 3, 1));
    EXPECT_THAT(arranged({.sort = Sort::duration}), ElementsAre(3, 4, 1, 2)) << "of equal ones the newest";
    EXPECT_THAT(arranged({.sort = Sort::bytes}), ElementsAre(3, 2, 4, 1)) << "of both directions together";
}

TEST_F(Arrange, GivesNoMoreThanAskedFor) {
    EXPECT_THAT(arranged({.limit = 2, .sort = Sort::bytes}), ElementsAre(3, 2));
    EXPECT_THAT(arranged({.limit = 0}), IsEmpty());
    EXPECT_THAT(arranged({.limit = 4}), ElementsAre(4, 2, 3, 1));
}

TEST(SortFromName, KnowsItsThreeNames) {
    EXPECT_EQ(sort_from_name("start"), Sort::start);
    EXPECT_EQ(sort_from_name("duration"), Sort::duration);
    EXPECT_EQ(sort_from_name("bytes"), Sort::bytes);
    for (const char* name : {"", "Start", "byte", "size"})
        EXPECT_EQ(sort_from_name(name), std::nullopt) << name;
}

}  // namespace
}  // namespace marchproxy::flow
