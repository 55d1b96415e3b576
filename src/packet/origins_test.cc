#include "packet/origins.h"

#include <gmock/gmock.h>

#include "packet/directory.h"
#include "packet/plan_cases.h"

namespace marchproxy::packet {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr WallTime now{seconds(1'700'000'000)};

struct OriginsTest : ::testing::Test {
    Indexes book = Indexes::within(16, 16);
    Origins origins;

    OriginsTest() {
        book.services.take_at({.name = "web", .listen = at("203.0.113.1:80")}, 1);
        book.services.take_at({.name = "dns", .protocol = Protocol::udp, .listen = at("[2001:db8::53]:53")}, 2);
        book.endpoints.take_at({.address = at("10.0.1.1:8080")}, 1);
        book.endpoints.take_at({.address = at("10.0.1.2:8080")}, 2);
        book.endpoints.take_at({.address = at("[2001:db8:e::1]:53"), .protocol = Protocol::udp}, 3);
        origins.set(1, 0, {.service = "web"});
        origins.set(1, 1, {.service = "web", .path = "aws", .endpoint = "one.example:8080"});
        origins.set(1, 2, {.service = "web", .path = "gcp", .endpoint = "two.example:8080"});
        origins.set(2, 3, {.service = "dns", .path = "aws", .endpoint = "[2001:db8:e::1]:53"});
    }

    static abi::flow_report report(uint16_t service, uint32_t endpoint, const char* client,
                                   abi::flow_state state = abi::flow_established) {
        abi::flow_report made{};
        made.service = service;
        made.client = to_abi(ip(client));
        made.client_port_be = to_network(50'000);
        // All other bits of the target, so that none of them passes for a part of these.
        made.target = uint64_t{state} << flow_state_shift | uint64_t{endpoint} << flow_endpoint_shift |
                      ((1ULL << flow_endpoint_shift) - 1);
        made.packets[abi::direction_up] = 3;
        made.bytes[abi::direction_up] = 1000;
        made.bytes[abi::direction_down] = 20'000;
        made.age_seconds = 90;
        return made;
    }
};

TEST_F(OriginsTest, TellALivingFlow) {
    const flow::Record record = origins.record_of(report(1, 2, "198.51.100.7"), book, now);
    EXPECT_EQ(record.origin->service, "web");
    EXPECT_EQ(record.origin->path, "gcp");
    EXPECT_EQ(record.origin->endpoint, "two.example:8080");
    EXPECT_EQ(record.origin->plane, "packet");
    EXPECT_EQ(to_string(record.client), "198.51.100.7:50000");
    EXPECT_EQ(to_string(record.endpoint), "10.0.1.2:8080");
    EXPECT_EQ(record.received_bytes, 1000u) << "from the client";
    EXPECT_EQ(record.sent_bytes, 20'000u);
    EXPECT_EQ(record.duration, seconds(90));
    EXPECT_EQ(record.start, now - seconds(90));
    EXPECT_EQ(record.state, flow::State::active);
}

TEST_F(OriginsTest, TellAnIpv6FlowThatEnded) {
    abi::flow_report ended = report(2, 3, "2001:db8:c::1");
    ended.ended = 1;
    ended.why = abi::packet_verdict_idle_timeout;
    const flow::Record record = origins.record_of(ended, book, now);
    EXPECT_EQ(record.origin->service, "dns");
    EXPECT_EQ(to_string(record.client), "[2001:db8:c::1]:50000");
    EXPECT_EQ(to_string(record.endpoint), "[2001:db8:e::1]:53");
    EXPECT_EQ(record.state, flow::State::closed);
    EXPECT_EQ(record.end_reason, Verdict::idle_timeout);
}

TEST_F(OriginsTest, SayOpeningOnlyOfAFlowThatNobodyAnswered) {
    for (const auto state :
         {abi::flow_opening, abi::flow_answered, abi::flow_established, abi::flow_client_closed,
          abi::flow_endpoint_closed, abi::flow_closed, abi::flow_client_reset, abi::flow_endpoint_reset}) {
        const flow::Record record = origins.record_of(report(1, 1, "198.51.100.7", state), book, now);
        EXPECT_EQ(record.state, state == abi::flow_opening ? flow::State::connecting : flow::State::active) << state;
        EXPECT_EQ(to_string(record.endpoint), "10.0.1.1:8080") << state;
    }
}

TEST_F(OriginsTest, TakeAReasonThatTheyDoNotKnowForAnInternalError) {
    abi::flow_report ended = report(1, 1, "198.51.100.7");
    ended.ended = 1;
    ended.why = 255;
    EXPECT_EQ(origins.record_of(ended, book, now).end_reason, Verdict::internal_error);
}

TEST_F(OriginsTest, KnowTheServiceWhereTheEndpointIsNotKnown) {
    EXPECT_EQ(origins.find(1, 9)->service, "web");
    EXPECT_EQ(origins.find(1, 9)->endpoint, "");
    EXPECT_EQ(origins.find_exactly(1, 9), nullptr);
    ASSERT_NE(origins.find(7, 1), nullptr);
    EXPECT_EQ(origins.find(7, 1)->service, "");
    EXPECT_EQ(origins.find(7, 1)->plane, "packet");
    const flow::Record record = origins.record_of(report(1, 9, "198.51.100.7"), book, now);
    EXPECT_EQ(record.origin->service, "web");
    EXPECT_EQ(record.endpoint.port, 0) << "nobody knows where it went";
}

TEST_F(OriginsTest, GoOnTellingOfARecordThatIsTheirsNoMore) {
    const flow::Record record = origins.record_of(report(1, 1, "198.51.100.7"), book, now);
    origins.set(1, 1, {.service = "web", .path = "azure", .endpoint = "other.example:80"});
    EXPECT_EQ(record.origin->path, "aws");
    EXPECT_EQ(origins.find(1, 1)->path, "azure");
}

TEST_F(OriginsTest, KnowThePathsOfAService) {
    EXPECT_THAT(origins.paths_of(1), ElementsAre(Pair(1, "aws"), Pair(2, "gcp")));
    EXPECT_THAT(origins.paths_of(2), ElementsAre(Pair(3, "aws")));
    EXPECT_THAT(origins.paths_of(3), IsEmpty());
}

TEST_F(OriginsTest, ForgetThoseWhoseNumbersNobodyCarriesAnyMore) {
    book.endpoints.rest_all();
    ASSERT_TRUE(book.endpoints.release(2));
    origins.keep_only(book);
    EXPECT_EQ(origins.find_exactly(1, 2), nullptr);
    EXPECT_NE(origins.find_exactly(1, 1), nullptr) << "it rests, and flows may carry it";
    EXPECT_NE(origins.find_exactly(1, 0), nullptr);
    book.services.rest_all();
    ASSERT_TRUE(book.services.release(1));
    origins.keep_only(book);
    EXPECT_EQ(origins.find_exactly(1, 0), nullptr);
    EXPECT_EQ(origins.find_exactly(1, 1), nullptr);
    EXPECT_NE(origins.find_exactly(2, 3), nullptr);
}

}  // namespace
}  // namespace marchproxy::packet
