#include "packet/vlans.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <optional>

namespace marchproxy::packet {

namespace {

// What IFLA_LINKINFO says of a VLAN device; nothing of another kind.
std::optional<uint32_t> tag_in(netlink::Bytes link_info) {
    bool vlan = false;
    std::optional<uint16_t> number, protocol_be;
    netlink::Attributes attributes(link_info);
    while (const auto attribute = attributes.next()) {
        if (attribute->type == IFLA_INFO_KIND) vlan = netlink::text_of(attribute->payload) == "vlan";
        if (attribute->type != IFLA_INFO_DATA) continue;
        netlink::Attributes data(attribute->payload);
        while (const auto one = data.next()) {
            if (one->type == IFLA_VLAN_ID) number = netlink::front<uint16_t>(one->payload);
            if (one->type == IFLA_VLAN_PROTOCOL) protocol_be = netlink::front<uint16_t>(one->payload);
        }
    }
    if (!vlan || !number || !protocol_be) return std::nullopt;
    return abi::vlan_tag(*protocol_be, htons(*number));
}

void note_link(const netlink::Message& message, Vlans& vlans) {
    const auto link = netlink::front<ifinfomsg>(message.payload);
    if (!link || link->ifi_family != AF_UNSPEC || link->ifi_index <= 0) return;
    const auto index = static_cast<unsigned>(link->ifi_index);
    if (message.type == RTM_DELLINK) {
        vlans.erase(index);
        return;
    }
    Vlan vlan;
    std::optional<uint32_t> tag;
    netlink::Attributes attributes(netlink::after(message.payload, sizeof *link));
    while (const auto attribute = attributes.next()) {
        if (attribute->type == IFLA_IFNAME) vlan.name = netlink::text_of(attribute->payload);
        if (attribute->type == IFLA_LINK) vlan.below = netlink::front<unsigned>(attribute->payload).value_or(0);
        if (attribute->type == IFLA_LINK_NETNSID) vlan.elsewhere = true;
        if (attribute->type == IFLA_LINKINFO) tag = tag_in(attribute->payload);
    }
    // Some messages say of a link only what changed; its kind never does.
    if (!tag) return;
    vlan.tag = *tag;
    vlans[index] = std::move(vlan);
}

bool within_reach(const Vlans& vlans, const Vlan& vlan) {
    return !vlan.elsewhere && !vlans.contains(vlan.below);
}

}  // namespace

void note_vlans(netlink::Bytes datagram, Vlans& vlans) {
    netlink::Messages messages(datagram);
    while (const auto message = messages.next())
        if (message->type == RTM_NEWLINK || message->type == RTM_DELLINK) note_link(*message, vlans);
}

std::map<unsigned, abi::packet_vlan> records_of(const Vlans& vlans) {
    std::map<unsigned, abi::packet_vlan> records;
    for (const auto& [index, vlan] : vlans)
        records[index] = {.parent = within_reach(vlans, vlan) ? vlan.below : 0, .tag = vlan.tag};
    return records;
}

unsigned device_of(const Vlans& vlans, unsigned interface, uint32_t tag) {
    if (tag == 0) return interface;
    for (const auto& [index, vlan] : vlans)
        if (!vlan.elsewhere && vlan.below == interface && vlan.tag == tag) return index;
    return 0;
}

std::vector<std::string> out_of_reach(const Vlans& vlans) {
    std::vector<std::string> lines;
    for (const auto& [index, vlan] : vlans) {
        if (within_reach(vlans, vlan)) continue;
        const auto below = vlans.find(vlan.below);
        const std::string why =
            vlan.elsewhere || below == vlans.end()
                ? "the interface below it is in another network namespace"
                : fmt::format("it is on top of another one, {}, and XDP puts in one tag", below->second.name);
        lines.push_back(
            fmt::format("VLAN interface {}: {}; where XDP is attached, packets whose route leads there are dropped "
                        "(verdict no_route); packet.mode: tc sends them",
                        vlan.name, why));
    }
    return lines;
}

}  // namespace marchproxy::packet
