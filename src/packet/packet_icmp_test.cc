// ICMP errors about packets that were rewritten here, from both sides.
#include <random>

#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

// Who speaks in a flow, as it looks from where.
struct Cast {
    const char* name;
    bool v6, tcp;
    uint32_t service;
    const char *client, *address, *endpoint, *ours, *router;  // ours: whom the endpoint sees

    Frame ip(const char* from, const char* to) const { return v6 ? eth().ipv6(from, to) : eth().ipv4(from, to); }
    Frame between(const char* from, const char* to, uint16_t source_port, uint16_t port) const {
        const Frame frame = ip(from, to).ttl(40);
        return tcp ? frame.tcp(source_port, port, syn) : frame.udp(source_port, port);
    }
    // The client's packet as it sent it and as it goes on to the endpoint; and the endpoint's.
    Frame asked() const { return between(client, address, 5000, 80); }
    Frame asked_onward() const { return between(ours, endpoint, 5000, 8080); }
    Frame answered() const { return between(endpoint, ours, 8080, 5000); }
    Frame answered_onward() const { return between(address, client, 80, 5000); }
};

std::vector<Cast> casts() {
    std::vector<Cast> all;
    for (const bool tcp : {false, true}) {
        const uint32_t more = tcp;
        all.push_back({"nat", false, tcp, nat_udp + more, client, "10.0.0.1", "10.1.0.1", source, "10.1.9.9"});
        all.push_back({"nat, IPv6", true, tcp, nat_udp6 + more, client6, "2001:db8:a::1", "2001:db8:e::1", source6,
                       "2001:db8:e::99"});
        all.push_back({"dnat", false, tcp, dnat_udp + more, client, "10.0.0.2", "10.1.0.2", client, "10.1.9.9"});
        all.push_back({"dnat, IPv6", true, tcp, dnat_udp6 + more, client6, "2001:db8:a::2", "2001:db8:e::2", client6,
                       "2001:db8:e::99"});
    }
    return all;
}

std::vector<Icmp> errors(bool v6) {
    if (v6) return {{true, 1, 0, 4}, {true, 2, 1400, 0}, {true, 3, 0, 0}, {true, 4, 40, 1}};
    return {{false, 3, 0, 3}, {false, 3, 1400, 4}, {false, 11, 0, 0}, {false, 12, 0x14000000, 0}};
}

class IcmpErrors : public Plane {
  protected:
    static constexpr Icmp unreachable(bool v6) { return v6 ? Icmp{true, 1, 0, 4} : Icmp{false, 3, 0, 3}; }

    static Bytes error(const Frame& outer, const Icmp& icmp, const std::string& quoted) {
        return icmp_message(outer.payload(quoted), icmp);
    }
    void begin(const Cast& cast) { ASSERT_EQ(run_alone(cast.asked()).went, Went::sent) << cast.name; }

    void to_client(const Cast& cast, const char* from, const char* becomes, const Icmp& icmp, size_t size) {
        goes(fmt::format("{} {} to the client, from {}, type {}, {} bytes", cast.name, cast.tcp ? "TCP" : "UDP", from,
                         icmp.type, size)
                 .c_str(),
             error(cast.ip(from, cast.ours).ttl(60), icmp, quote(cast.asked_onward(), size)), "back",
             error(cast.ip(becomes, cast.client).ttl(59).from(front_mac, front_gateway), icmp,
                   quote(cast.asked(), size)));
    }
    void to_endpoint(const Cast& cast, const char* from, const char* becomes, const Icmp& icmp, size_t size) {
        goes(fmt::format("{} {} to the endpoint, from {}, type {}, {} bytes", cast.name, cast.tcp ? "TCP" : "UDP", from,
                         icmp.type, size)
                 .c_str(),
             error(cast.ip(from, cast.address).ttl(60), icmp, quote(cast.answered_onward(), size)), "front",
             error(cast.ip(becomes, cast.endpoint).ttl(59).from(back_mac, back_gateway), icmp,
                   quote(cast.answered(), size)));
    }
};
INSTANTIATE_HOOKS(IcmpErrors);

TEST_P(IcmpErrors, GoToTheClientAboutWhatItSent) {
    for (const Cast& cast : casts()) {
        begin(cast);
        const size_t header = cast.v6 ? 40 : 20;
        for (const Icmp& icmp : errors(cast.v6))
            for (const size_t size : {header + 8, header + 18, size_t{2000}}) {
                to_client(cast, cast.router, cast.router, icmp, size);
                to_client(cast, cast.endpoint, cast.address, icmp, size);
            }
    }
}

TEST_P(IcmpErrors, GoToTheEndpointAboutWhatItSent) {
    for (const Cast& cast : casts()) {
        begin(cast);
        const char* router = cast.v6 ? "2001:db8:c::99" : "11.0.9.9";
        const size_t header = cast.v6 ? 40 : 20;
        for (const Icmp& icmp : errors(cast.v6))
            for (const size_t size : {header + 8, header + 18, size_t{2000}}) {
                to_endpoint(cast, router, router, icmp, size);
                to_endpoint(cast, cast.client, cast.ours, icmp, size);
            }
    }
}

TEST_P(IcmpErrors, WhateverStandsBeforeAndWithinTheHeaders) {
    const Cast cast = casts()[0], cast6 = casts()[1];
    begin(cast);
    begin(cast6);
    const auto row = [&](const char* name, const Frame& in, const Frame& out, const Cast& c, const Bytes& about,
                         const Bytes& original) {
        goes(name, error(in, unreachable(c.v6), quote(about)), "back",
             error(out.from(front_mac, front_gateway), unreachable(c.v6), quote(original)));
    };
    const Frame in = eth().ipv4(cast.router, source).ttl(60), out = eth().ipv4(cast.router, client).ttl(59);
    const Bytes options(12, 1);
    row("a tag", in.vlan(7), out, cast, cast.asked_onward(), cast.asked());
    row("options before", in.ip_options(options), out.ip_options(options), cast, cast.asked_onward(), cast.asked());
    row("options within", in, out, cast, cast.asked_onward().ip_options(options), cast.asked().ip_options(options));
    row("no checksum within", in, out, cast, cast.asked_onward().without_checksum(), cast.asked().without_checksum());
    row("about a first part", in, out, cast, parts(cast.asked_onward(), {8})[0], parts(cast.asked(), {8})[0]);
    row("padding", in.padding(9), out.padding(9), cast, cast.asked_onward(), cast.asked());
    const Frame in6 = eth().ipv6(cast6.router, source6).ttl(60), out6 = eth().ipv6(cast6.router, client6).ttl(59);
    const Bytes extension(14, 0);
    row("extension headers before", in6.extension(60, extension), out6.extension(60, extension), cast6,
        cast6.asked_onward(), cast6.asked());
    row("extension headers within", in6, out6, cast6, cast6.asked_onward().extension(60, extension),
        cast6.asked().extension(60, extension));
    row("about a first part, IPv6", in6, out6, cast6, parts(cast6.asked_onward(), {8})[0],
        parts(cast6.asked(), {8})[0]);
}

TEST_P(IcmpErrors, WhatNobodyHereSentPasses) {
    const Cast cast = casts()[0], cast6 = casts()[1];
    const Frame in = eth().ipv4(cast.router, source), in6 = eth().ipv6(cast6.router, source6);
    const std::string whole = quote(cast.asked_onward()), whole6 = quote(cast6.asked_onward());
    passes("no flow yet", error(in, unreachable(false), whole), "back");
    begin(cast);
    begin(cast6);
    const auto changed = [&](const std::string& from, size_t at, uint8_t byte) {
        std::string bytes = from;
        bytes[at] = static_cast<char>(byte);
        return bytes;
    };
    struct Row {
        const char* name;
        std::string quoted;
    };
    const Row rows[] = {
        {"nothing quoted", ""},
        {"half a header", whole.substr(0, 10)},
        {"a header alone", whole.substr(0, 20)},
        {"ports alone", whole.substr(0, 27)},
        {"version 6", changed(whole, 0, 0x65)},
        {"header of 4 words", changed(whole, 0, 0x44)},
        {"header of 15 words", changed(whole, 0, 0x4f)},
        {"total length within the ports", changed(whole, 3, 27)},
        {"a later part", changed(whole, 7, 1)},
        {"about ICMP", changed(whole, 9, 1)},
        {"about SCTP", changed(whole, 9, 132)},
        {"another flow's protocol", changed(whole, 9, 6)},
        {"another's packet", changed(whole, 15, 2)},
        {"to another endpoint", changed(whole, 19, 2)},
        {"another port of ours", changed(whole, 21, 1)},
        {"another port of the endpoint", changed(whole, 23, 1)},
    };
    for (const Row& row : rows)
        passes(row.name, error(in, unreachable(false), row.quoted), "back");
    const Bytes about = error(eth().ipv4(source, "10.1.0.1"), unreachable(false), whole);
    passes("about an error", error(in, unreachable(false), std::string(about.begin() + 14, about.end())), "back");
    const Row rows6[] = {
        {"nothing quoted, IPv6", ""},
        {"a header alone, IPv6", whole6.substr(0, 40)},
        {"ports alone, IPv6", whole6.substr(0, 47)},
        {"version 4", changed(whole6, 0, 0x45)},
        {"about ICMPv6", changed(whole6, 6, 58)},
        {"an extension header past what is quoted", changed(whole6, 6, 60)},
        {"another port, IPv6", changed(whole6, 41, 1)},
    };
    for (const Row& row : rows6)
        passes(row.name, error(in6, unreachable(true), row.quoted), "back");
    passes("a later part, IPv6", error(in6, unreachable(true), quote(parts(cast6.asked_onward(), {8})[1])), "back");
    passes("to another address than the quoted packet's sender",
           error(eth().ipv4(cast.router, "10.1.255.2"), unreachable(false), whole), "back");
    passes("the ports' end in the padding behind", error(in.padding(20), unreachable(false), whole.substr(0, 27)),
           "back");
    passes("a redirect", error(in, {false, 5}, whole), "back");
    passes("source quench", error(in, {false, 4}, whole), "back");
    passes("no error, IPv6", error(in6, {true, 5}, whole6), "back");
}

TEST_P(IcmpErrors, AreRefusedByName) {
    const Cast cast = casts()[0];
    begin(cast);
    const Frame in = eth().ipv4(cast.router, source);
    const std::string whole = quote(cast.asked_onward()), back = quote(cast.answered_onward());
    drops("hop limit", error(in.ttl(1), unreachable(false), whole), nat_udp, abi::packet_verdict_hop_limit, "back");
    Bytes cut = error(in, unreachable(false), "");
    cut.resize(38);
    put16(cut, 16, 24);
    drops("no whole header", cut, 0, abi::packet_verdict_malformed, "back");
    set_endpoint(nat_udp, 0);
    drops("the endpoint is gone", error(eth().ipv4("11.0.9.9", "10.0.0.1"), unreachable(false), back), nat_udp,
          abi::packet_verdict_no_endpoint);
}

// To an endpoint one is a packet as any; to a client none is limited.
TEST_P(IcmpErrors, TakeFromTheLimitsOfPackets) {
    for (const Cast& cast : casts()) {
        begin(cast);
        abi::packet_limits limits{};
        limits.source_packet_step = 3'600'000'000'000;
        expect(programs->set_limits(cast.service, limits));
        abi::packet_service limited = service(cast.service);
        limited.flags = abi::service_limits_packets;
        expect(programs->set_service(cast.service, limited));
        const Frame from = cast.ip(cast.client, cast.address);
        const Bytes up = error(from, unreachable(cast.v6), quote(cast.answered_onward()));
        EXPECT_EQ(run_alone(up).went, Went::sent) << cast.name;
        drops(cast.name, up, cast.service, abi::packet_verdict_packet_rate);
        const Bytes down = error(cast.ip(cast.router, cast.ours), unreachable(cast.v6), quote(cast.asked_onward()));
        EXPECT_EQ(run_alone(down, "back").went, Went::sent) << cast.name;
    }
}

TEST_P(IcmpErrors, CountForTheServiceAndLeaveTheFlowAlone) {
    for (const Cast& cast : casts()) {
        begin(cast);
        const auto service = *programs->service_counters(cast.service);
        const uint64_t identity = uint64_t{0x0b000001} << 30 | uint64_t{5000} << 14 | cast.service;
        const auto before = chunks_of(*programs, "client_flows").find(identity);
        run_alone(error(cast.ip(cast.router, cast.ours), unreachable(cast.v6), quote(cast.asked_onward())), "back");
        run_alone(error(cast.ip(cast.client, cast.address), unreachable(cast.v6), quote(cast.answered_onward())));
        const auto now = *programs->service_counters(cast.service);
        for (const int direction : {0, 1}) {
            EXPECT_EQ(now.packets[direction] - service.packets[direction], 1u) << cast.name;
            EXPECT_GT(now.bytes[direction] - service.bytes[direction], 28u + 28u) << cast.name;
        }
        const auto after = chunks_of(*programs, "client_flows").find(identity);
        if (cast.v6) continue;
        ASSERT_TRUE(before && after);
        EXPECT_EQ(before->target, after->target);
        EXPECT_EQ(before->traffic, after->traffic);
    }
}

// Errors that are nearly right, from a seed: what is sent on has every checksum as right or wrong as it came.
TEST_P(IcmpErrors, MutationsKeepTheirChecksums) {
    constexpr uint64_t seed = 792;
    std::mt19937_64 random(seed);
    const auto all = casts();
    for (const Cast& cast : all)
        begin(cast);
    int sent = 0;
    for (int i = 0; i < 20'000 && !HasFailure(); ++i) {
        const Cast& cast = all[random() % all.size()];
        const bool up = random() % 2;
        Bytes in = up ? error(cast.ip(cast.client, cast.address), unreachable(cast.v6), quote(cast.answered_onward()))
                      : error(cast.ip(cast.endpoint, cast.ours), unreachable(cast.v6), quote(cast.asked_onward()));
        const size_t icmp = cast.v6 ? 54 : 34;
        for (size_t changes = random() % 3; changes > 0; --changes)
            in[icmp + 1 + random() % (in.size() - icmp - 1)] = static_cast<uint8_t>(random());
        if (random() % 3 == 0) in.resize(in.size() - random() % 30);
        const Outcome out = run(in, up ? "front" : "back");
        const std::string row = fmt::format("seed {}, run {}, {}{}", seed, i, cast.name, hex(in));
        if (out.went != Went::sent) {
            EXPECT_TRUE(out.went == Went::dropped || out.frame == in) << row;
            continue;
        }
        ++sent;
        ASSERT_EQ(out.frame.size(), in.size()) << row;
        const auto residue = [&](const Bytes& f, size_t at, size_t size, uint64_t more = 0) {
            return ones_sum(std::span(f).subspan(at, size), more);
        };
        const auto message = [&](const Bytes& f) {
            return residue(f, icmp, f.size() - icmp, cast.v6 ? residue(f, 22, 32) : 0);
        };
        EXPECT_EQ(message(out.frame), message(in)) << row;
        if (cast.v6) continue;
        EXPECT_EQ(residue(out.frame, 14, 20), residue(in, 14, 20)) << row;
        const size_t quoted = (in[icmp + 8] & 15) * 4u;
        EXPECT_EQ(residue(out.frame, icmp + 8, quoted), residue(in, icmp + 8, quoted)) << row;
    }
    EXPECT_GT(sent, 4000) << "too few to tell";
}

}  // namespace
}  // namespace marchproxy::packet
