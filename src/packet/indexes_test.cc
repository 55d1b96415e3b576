#include "packet/indexes.h"

#include <gtest/gtest.h>

#include "packet/source_runs.h"

namespace marchproxy::packet {
namespace {

IpAddress own(uint32_t last) {
    return IpAddress::v4(0x0a000000 + last);
}

TEST(Book, AnOwnerKeepsItsNumberAndNumbersBeginWithOne) {
    Book<IpAddress> book(10);
    EXPECT_EQ(book.take(own(1)), 1U);
    EXPECT_EQ(book.take(own(2)), 2U);
    book.rest_all();
    EXPECT_EQ(book.take(own(2)), 2U);
}

TEST(Book, ANumberRestsUntilNoFlowCarriesIt) {
    Book<IpAddress> book(10);
    book.take(own(1));
    book.take(own(2));
    EXPECT_FALSE(book.release(1)) << "its owner is there";
    book.rest_all();
    EXPECT_EQ(book.take(own(3)), 3U);
    EXPECT_EQ(book.resting(), (std::map<uint32_t, IpAddress>{{1, own(1)}, {2, own(2)}}));
    EXPECT_EQ(book.take(own(1)), 1U) << "who comes back finds its flows";
    EXPECT_TRUE(book.release(2));
    EXPECT_FALSE(book.release(2));
    EXPECT_EQ(book.take(own(4)), 2U);
}

TEST(Book, IsFullAtItsLimit) {
    Book<IpAddress> book(3);
    EXPECT_TRUE(book.take(own(1)) && book.take(own(2)));
    EXPECT_FALSE(book.take(own(3)));
    EXPECT_TRUE(book.take(own(2)));
}

TEST(Book, WhatIsKeptBackIsNotGivenOut) {
    Book<IpAddress> book(5);
    book.keep_back({1, 2});
    EXPECT_EQ(book.take(own(1)), 3U);
    EXPECT_TRUE(book.take_at(own(2), 2));
    book.keep_back({});
    EXPECT_EQ(book.take(own(3)), 1U);
}

TEST(Indexes, AreFoundAgainByTheNextProcess) {
    Indexes indexes = Indexes::within(1024, 4096);
    const ServiceKey service{"web", Protocol::udp, {own(9), 53}, abi::forwarding_dsr_gue};
    const EndpointKey endpoint{{*IpAddress::parse("2001:db8::1"), 80}, Protocol::tcp};
    indexes.services.take({"gone", Protocol::tcp, {own(9), 80}, abi::forwarding_nat});
    indexes.services.take(service);
    indexes.endpoints.take(endpoint);
    indexes.sources.take_at(own(1), 17);

    Result<Indexes> read = Indexes::from_text(indexes.to_text(), 1024, 4096);
    ASSERT_TRUE(read.ok()) << read.error();
    EXPECT_EQ(read->services.resting().size(), 2U);
    EXPECT_EQ(read->services.take(service), 2U);
    EXPECT_EQ(read->endpoints.take(endpoint), 1U);
    EXPECT_EQ(read->sources.take(own(1)), 17U);
    EXPECT_EQ(read->services.resting().size(), 1U);
    EXPECT_EQ(read->to_text(), indexes.to_text());
}

TEST(Indexes, WhatIsNoBookIsRefused) {
    const char* const texts[] = {
        "",
        "{}",
        R"({"services":[],"endpoints":[],"sources":[{"index":0,"address":"10.0.0.1"}]})",
        R"({"services":[],"endpoints":[],"sources":[{"index":64,"address":"10.0.0.1"}]})",
        R"({"services":[],"endpoints":[],"sources":[{"index":1,"address":"10.0.0"}]})",
        R"({"services":[],"endpoints":[],"sources":[{"index":1,"address":"10.0.0.1"},{"index":1,"address":"10.0.0.2"}]})",
        R"({"services":[{"index":1,"name":"a","protocol":"tcp","listen":"10.0.0.1:80","forwarding":"x"}],"endpoints":[],"sources":[]})",
        R"({"services":[{"index":-1}],"endpoints":[],"sources":[]})"};
    for (const char* text : texts)
        EXPECT_FALSE(Indexes::from_text(text, 10, 10).ok()) << text;
}

TEST(SourceRuns, LieSideBySideWithRoomToGrow) {
    Book<IpAddress> book(abi::max_source_addresses);
    std::vector<std::string> notes;
    const std::vector<IpAddress> four{own(1), own(2)}, other{own(101)};
    SourceRun run = take_sources(four, book, notes);
    EXPECT_EQ(run.first, 1);
    EXPECT_EQ(run.count, 2);
    EXPECT_EQ(take_sources(other, book, notes).first, 9);
    const std::vector<IpAddress> grown{own(1), own(3), own(2)};
    run = take_sources(grown, book, notes);
    EXPECT_EQ(run.first, 1);
    EXPECT_EQ(run.count, 3);
    EXPECT_TRUE(notes.empty());
}

TEST(SourceRuns, OneThatFindsNoPlaceBesideTheOthersIsSaid) {
    Book<IpAddress> book(4);
    std::vector<std::string> notes;
    book.take_at(own(1), 1);
    book.take_at(own(9), 2);
    const std::vector<IpAddress> wanted{own(1), own(2)};
    const SourceRun run = take_sources(wanted, book, notes);
    EXPECT_EQ(run.first, 1);
    EXPECT_EQ(run.count, 1);
    EXPECT_EQ(notes.size(), 1U);
}

}  // namespace
}  // namespace marchproxy::packet
