// What a service lets in at most: of one client address, and of packets.
#include <time.h>

#include <functional>

#include "packet/flow_limits.h"
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

constexpr uint64_t hour = 3'600'000'000'000;  // a rate at which no test sees a second event

class Limit : public Plane {
  protected:
    void limit(uint32_t index, const std::function<void(abi::packet_limits&)>& how) {
        abi::packet_limits limits{};
        how(limits);
        expect(programs->set_limits(index, limits));
        abi::packet_service limited = service(index);
        limited.flags = flags_of(limits);
        limited.idle_seconds = limited.opening_seconds = 60;
        expect(programs->set_service(index, limited));
    }
    void enters(const char* row, const Bytes& frame) { EXPECT_STREQ(name_of(run(frame).went), "sent") << row; }

    // To the service, of either family.
    static Frame to(uint32_t index, const char* from4, const char* from6, uint16_t port) {
        const bool v6 = index == nat_udp6 || index == nat_tcp6;
        const Frame frame = v6 ? eth().ipv6(from6, places[index].service) : eth().ipv4(from4, places[index].service);
        return places[index].protocol == udp_protocol ? frame.udp(port, 80) : frame.tcp(port, 80, syn);
    }
    static Frame one(uint32_t index, uint16_t port) { return to(index, client, client6, port); }
    static Frame other(uint32_t index, uint16_t port) { return to(index, "11.0.0.2", "2001:db8:c::2", port); }

    static void age(uint32_t seconds) {
        chunks_of(*programs, "client_flows").age(seconds);
        chunks_of(*programs, "endpoint_flows").age(seconds);
    }
    static uint32_t sweep() {
        const auto run = programs->sweep(0, programs->flow_buckets());
        EXPECT_TRUE(run.ok() && programs->take_reports([](const abi::flow_report&) {}).ok());
        return run.ok() ? uint32_t{run->ended} : 0;
    }
    // Lets time pass for whatever is due.
    static void pass(uint64_t nanoseconds) {
        const int map = programs->map("source_rates");
        std::vector<abi::source_key> keys(1);
        while (bpf_map_get_next_key(map, keys.size() > 1 ? &keys.back() : nullptr, &keys[0]) == 0)
            keys.push_back(keys[0]);
        for (size_t i = 1; i < keys.size(); ++i) {
            abi::source_rate rate{};
            ASSERT_EQ(bpf_map_lookup_elem(map, &keys[i], &rate), 0);
            rate.packets_due -= std::min<uint64_t>(rate.packets_due, nanoseconds);
            rate.flows_due -= std::min<uint64_t>(rate.flows_due, nanoseconds);
            ASSERT_EQ(bpf_map_update_elem(map, &keys[i], &rate, BPF_ANY), 0);
        }
        for (uint32_t i = 1; i < place_count; ++i) {
            abi::admission state = admission(i);
            state.packets_due -= std::min<uint64_t>(state.packets_due, nanoseconds);
            set_admission(i, state);
        }
    }
    static size_t counted_sources() {
        size_t count = 0;
        abi::source_key key{}, next{};
        for (bool first = true; bpf_map_get_next_key(programs->map("source_flows"), first ? nullptr : &key, &next) == 0;
             first = false) {
            key = next;
            ++count;
        }
        return count;
    }
};
INSTANTIATE_HOOKS(Limit);

TEST_P(Limit, FlowsOfOneAddress) {
    for (const uint32_t index : {nat_udp, nat_tcp, nat_udp6, nat_tcp6}) {
        SCOPED_TRACE(index);
        limit(index, [](auto& l) { l.connections_per_source = 2; });
        enters("first", one(index, 5000));
        enters("second", one(index, 5001));
        drops("third", one(index, 5002), index, abi::packet_verdict_source_limit);
        enters("the first's next", one(index, 5000));
        enters("another address", other(index, 5000));
        enters("the same address at another service", one(index == nat_udp ? dnat_udp : nat_udp, 6000));
        age(100);
        EXPECT_GE(sweep(), 3u);
        EXPECT_EQ(counted_sources(), 0u);
        enters("third, when the others are over", one(index, 5002));
        enters("and one more", one(index, 5003));
        drops("no other", one(index, 5004), index, abi::packet_verdict_source_limit);
        limit(index, [](auto& l) { l.connections_per_source = 3; });
        enters("a higher limit counts those who are there", one(index, 5004));
        drops("and holds", one(index, 5005), index, abi::packet_verdict_source_limit);
        limit(index, [](auto&) {});
        enters("no limit", one(index, 5005));
        age(100);
        sweep();
    }
}

// Flows from before the limit are not counted, and their end takes nothing from those that are.
TEST_P(Limit, ThatCameLaterCountsFromThenOn) {
    limit(nat_udp, [](auto&) {});
    enters("before", one(nat_udp, 5000));
    const timespec second{.tv_sec = 1, .tv_nsec = 100'000'000};
    nanosleep(&second, nullptr);
    limit(nat_udp, [](auto& l) { l.connections_per_source = 2; });
    enters("first", one(nat_udp, 5001));
    enters("second", one(nat_udp, 5002));
    drops("third", one(nat_udp, 5003), nat_udp, abi::packet_verdict_source_limit);
    age(100);
    enters("first lives", one(nat_udp, 5001));
    enters("second lives", one(nat_udp, 5002));
    EXPECT_EQ(sweep(), 1u);
    drops("third, still", one(nat_udp, 5003), nat_udp, abi::packet_verdict_source_limit);
    // Off and on again: what was counted while it held is not taken for what lives.
    limit(nat_udp, [](auto&) {});
    age(100);
    enters("first lives", one(nat_udp, 5001));
    EXPECT_EQ(sweep(), 1u);
    limit(nat_udp, [](auto& l) { l.connections_per_source = 1; });
    EXPECT_EQ(counted_sources(), 0u);
    enters("a new first", one(nat_udp, 5003));
    drops("a new second", one(nat_udp, 5004), nat_udp, abi::packet_verdict_source_limit);
}

// Who cannot be counted is let in, and one can see that.
TEST_P(Limit, AddressesThatThereIsNoRoomForAreNotCounted) {
    const int map = programs->map("source_flows");
    bpf_map_info info{};
    uint32_t size = sizeof info;
    ASSERT_EQ(bpf_obj_get_info_by_fd(map, &info, &size), 0);
    for (uint32_t i = 0; i < info.max_entries; ++i) {
        const abi::source_key key{.address = {{1, i}}, .service = dnat_tcp6, .reserved = 0};
        const abi::source_flows flows{.live = 1, .since = 0};
        ASSERT_EQ(bpf_map_update_elem(map, &key, &flows, BPF_ANY), 0) << i;
    }
    limit(nat_udp, [](auto& l) { l.connections_per_source = 1; });
    const uint64_t before = programs->service_counters(nat_udp)->uncounted;
    enters("first", one(nat_udp, 5000));
    enters("second", one(nat_udp, 5001));
    EXPECT_EQ(programs->service_counters(nat_udp)->uncounted - before, 2u);
    expect(programs->clear_service(dnat_tcp6));  // what is known of a service goes with it
    EXPECT_EQ(counted_sources(), 0u);
    enters("third", one(nat_udp, 5002));
    drops("fourth", one(nat_udp, 5003), nat_udp, abi::packet_verdict_source_limit);
}

TEST_P(Limit, NewFlowsOfOneAddress) {
    for (const uint32_t index : {nat_udp, nat_tcp, nat_udp6, nat_tcp6}) {
        SCOPED_TRACE(index);
        limit(index, [](auto& l) { l.source_flow_step = l.source_flow_tolerance = hour; });
        enters("first", one(index, 5000));
        enters("second, of the burst", one(index, 5001));
        drops("third", one(index, 5002), index, abi::packet_verdict_source_rate);
        enters("the first's next", one(index, 5000));
        enters("another address", other(index, 5000));
        pass(hour);
        enters("third, later", one(index, 5002));
        drops("fourth", one(index, 5003), index, abi::packet_verdict_source_rate);
        limit(index, [](auto& l) { l.source_flow_step = l.source_flow_tolerance = 1; });
        enters("a higher limit holds at once", one(index, 5003));
    }
}

TEST_P(Limit, PacketsOfOneAddress) {
    for (const uint32_t index : {nat_udp, nat_tcp, nat_udp6, nat_tcp6}) {
        SCOPED_TRACE(index);
        limit(index, [](auto& l) { l.source_packet_step = hour, l.source_packet_tolerance = 2 * hour; });
        for (int i = 0; i < 3; ++i)
            enters("of the burst", one(index, 5000));
        drops("one more", one(index, 5000), index, abi::packet_verdict_packet_rate);
        drops("nor of a new flow", one(index, 5001), index, abi::packet_verdict_packet_rate);
        enters("another address", other(index, 5000));
        pass(hour);
        enters("later", one(index, 5000));
        drops("no more", one(index, 5000), index, abi::packet_verdict_packet_rate);
        limit(index, [](auto& l) { l.source_packet_step = l.source_packet_tolerance = 1; });
        enters("a higher limit holds at once", one(index, 5000));
    }
}

TEST_P(Limit, PacketsOfAService) {
    const auto own = [](auto& l) { l.packet_batch = 3, l.packet_batch_step = l.packet_tolerance = hour; };
    limit(nat_udp, own);
    const auto from = [](int i) { return eth().ipv4(fmt::format("11.0.1.{}", i), "10.0.0.1").udp(5000, 80); };
    for (int i = 0; i < 6; ++i)
        enters("two batches", from(i));
    drops("one more", from(0), nat_udp, abi::packet_verdict_packet_rate);
    drops("of anybody", from(7), nat_udp, abi::packet_verdict_packet_rate);
    EXPECT_STREQ(name_of(run(eth().ipv4("10.1.0.1", source).udp(8080, 5000), "back").went), "sent") << "an answer";
    enters("another service", eth().ipv4(client, "10.0.0.2").udp(5000, 80));
    pass(hour);
    for (int i = 0; i < 3; ++i)
        enters("later, another batch", from(i));
    drops("no more", from(0), nat_udp, abi::packet_verdict_packet_rate);
    limit(nat_udp, [&](auto& l) { own(l), l.packet_batch_step = l.packet_tolerance = 1; });
    enters("a higher limit holds at once", from(0));
}

// What one address sends too much is not taken from the others.
TEST_P(Limit, PacketsOfOneAddressBeforeThoseOfAll) {
    limit(nat_udp, [](auto& l) {
        l.source_packet_step = l.packet_batch_step = hour;
        l.source_packet_tolerance = 0;
        l.packet_batch = 2, l.packet_tolerance = 0;
    });
    enters("the first", one(nat_udp, 5000));
    for (int i = 0; i < 5; ++i)
        drops("too many", one(nat_udp, 5000), nat_udp, abi::packet_verdict_packet_rate);
    enters("another", other(nat_udp, 5000));
}

}  // namespace
}  // namespace marchproxy::packet
