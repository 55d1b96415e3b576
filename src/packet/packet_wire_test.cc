// Frames as they come, many of them and nearly right, with the programs where they are attached in earnest.
#include "packet/sample_rows.h"
#include "packet/strict_rows.h"
#include "packet/test_namespace.h"
#include "packet/wire_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

// How often a program ran, while the kernel counts it.
uint64_t runs_of(int program) {
    bpf_prog_info info{};
    uint32_t size = sizeof info;
    EXPECT_EQ(bpf_obj_get_info_by_fd(program, &info, &size), 0);
    return info.run_cnt;
}

class OnTheWire : public Sampled {
  protected:
    void SetUp() override {
        Sampled::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        // Clients may send what is too large for endpoints, and nobody but the tests speaks at the peers.
        ASSERT_EQ(std::system("for i in front_peer back_peer; do"
                              "  echo 1 >/proc/sys/net/ipv6/conf/$i/disable_ipv6; done;"
                              "ip link set front mtu 1600 && ip link set front_peer mtu 1600"),
                  0);
        counting_ = Descriptor(bpf_enable_stats(BPF_STATS_RUN_TIME));
        passed_ = testing::load(BPF_PROG_TYPE_SCHED_CLS, "passed", TC_ACT_SHOT);
        pass_ = load_xdp();
        ASSERT_TRUE(counting_ && passed_ && pass_);
        for (const char* interface : {"front", "back"}) {
            attach(*programs, GetParam(), interface);
            // What passes is counted, and the machine hears nothing of it.
            attach_tc(passed_.get(), interface, GetParam() == Hook::tc);
            // veth takes what XDP sends where its peer has a program too.
            if (GetParam() == Hook::xdp) attach_xdp(pass_.get(), (interface + std::string("_peer")).c_str());
        }
        clients_.emplace("front_peer");
        endpoints_.emplace("back_peer");
    }

    // What became of frames, by their number.
    struct Fates {
        uint64_t came = 0, passed = 0, refused = 0;                         // as kernel and programs count
        uint64_t carried = 0, cookies = 0;                                  // by services, in both directions
        uint64_t on = 0, told = 0, echoes = 0, proofs = 0, neighbours = 0;  // as they left
        uint64_t left() const { return on + told + echoes + proofs + neighbours; }
    };
    static uint64_t came() { return runs_of(GetParam() == Hook::xdp ? programs->xdp() : programs->tc()); }
    Fates counted() const {
        Fates all;
        all.came = came();
        all.passed = runs_of(passed_.get());
        for (uint32_t index = 0; index < place_count; ++index) {
            const auto counters = programs->service_counters(index);
            for (const uint64_t dropped : counters->dropped)
                all.refused += dropped;
            all.carried += counters->packets[0] + counters->packets[1];
            all.cookies += counters->cookies;
        }
        return all;
    }

    // What left is right, and counted by what it is. What the machine says itself, of its links, goes to groups.
    void see(const Bytes& frame, Fates& seen) const {
        ASSERT_EQ(objection(frame), "") << hex(frame);
        const auto d = locate(frame);
        const Mac to{frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]};
        const bool message = d && is_message(*d);
        const uint8_t type = message ? frame[d->transport] : uint8_t{0};
        if (to == front_gateway || to == back_gateway)
            ++seen.on;
        else if (message && d->v6 && type == advertisement_type)
            ++seen.neighbours;
        else if (frame[0] & 1)
            return;
        else if (type_of(frame) == 0x0806)
            ++seen.neighbours;
        else if (message && type == (d->v6 ? 129 : 0))
            ++seen.echoes;
        else if (message)
            ++seen.told;
        else if (dissect(frame))
            ++seen.proofs;
        else
            FAIL() << "what is this?" << hex(frame);
    }
    // What has left by now.
    void see_all(Fates& seen, int milliseconds = 0) const {
        for (const Wire* wire : {&*clients_, &*endpoints_})
            for (Bytes frame = wire->next(milliseconds); !frame.empty() && !HasFatalFailure(); frame = wire->next(0))
                see(frame, seen);
    }

    // Of each family and protocol, a request and its answer.
    void goes_there_and_back(const char* row, uint16_t port) const {
        for (const bool v6 : {false, true})
            for (const bool tcp : {false, true}) {
                const auto frame = [&](const char* from4, const char* to4, const char* from6, const char* to6,
                                       uint16_t from_port, uint16_t to_port, uint8_t flags) {
                    const Frame ip = v6 ? eth().ipv6(from6, to6) : eth().ipv4(from4, to4);
                    return tcp ? ip.tcp(from_port, to_port, flags) : ip.udp(from_port, to_port);
                };
                const char *vip4 = "10.0.0.1", *there = "10.1.0.1", *there6 = "2001:db8:e::1";
                clients_->send(frame(client, vip4, client6, vip6, port, 80, syn).from(front_gateway, front_mac));
                EXPECT_EQ(
                    hex(endpoints_->next_to(back_gateway)),
                    hex(frame(source, there, source6, there6, port, 8080, syn).ttl(63).from(back_mac, back_gateway)))
                    << row << ", IPv" << (v6 ? 6 : 4) << (tcp ? ", TCP" : ", UDP");
                endpoints_->send(
                    frame(there, source, there6, source6, 8080, port, syn | ack).from(back_gateway, back_mac));
                EXPECT_EQ(
                    hex(clients_->next_to(front_gateway)),
                    hex(frame(vip4, client, vip6, client6, 80, port, syn | ack).ttl(63).from(front_mac, front_gateway)))
                    << row << ", IPv" << (v6 ? 6 : 4) << (tcp ? ", TCP" : ", UDP");
            }
    }

    std::optional<Wire> clients_, endpoints_;

  private:
    Descriptor counting_, passed_, pass_;
};
INSTANTIATE_HOOKS(OnTheWire);

// Errors about packets of the samples' flows.
std::vector<Sample> errors() {
    const auto about = [](const Frame& error, const Frame& packet, bool v6) {
        return icmp_message(error.payload(quote(packet)), v6 ? Icmp{true, 1, 0, 4} : Icmp{false, 3, 0, 3});
    };
    return {
        {"error to a client",
         about(eth().ipv4("10.1.9.9", source), eth().ipv4(source, "10.1.0.1").udp(5000, 8080), false), "back"},
        {"error to a client, IPv6",
         about(eth().ipv6("2001:db8:e::2", client6), eth().ipv6(client6, "2001:db8:e::2").tcp(5000, 8080, ack), true),
         "back"},
        {"error to an endpoint",
         about(eth().ipv4("11.0.9.9", "10.0.0.1"), eth().ipv4("10.0.0.1", client).udp(80, 5000), false)},
        {"error to an endpoint, inside, IPv6",
         about(eth().ipv6("2001:db8:c::9", "2001:db8:a::4"), eth().ipv6("2001:db8:a::4", client6).udp(80, 5000), true)},
    };
}

TEST_P(OnTheWire, NothingWrongLeavesAndNothingIsLost) {
    constexpr uint64_t seed = 20'242;
    constexpr size_t frames = 60'000;
    constexpr int patience = 1'000;  // milliseconds, twice
    goes_there_and_back("before", 6000);
    const Fates before = counted();
    std::vector<Sample> kinds = samples();
    const std::vector<Sample> about_them = errors();
    kinds.insert(kinds.end(), about_them.begin(), about_them.end());
    Fates seen;
    uint64_t sent = 0;
    std::mt19937_64 random(seed);
    for (size_t i = 0; i < frames && !HasFailure(); ++i) {
        const bool as_it_is = i < kinds.size();
        const Sample& sample = kinds[as_it_is ? i : random() % kinds.size()];
        Bytes frame = as_it_is ? sample.frame : mutated(sample.frame, random);
        mend(frame);
        // What is too large for a link by its padding alone, the link drops when all has been counted; what has no
        // whole tag, the kernel drops before anybody sees it.
        if (const auto d = locate(frame); d && frame.size() > 1400) frame.resize(d->network_end);
        if (network_at(frame) > 14 && frame.size() < 20) continue;
        SCOPED_TRACE(fmt::format("seed {}, frame {}, {}{}", seed, i, sample.name, hex(frame)));
        (sample.interface == std::string("back") ? endpoints_ : clients_)->send(frame);
        ++sent;
        see_all(seen);
        // A ring between two interfaces has 256 places, and a busy machine empties it when it can.
        for (int turn = 0; sent % 100 == 0 && came() - before.came < sent && turn < patience; ++turn)
            see_all(seen, 1);
    }
    const auto accounted_for = [&] {
        const Fates now = counted();
        return now.passed - before.passed + seen.left() + now.refused - before.refused - seen.told;
    };
    for (int turn = 0; accounted_for() < sent && turn < patience && !HasFailure(); ++turn)
        see_all(seen, 1);
    if (HasFailure()) return;
    const Fates after = counted();
    const uint64_t refused = after.refused - before.refused;
    EXPECT_EQ(after.came - before.came, sent);
    EXPECT_EQ(accounted_for(), sent) << "passed, left or dropped";
    EXPECT_EQ(after.carried - before.carried, seen.on + 2 * seen.echoes) << "an echo is carried both ways";
    EXPECT_EQ(after.cookies - before.cookies, seen.proofs);
    const std::pair<const char*, uint64_t> enough[] = {{"passed", after.passed - before.passed},
                                                       {"refused", refused},
                                                       {"sent on", seen.on},
                                                       {"told", seen.told},
                                                       {"echoes", seen.echoes},
                                                       {"proofs", seen.proofs},
                                                       {"neighbours", seen.neighbours}};
    for (const auto& [how, times] : enough)  // who is told has a rate: fewer are where frames come faster
        EXPECT_GT(times, how == std::string_view("told") ? frames / 1000 : frames / 200) << how << ": too few to tell";

    goes_there_and_back("what was there", 6000);
    chunks_of(*programs, "client_flows").clear();  // they were full
    chunks_of(*programs, "endpoint_flows").clear();
    goes_there_and_back("anew", 6001);
}

}  // namespace
}  // namespace marchproxy::packet
