// What is cut short, contradicts itself or was made up: never rewritten into something else.
#include <map>
#include <set>

#include "packet/sample_rows.h"
#include "packet/strict_rows.h"
#include "packet/tunnel_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

// An address and a port.
using Side = std::pair<IpAddress, unsigned>;

class Malformed : public Sampled {
  protected:
    void SetUp() override {
        Sampled::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        begin_anew();
    }
    // Flows of the samples alone.
    void begin_anew() {
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
        forget_fragments();
        clients_.clear(), ports_.clear(), too_large_.clear(), parts_.clear();
        for (const Sample& sample : samples())
            keeps_the_rule(sample.name, sample.frame, sample.interface);
    }
    // Clients in VLAN 100 and endpoints in VLAN 200: frames leave with such tags at XDP.
    void lie_in_vlans() {
        stands_for("front", "front_peer", 100);
        stands_for("back", "back_peer", 200);
        tagged_ = GetParam() == Hook::xdp;
    }

    // The rule for every frame there is: it passes as it came, or is dropped for one reason, or what leaves is what it
    // has to be, byte by byte, and goes to whom it has to.
    void keeps_the_rule(const std::string& row, const Bytes& in, const char* interface) {
        // Less than a network header the kernel does not take for a test at TC.
        const unsigned type = get16(in, 12);
        if (GetParam() == Hook::tc && in.size() < (type == 0x0800 ? 34u : type == 0x86dd ? 54u : 14u)) return;
        forget_tells();
        const Outcome out = run(in, interface);
        SCOPED_TRACE(row + hex(in) + " became" + hex(out.frame));
        if (out.went == Went::passed) {
            ASSERT_TRUE(out.refusals.empty());
            ASSERT_EQ(hex(out.frame), hex(in));
            const auto d = dissect(in);
            ASSERT_FALSE(d && !d->later && place_of(in, *d, true)) << "a service's";
            return;
        }
        ASSERT_LE(out.refusals.size(), 1u);
        const Mac to = first_of(out.frame);
        const bool goes_on = out.went != Went::dropped && (to == front_gateway || to == back_gateway);
        if (GetParam() == Hook::xdp && out.went != Went::dropped) {
            ASSERT_EQ(out.went, goes_on ? Went::sent : Went::bounced);
        }
        if (!out.refusals.empty()) {
            ASSERT_FALSE(goes_on);
            is_rightly_refused(in, out.refusals[0].first, out.refusals[0].second);
            const auto [service, why] = out.refusals[0];
            const bool told = out.went != Went::dropped;
            ASSERT_EQ(told, has_to_be_told(in, why)) << "verdict " << why;
            if (told) is_told(in, out.frame, service, why);
        } else {
            ASSERT_NE(out.went, Went::dropped) << "for no reason";
            goes_on ? is_sent_on(in, out.frame) : is_answered(in, out.frame);
        }
        if (out.went == Went::dropped || HasFatalFailure()) return;
        ASSERT_TRUE(!objection(in).empty() || objection(out.frame).empty()) << objection(out.frame);
        ++left.all;
    }

    // From whomever each of nat's clients is seen by, on the port by which it is.
    void are_all_answered() {
        for (const auto& [seen, side] : std::map(clients_)) {
            if (!is_behind_front(side.first)) continue;
            const Place& place = places[seen.first];
            const bool v6 = std::strchr(place.endpoint, ':');
            const Frame from = v6 ? eth().ipv6(place.endpoint, source6) : eth().ipv4(place.endpoint, source);
            const auto port = static_cast<uint16_t>(seen.second);
            const int before = left.rewritten;
            keeps_the_rule("an answer",
                           place.protocol == tcp_protocol ? from.tcp(8080, port, ack) : from.udp(8080, port), "back");
            ASSERT_EQ(left.rewritten, before + 1) << place.service << ", port " << port;
        }
    }

    // What left, by how.
    struct Left {
        int all = 0, rewritten = 0, inside = 0, lowered = 0, told = 0, proofs = 0, echoes = 0, arp = 0, neighbours = 0;
    } left;

  private:
    static Mac first_of(const Bytes& frame) {
        Mac mac{};
        std::copy_n(frame.begin(), mac.size(), mac.begin());
        return mac;
    }
    static IpAddress address_at(const Bytes& f, const Dissection& d, bool second) {
        IpAddress address = d.v6 ? IpAddress{} : IpAddress::any_v4();
        const size_t size = d.addresses_size() / 2;
        std::copy_n(f.begin() + static_cast<long>(d.addresses_at() + second * size), size,
                    address.bytes.end() - static_cast<long>(size));
        return address;
    }
    static Side side_of(const Bytes& f, const Dissection& d, bool second) {
        return {address_at(f, d, second), get16(f, d.transport + 2 * second)};
    }
    static void put_address(Bytes& f, const Dissection& d, bool second, const IpAddress& address) {
        const size_t size = d.addresses_size() / 2;
        std::copy(address.bytes.end() - static_cast<long>(size), address.bytes.end(),
                  f.begin() + static_cast<long>(d.addresses_at() + second * size));
    }
    // Not where endpoints are, nor nowhere.
    static bool is_behind_front(const IpAddress& address) {
        constexpr const char* elsewhere[] = {"0.0.0.0/8",       "10.1.0.0/16", "127.0.0.0/8",     "198.51.100.0/24",
                                             "224.0.0.0/3",     "::/8",        "2001:db8:b::/48", "2001:db8:e::/48",
                                             "2001:db8:f::254", "fe00::/7"};
        return std::ranges::none_of(elsewhere,
                                    [&](const char* prefix) { return Prefix::parse(prefix)->contains(address); });
    }
    static IpAddress parsed(const char* text) { return *IpAddress::parse(text); }
    static uint8_t flags_of(const Bytes& f, const Dissection& d) {
        return d.protocol == tcp_protocol && !d.later ? f[d.transport + 13] : uint8_t{0};
    }
    // Bytes of `f` in the same place of `to`, or `offset` further on in `f`.
    static void copy(const Bytes& f, Bytes& to, size_t at, size_t size, size_t offset = 0) {
        std::copy_n(f.begin() + static_cast<long>(at + offset), size, to.begin() + static_cast<long>(at));
    }
    // In the frame in which it came, the other way round.
    static Bytes turned(const Bytes& in, size_t network) {
        Bytes out(in.begin(), in.begin() + static_cast<long>(network));
        std::swap_ranges(out.begin(), out.begin() + 6, out.begin() + 6);
        return out;
    }

    // The place whose service it is for, or whose endpoint it is from; 0: nobody's. A later part has no ports.
    static uint32_t place_of(const Bytes& f, const Dissection& d, bool to_service) {
        const IpAddress address = address_at(f, d, to_service);
        for (uint32_t i = 1; i < place_count; ++i) {
            const bool protocol = d.later || d.protocol == places[i].protocol;
            const unsigned port = to_service ? service_port : endpoint_port;
            const bool ports = d.later || get16(f, d.transport + (to_service ? 2 : 0)) == port;
            if (protocol && ports && address == parsed(to_service ? places[i].service : places[i].endpoint)) return i;
        }
        return 0;
    }
    static bool is_a_services(const IpAddress& address) {
        return std::any_of(std::begin(places) + 1, std::end(places),
                           [&](const Place& place) { return parsed(place.service) == address; });
    }
    static const Tunnel* tunnel_of(uint32_t place) {
        for (const Tunnel& t : tunnels)
            if (place == t.udp || place == t.udp + 1) return &t;
        return nullptr;
    }
    static std::string addresses_of(const Bytes& f, const Dissection& d) {
        const auto begin = f.begin() + static_cast<long>(d.addresses_at());
        return {begin, begin + static_cast<long>(d.addresses_size())};
    }
    // Whose part it is.
    static std::string datagram_of(const Bytes& f, const Dissection& d) {
        const auto begin = f.begin() + static_cast<long>(d.identification_at);
        const std::string number(begin, begin + (d.v6 ? 4 : 2));
        return addresses_of(f, d) + number + (d.v6 ? "" : std::string(1, static_cast<char>(d.protocol)));
    }

    static bool is_one_host(const Bytes& f, const Dissection& d) {
        const IpAddress source = address_at(f, d, false);
        const auto first = static_cast<uint8_t>(addresses_of(f, d)[0]);
        if (source.is_unspecified() || source.is_loopback()) return false;
        return d.v6 ? first != 0xff : first != 0 && first < 224;
    }

    static void is_rightly_refused(const Bytes& in, uint32_t service, abi::packet_verdict why) {
        const auto d = dissect(in);
        ASSERT_EQ(why == abi::packet_verdict_malformed, !d);
        if (!d) return;
        switch (why) {
            case abi::packet_verdict_fragment:
                ASSERT_TRUE(d->first || d->later);
                break;
            case abi::packet_verdict_access_denied:
                ASSERT_TRUE(has_list(service) && !is_let_in(address_at(in, *d, false)));
                break;
            case abi::packet_verdict_no_flow:
                forget("proofs");  // one of 65,000 RSTs is a right guess
                ASSERT_EQ(d->protocol, tcp_protocol);
                ASSERT_NE(flags_of(in, *d) & (syn | rst | ack), +syn);
                break;
            case abi::packet_verdict_hop_limit:
                ASSERT_LE(in[d->hop_limit_at()], 1);
                break;
            case abi::packet_verdict_oversized:
                ASSERT_GT(d->network_end - d->network, 1500 - (tunnel_of(service) ? tunnel_of(service)->header() : 0));
                break;
            case abi::packet_verdict_no_route:
                ASSERT_EQ(place_of(in, *d, true), 0u) << "endpoints have one";
                break;
            case abi::packet_verdict_spoofed_source:
                ASSERT_TRUE(is_a_services(address_at(in, *d, false)) || !is_one_host(in, *d));
                break;
            default:
                FAIL() << "verdict " << why;
        }
    }

    // --- to its sender ---------------------------------------------------------------------------------------------

    static bool has_to_be_told(const Bytes& in, abi::packet_verdict why) {
        const auto d = dissect(in);
        if (!d || d->later || (why != abi::packet_verdict_hop_limit && why != abi::packet_verdict_oversized))
            return false;
        return !(in[0] & 1) && is_one_host(in, *d);
    }
    void is_told(const Bytes& in, const Bytes& out, uint32_t service, abi::packet_verdict why) {
        const Dissection d = *dissect(in);
        const bool down = place_of(in, d, true) == 0;
        const bool in_its_name = down && places[service].forwarding == abi::forwarding_dnat;
        const Tunnel* inside = tunnel_of(service);
        const size_t room = 1500 - (inside ? inside->header() : 0), most = d.v6 ? 1280 - 48 : 576 - 28;
        const std::string from = in_its_name ? places[service].service : to_string(address_at(in, d, true));
        const std::string to = to_string(address_at(in, d, false));
        Icmp icmp{d.v6, static_cast<uint8_t>(d.v6 ? 3 : 11)};
        if (why == abi::packet_verdict_oversized)
            icmp = d.v6 ? Icmp{true, 2, static_cast<uint32_t>(room)} : Icmp{false, 3, static_cast<uint32_t>(room), 4};
        const Bytes plain = told(d.v6 ? eth().ipv6(from, to) : eth().ipv4(from, to), icmp, quote(in, most));
        Bytes expected = turned(in, d.network);
        expected.insert(expected.end(), plain.begin() + 14, plain.end());
        ASSERT_EQ(hex(out), hex(expected));
        ++left.told;
        if (why == abi::packet_verdict_oversized) too_large_.insert({service, side_of(in, d, false)});
    }

    void is_answered(const Bytes& in, const Bytes& out) {
        const auto d = locate(in);
        if (!d) return is_answered_by_arp(in, out);
        if (dissect(in)) return is_asked_for_proof(in, out, *d);
        ASSERT_TRUE(is_message(*d));
        return d->v6 && in[d->transport] == solicitation_type ? is_advertised(in, out, *d) : is_echoed(in, out, *d);
    }
    void is_echoed(const Bytes& in, const Bytes& out, const Dissection& d) {
        Bytes expected = in;
        const Bytes head = turned(in, d.network);
        std::copy(head.begin(), head.end(), expected.begin());
        put_address(expected, d, false, address_at(in, d, true));
        put_address(expected, d, true, address_at(in, d, false));
        expected[d.hop_limit_at()] = 64;
        expected[d.transport] = d.v6 ? 129 : 0;
        ASSERT_EQ(in.size(), out.size());
        if (!d.v6) copy(out, expected, d.network + 10, 2);
        copy(out, expected, d.transport + 2, 2);
        ASSERT_EQ(hex(out), hex(expected));
        ASSERT_EQ(in[d.transport], d.v6 ? 128 : 8);
        ASSERT_EQ(in[d.transport + 1], 0);
        ASSERT_EQ(network_residue(out, d), network_residue(in, d));
        ASSERT_EQ(message_residue(out, d), message_residue(in, d));
        ASSERT_TRUE(is_a_services(address_at(in, d, true)));
        ++left.echoes;
    }
    // SYN and ACK of its bare headers, which acknowledge what nobody sent.
    void is_asked_for_proof(const Bytes& in, const Bytes& out, const Dissection& d) {
        ASSERT_TRUE(asks_for_proof(place_of(in, d, true)) && !d.first && !d.later);
        ASSERT_EQ(flags_of(in, d) & (syn | rst | ack), +syn);
        Bytes expected = turned(in, d.network);
        expected.insert(expected.end(), in.begin() + static_cast<long>(d.network),
                        in.begin() + static_cast<long>(d.transport));
        put_address(expected, d, false, address_at(in, d, true));
        put_address(expected, d, true, address_at(in, d, false));
        expected[d.hop_limit_at()] = 64;
        put16(expected, d.network + (d.v6 ? 4 : 2),
              static_cast<unsigned>(d.transport - d.network + 20 - (d.v6 ? 40 : 0)));
        expected.resize(d.transport + 20);
        ASSERT_EQ(out.size(), expected.size());
        if (!d.v6) copy(out, expected, d.network + 10, 2);
        put16(expected, d.transport, get16(in, d.transport + 2));
        put16(expected, d.transport + 2, get16(in, d.transport));
        copy(out, expected, d.transport + 4, 8);
        put16(expected, d.transport + 12, 0x5000 | syn | ack);
        copy(out, expected, d.transport + 16, 2);
        ASSERT_EQ(hex(out), hex(expected));
        const uint32_t behind = get32(in, d.transport + 4) + 1 - get32(out, d.transport + 8);
        ASSERT_TRUE(behind >= 1 && behind <= 65'000) << behind;
        ASSERT_EQ(network_residue(out, d), network_residue(in, d));
        ASSERT_EQ(transport_residue(out, *dissect(out)), 0u);
        ++left.proofs;
    }
    void is_answered_by_arp(const Bytes& in, const Bytes& out) {
        const size_t arp = network_at(in);
        ASSERT_TRUE(type_of(in) == 0x0806 && in.size() >= arp + 28);
        Bytes expected = in;
        const auto put = [&](size_t at, const auto& bytes) {
            std::copy(bytes.begin(), bytes.end(), expected.begin() + static_cast<long>(at));
        };
        const auto taken = [&](size_t at, size_t size) {
            return Bytes(in.begin() + static_cast<long>(at), in.begin() + static_cast<long>(at + size));
        };
        put(0, taken(arp + 8, 6));
        put(6, own);
        expected[arp + 7] = 2;
        put(arp + 8, own);
        put(arp + 14, taken(arp + 24, 4));
        put(arp + 18, taken(arp + 8, 10));
        ASSERT_EQ(hex(out), hex(expected));
        ASSERT_EQ(in[arp + 7], 1);
        IpAddress target = IpAddress::any_v4();
        std::copy_n(in.begin() + static_cast<long>(arp + 24), 4, target.bytes.begin() + 12);
        ASSERT_TRUE(is_a_services(target));
        ++left.arp;
    }
    void is_advertised(const Bytes& in, const Bytes& out, const Dissection& d) {
        ASSERT_EQ(d.transport, d.network + 40);
        ASSERT_GE(d.network_end, d.transport + 24);
        IpAddress target;
        std::copy_n(in.begin() + static_cast<long>(d.transport + 8), 16, target.bytes.begin());
        const IpAddress from = address_at(in, d, false);
        const bool probe = from.is_unspecified();
        const Bytes plain =
            discovery(eth().ipv6(to_string(target), probe ? "ff02::1" : to_string(from)).ttl(255), advertisement_type,
                      overriding | (probe ? 0 : solicited), to_string(target).c_str(), link_layer(2, own));
        Bytes expected = turned(in, d.network);
        if (probe) std::copy(all_nodes.begin(), all_nodes.end(), expected.begin());
        std::copy(own.begin(), own.end(), expected.begin() + 6);
        expected.insert(expected.end(), plain.begin() + 14, plain.end());
        copy(in, expected, d.network, 4);  // its class and label
        ASSERT_EQ(hex(out), hex(expected));
        ASSERT_EQ(in[d.hop_limit_at()], 255);
        ASSERT_NE(from.bytes[0], 0xff);
        ASSERT_TRUE(is_a_services(target));
        ++left.neighbours;
    }

    // --- to the other side -----------------------------------------------------------------------------------------

    void is_sent_on(const Bytes& tagged_in, const Bytes& tagged_out) {
        ASSERT_TRUE(dissect(tagged_in)) << "though malformed";
        Bytes in = tagged_in, out = tagged_out;
        in.erase(in.begin() + 12, in.begin() + static_cast<long>(dissect(in)->network) - 2);
        const Dissection d = *dissect(in);
        const bool up = place_of(in, d, true) != 0;
        const uint32_t place = place_of(in, d, up);
        ASSERT_NE(place, 0u) << "nobody's";
        if (tagged_) {
            ASSERT_EQ(get32(out, 12), 0x81000000u | (up ? 200 : 100));
            out.erase(out.begin() + 12, out.begin() + 16);
        }
        ASSERT_GT(in[d.hop_limit_at()], 1);
        if (up && has_list(place)) {
            ASSERT_TRUE(is_let_in(address_at(in, d, false)));
        }
        if (up && asks_for_proof(place)) {
            ASSERT_NE(flags_of(in, d) & (syn | rst | ack), +syn) << "without a proof";
        }
        Bytes expected = in;
        const Mac &to = up ? back_gateway : front_gateway, &from = up ? back_mac : front_mac;
        std::copy(to.begin(), to.end(), expected.begin());
        std::copy(from.begin(), from.end(), expected.begin() + 6);
        --expected[d.hop_limit_at()];
        if (lowers(place) && flags_of(in, d) & syn && !d.first) lower_segment(expected, d);
        if (const Tunnel* t = tunnel_of(place)) return is_sent_inside(*t, in, out, expected, d);
        ASSERT_EQ(out.size(), in.size());
        up ? becomes_the_endpoints(place, in, out, expected, d) : becomes_the_clients(place, in, out, expected, d);
        if (HasFatalFailure()) return;
        is_the_same_but_for_checksums(in, out, expected, d);
        ++left.rewritten;
    }
    // To its own endpoint, from an address of ours and a port that is no other client's, or (dnat) as it was.
    void becomes_the_endpoints(uint32_t place, const Bytes& in, const Bytes& out, Bytes& expected,
                               const Dissection& d) {
        const bool nat = places[place].forwarding == abi::forwarding_nat;
        if (nat) put_address(expected, d, false, parsed(d.v6 ? source6 : source));
        put_address(expected, d, true, parsed(places[place].endpoint));
        if (d.first) parts_[datagram_of(in, d)] = addresses_of(expected, d);
        if (d.later) {
            ASSERT_EQ(parts_[datagram_of(in, d)], addresses_of(expected, d));
            return;
        }
        put16(expected, d.transport + 2, endpoint_port);
        if (!nat) return;
        const Side client = side_of(in, d, false);
        const unsigned seen = get16(out, d.transport);
        ASSERT_GE(seen, 1024u);
        ASSERT_EQ(clients_.emplace(std::pair(place, seen), client).first->second, client) << "another client's port";
        ASSERT_EQ(ports_.emplace(std::pair(place, client), seen).first->second, seen) << "another port than before";
        put16(expected, d.transport, seen);
    }
    void becomes_the_clients(uint32_t place, const Bytes& in, const Bytes& out, Bytes& expected, const Dissection& d) {
        put_address(expected, d, false, parsed(places[place].service));
        if (d.later) {
            const std::string addresses = parts_[datagram_of(in, d)];
            ASSERT_FALSE(addresses.empty());
            std::copy(addresses.begin(), addresses.end(), expected.begin() + static_cast<long>(d.addresses_at()));
            return;
        }
        put16(expected, d.transport, service_port);
        if (places[place].forwarding == abi::forwarding_nat) {
            const auto seen = std::pair(place, get16(in, d.transport + 2));
            if (too_large_.contains({place, side_of(out, d, true)})) clients_.insert({seen, side_of(out, d, true)});
            ASSERT_TRUE(clients_.contains(seen)) << "nobody's";
            put_address(expected, d, true, clients_[seen].first);
            put16(expected, d.transport + 2, clients_[seen].second);
        }
        if (d.first) parts_[datagram_of(in, d)] = addresses_of(expected, d);
    }
    // As right or wrong as they came.
    static void is_the_same_but_for_checksums(const Bytes& in, const Bytes& out, Bytes& expected, const Dissection& d,
                                              size_t offset = 0) {
        if (!d.v6) copy(out, expected, d.network + 10, 2, offset);
        if (!d.later) copy(out, expected, d.checksum_at(), 2, offset);
        ASSERT_EQ(network_residue(expected, d), network_residue(in, d));
        ASSERT_EQ(without_checksum(expected, d), without_checksum(in, d));
        if (!without_checksum(in, d)) {
            ASSERT_EQ(transport_residue(expected, d), transport_residue(in, d));
        }
        if (offset == 0) {
            ASSERT_EQ(hex(out), hex(expected));
        }
    }
    // `inner`: what it is inside. The outer checksum is right where it is known and the inner one is right.
    void is_sent_inside(const Tunnel& t, const Bytes& in, const Bytes& out, Bytes& inner, const Dissection& d) {
        ASSERT_EQ(out.size(), in.size() + t.header());
        is_the_same_but_for_checksums(in, out, inner, d, t.header());
        if (HasFatalFailure()) return;
        const bool whole = d.transport == d.network + 40 && !d.first && !d.later && d.transport_end == d.network_end;
        const bool summed = t.v6 && t.gue && whole && !without_checksum(in, d);
        Bytes expected = around(t, inner, out, summed);
        if (summed && transport_residue(in, d)) copy(out, expected, d.network + 46, 2);
        ASSERT_EQ(hex(out), hex(expected));
        ++left.inside;
    }
    // RFC 9293 3.1: of the options two kinds have no length, and what has none that can be ends them.
    void lower_segment(Bytes& f, const Dissection& d) {
        const size_t end = d.transport + (f[d.transport + 12] >> 4) * 4u;
        for (size_t at = d.transport + 20; at + 4 <= end && f[at] != 0;) {
            if (f[at] == 1) {
                ++at;
                continue;
            }
            if (f[at + 1] < 2) return;
            if (f[at] == 2 && f[at + 1] == 4) {
                if (get16(f, at + 2) > largest_segment) ++left.lowered, put16(f, at + 2, largest_segment);
                return;
            }
            at += f[at + 1];
        }
    }

    bool tagged_ = false;
    // Of nat, by place: who is behind a port that the endpoint sees, and the other way round.
    std::map<std::pair<uint32_t, unsigned>, Side> clients_;
    std::map<std::pair<uint32_t, Side>, unsigned> ports_;
    std::set<std::pair<uint32_t, Side>> too_large_;  // whose first packet began a flow and did not go on
    std::map<std::string, std::string> parts_;       // the addresses that a datagram's first part was given
};
INSTANTIATE_HOOKS(Malformed);

TEST_P(Malformed, EveryPrefixOfAPacketIsDroppedOrPasses) {
    for (const Sample& sample : samples()) {
        const Bytes& whole = sample.frame;
        const int before = left.all;
        for (size_t size = 14; size < whole.size(); ++size) {
            const Bytes cut(whole.begin(), whole.begin() + static_cast<long>(size));
            ASSERT_FALSE(dissect(cut)) << sample.name;
            keeps_the_rule(fmt::format("{}, {} of {} bytes", sample.name, size, whole.size()), cut, sample.interface);
        }
        EXPECT_EQ(left.all, before) << sample.name;
    }
}

TEST_P(Malformed, ContradictionsAreDroppedByName) {
    const Frame udp = eth().ipv4(client, "10.0.0.1").udp(5000, 80).padding(40);
    const Frame tcp = eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).padding(40);
    const Frame udp6 = eth().ipv6(client6, "2001:db8:a::1").udp(5000, 80).padding(40);
    const Frame tcp6 = eth().ipv6(client6, "2001:db8:a::1").tcp(5000, 80, syn).padding(40);
    constexpr size_t ip = 14, behind4 = 34, behind6 = 54;
    struct Row {
        const char* name;
        Frame frame;
        size_t at;
        std::vector<uint8_t> bytes;
    };
    const Row rows[] = {
        {"total length below the header", udp, ip + 2, {0, 19}},
        {"total length 0", udp, ip + 2, {0, 0}},
        {"total length past the frame", udp, ip + 2, {0, 200}},
        {"total length ends in the UDP header", udp, ip + 2, {0, 27}},
        {"total length ends in the UDP data", udp, ip + 2, {0, 30}},
        {"total length ends in the TCP header", tcp, ip + 2, {0, 39}},
        {"header length 4 words", udp, ip, {0x44}},
        {"header length past the total length", udp, ip, {0x4f}},
        {"version 6 in IPv4", udp, ip, {0x65}},
        {"version 4 in IPv6", udp6, ip, {0x40}},
        {"payload length past the frame", udp6, ip + 4, {0, 200}},
        {"payload length ends in the UDP header", udp6, ip + 4, {0, 7}},
        {"payload length 0", udp6, ip + 4, {0, 0}},
        {"payload length ends in the TCP header", tcp6, ip + 4, {0, 19}},
        {"extension header past the payload", udp6, ip + 6, {60}},
        {"UDP length below its header", udp, behind4 + 4, {0, 7}},
        {"UDP length 0", udp, behind4 + 4, {0, 0}},
        {"UDP length past the datagram, within the frame", udp, behind4 + 4, {0, 16}},
        {"UDP length past the frame", udp, behind4 + 4, {1, 0}},
        {"UDP length past the datagram, IPv6", udp6, behind6 + 4, {0, 16}},
        {"TCP header of 4 words", tcp, behind4 + 12, {0x40}},
        {"TCP options past the segment, within the frame", tcp, behind4 + 12, {0x80}},
        {"TCP options past the segment, IPv6", tcp6, behind6 + 12, {0xf0}},
    };
    for (const Row& row : rows) {
        Bytes frame = row.frame;
        std::copy(row.bytes.begin(), row.bytes.end(), frame.begin() + static_cast<long>(row.at));
        ASSERT_FALSE(dissect(frame)) << row.name;
        drops(row.name, frame, 0, abi::packet_verdict_malformed);
    }
    Bytes shorter = udp;
    put16(shorter, behind4 + 4, 12);  // what follows the UDP length is nobody's
    write_checksums(shorter);
    EXPECT_EQ(run(shorter).went, Went::sent);
    keeps_the_rule("UDP length short of the datagram", shorter, "front");
}

// Packets that are nearly right, from a seed: failures can be repeated.
TEST_P(Malformed, MutationsKeepTheRule) {
    const auto kinds = samples();
    constexpr int runs = 20'000;
    for (const bool vlans : {false, true}) {
        if (vlans) lie_in_vlans();
        left = {};
        const uint64_t seed = 20'240 + vlans;
        std::mt19937_64 random(seed);
        for (int i = 0; i < runs && !HasFailure(); ++i) {
            if (i % 2'000 == 0) {
                are_all_answered();
                begin_anew();  // before the table is full
            }
            const Sample& sample = kinds[random() % kinds.size()];
            keeps_the_rule(fmt::format("seed {}, run {}, {}", seed, i, sample.name), mutated(sample.frame, random),
                           sample.interface);
        }
        const std::pair<const char*, int> enough[] = {{"rewritten", left.rewritten},
                                                      {"inside", left.inside},
                                                      {"lowered", left.lowered},
                                                      {"told", left.told},
                                                      {"proofs", left.proofs},
                                                      {"echoes", left.echoes},
                                                      {"ARP", left.arp},
                                                      {"neighbours", left.neighbours}};
        for (const auto& [how, times] : enough)
            EXPECT_TRUE(times > runs / 100 || HasFatalFailure()) << how << ", " << times << ": too few to tell";
    }
}

}  // namespace
}  // namespace marchproxy::packet
