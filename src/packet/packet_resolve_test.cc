// Who has a service's address: ARP and neighbour discovery.
#include "packet/neighbour_rows.h"
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

constexpr Mac another{2, 0, 0, 0, 0, 0xbb};
const uint32_t tag_7 = abi::vlan_tag(htons(0x8100), htons(7));

class Resolve : public Plane {
  protected:
    void SetUp() override {
        Plane::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        const std::vector<abi::directory_entry> hosts{{address_of(vip), 0, 0, abi::directory_host, nat_udp},
                                                      {address_of(vip6), 0, 0, abi::directory_host, nat_udp6},
                                                      {address_of(source), 0, 0, abi::directory_source, 1}};
        expect(programs->set_directory(**build_directory(hosts)));
        expect(programs->set_interface(::if_nametoindex("front"), own));
        take_neighbours();
    }
    void answers(const char* row, const Bytes& question, const Bytes& answer) {
        const Outcome outcome = run(question);
        EXPECT_EQ(outcome.went, GetParam() == Hook::xdp ? Went::bounced : Went::sent) << row;
        EXPECT_EQ(hex(outcome.frame), hex(answer)) << row;
        EXPECT_TRUE(outcome.refusals.empty()) << row;
    }
    void tells(const char* row, const char* address, const Mac& mac, uint32_t tag = 0) {
        const auto told = take_neighbours();
        ASSERT_EQ(told.size(), 1u) << row;
        EXPECT_EQ(to_string(from_abi(told[0].address)), address) << row;
        EXPECT_EQ(told[0].interface, ::if_nametoindex("front")) << row;
        EXPECT_EQ(told[0].known, 1) << row;
        EXPECT_EQ(told[0].tag, tag) << row;
        EXPECT_EQ(Mac(std::to_array(told[0].mac)), mac) << row;
        forget_next_hops();
    }
    void tells_nothing(const char* row) { EXPECT_TRUE(take_neighbours().empty()) << row; }
};
INSTANTIATE_HOOKS(Resolve);

TEST_P(Resolve, ArpIsAnswered) {
    const Arp reply{.operation = 2, .sender = own, .sender_address = vip, .target = asker_mac, .target_address = asker};
    const Bytes answer = arp(eth().from(own, asker_mac), reply);
    answers("to all", arp(eth().from(asker_mac, broadcast), {}), answer);
    tells("to all", asker, asker_mac);
    answers("to us", arp(eth().from(asker_mac, own), {.target = own}), answer);
    tells("to us", asker, asker_mac);
    answers("by another's frame", arp(eth().from(another, broadcast), {}), answer);
    tells("by another's frame", asker, asker_mac);

    Bytes padded = arp(eth().from(asker_mac, broadcast), {}), padded_answer = answer;
    padded.resize(60, 0x77);
    padded_answer.resize(60, 0x77);
    answers("padded", padded, padded_answer);
    tells("padded", asker, asker_mac);
    // The kernel sends by an interface that stands for the tag, which the priority is no part of.
    answers("tagged", arp(eth().vlan(7).from(asker_mac, broadcast), {}),
            arp(eth().vlan(7).from(own, asker_mac), reply));
    tells("tagged", asker, asker_mac, tag_7);
    answers("tagged, with a priority", arp(eth().vlan(7 << 13 | 7).from(asker_mac, broadcast), {}),
            arp(eth().vlan(7 << 13 | 7).from(own, asker_mac), reply));
    tells("tagged, with a priority", asker, asker_mac, tag_7);
    answers("tagged twice", arp(eth().vlan(7).vlan(8).from(asker_mac, broadcast), {}),
            arp(eth().vlan(7).vlan(8).from(own, asker_mac), reply));
    tells_nothing("tagged twice");
    // RFC 5227: whether the address is free. It is not.
    answers(
        "probe", arp(eth().from(asker_mac, broadcast), {.sender_address = "0.0.0.0"}),
        arp(eth().from(own, asker_mac),
            {.operation = 2, .sender = own, .sender_address = vip, .target = asker_mac, .target_address = "0.0.0.0"}));
    tells_nothing("probe");
}

TEST_P(Resolve, WhatIsNoArpRequestForAServicePasses) {
    const Frame to_all = eth().from(asker_mac, broadcast);
    passes("another address", arp(to_all, {.target_address = "10.0.0.9"}));
    passes("our source address", arp(to_all, {.target_address = source}));
    passes("a reply", arp(to_all, {.operation = 2}));
    passes("reverse ARP", arp(to_all, {.operation = 3}));
    passes("somebody says that he has it", arp(to_all, {.sender_address = vip}));
    passes("by a group", arp(to_all, {.sender = broadcast}));
    passes("asked of another", arp(eth().from(asker_mac, another), {}));
    passes("an interface that has none", arp(to_all, {}), "back");
    const Bytes request = arp(to_all, {});
    for (const size_t at : {14, 15, 16, 17, 18, 19, 20}) {  // kinds and sizes of addresses, operation
        Bytes other = request;
        other[at] ^= 0x20;
        passes("of other kinds", other);
    }
    for (size_t size = 14; size < request.size(); ++size)
        passes("cut short", Bytes(request.begin(), request.begin() + static_cast<long>(size)));
    tells_nothing("of any");
}

TEST_P(Resolve, SolicitationsAreAnswered) {
    const Bytes source_option = link_layer(1, asker_mac), nonce{14, 1, 1, 2, 3, 4, 5, 6};
    Bytes both = source_option;
    both.insert(both.end(), nonce.begin(), nonce.end());
    const Frame to_group = eth().from(asker_mac, solicited_node), to_us = eth().from(asker_mac, own);
    const Bytes answer = advertisement(eth().from(own, asker_mac), asker6, solicited | overriding);
    struct Row {
        const char* name;
        Bytes question;
    };
    const Row rows[] = {{"to the group", solicitation(to_group, asker6, solicited_node6, source_option)},
                        {"to us", solicitation(to_us, asker6, vip6, source_option)},
                        {"without option", solicitation(to_us, asker6, vip6, {})},
                        {"with another option", solicitation(to_us, asker6, vip6, nonce)},
                        {"with more options", solicitation(to_group, asker6, solicited_node6, both)},
                        {"padded", solicitation(to_group.padding(7), asker6, solicited_node6, source_option)},
                        {"without option, padded", solicitation(to_us.padding(20), asker6, vip6, {})}};
    for (const Row& row : rows) {
        answers(row.name, row.question, answer);
        tells(row.name, asker6, asker_mac);
    }
    answers("tagged", solicitation(to_group.vlan(7), asker6, solicited_node6, source_option),
            advertisement(eth().vlan(7).from(own, asker_mac), asker6, solicited | overriding));
    tells("tagged", asker6, asker_mac, tag_7);
    // RFC 4862 5.4: whether the address is free. All nodes are told that it is not.
    const Bytes defended = advertisement(eth().from(own, all_nodes), "ff02::1", overriding);
    answers("probe", solicitation(to_group, "::", solicited_node6, {}), defended);
    answers("probe with a nonce (RFC 7527)", solicitation(to_group, "::", solicited_node6, nonce), defended);
    tells_nothing("probe");
}

TEST_P(Resolve, WhatIsNoSolicitationForAServicePasses) {
    const Bytes option = link_layer(1, asker_mac);
    const Frame to_group = eth().from(asker_mac, solicited_node);
    passes("another address", solicitation(to_group, asker6, solicited_node6, option, "2001:db8:a::9"));
    passes("a group", solicitation(to_group, asker6, solicited_node6, option, "ff02::1"));
    passes("an advertisement",
           discovery(to_group.ipv6(asker6, solicited_node6).ttl(255), advertisement_type, 0, vip6, option));
    passes("by a router",
           discovery(to_group.ipv6(asker6, solicited_node6).ttl(254), solicitation_type, 0, vip6, option));
    passes("from the address itself", solicitation(to_group, vip6, solicited_node6, option));
    passes("from a group", solicitation(to_group, "ff02::1", solicited_node6, option));
    passes("probe of one", solicitation(eth().from(asker_mac, own), "::", vip6, {}));
    passes("asked of another", solicitation(eth().from(asker_mac, another), asker6, vip6, option));
    passes("an interface that has none", solicitation(to_group, asker6, solicited_node6, option), "back");
    Bytes with_code = solicitation(to_group, asker6, solicited_node6, option);
    with_code[55] = 1;
    passes("a code that there is not", with_code);
    for (unsigned size = 8; size < 24; ++size) {
        Bytes brief = solicitation(to_group, asker6, solicited_node6, option);
        put16(brief, 18, size);
        passes("a message that is too short", brief);
        brief.resize(54 + size);
        passes("and so is its frame", brief);
    }
    tells_nothing("of any");
}

TEST_P(Resolve, WhoAsksOftenIsToldOfOnce) {
    for (int i = 0; i < 100; ++i)
        run_alone(arp(eth().from(asker_mac, broadcast), {}));
    EXPECT_LE(take_neighbours().size(), 2u);  // the second may turn meanwhile
}

}  // namespace
}  // namespace marchproxy::packet
