#include "packet/watch.h"

#include <fmt/format.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <optional>

namespace marchproxy::packet {

namespace {

using Kind = InterfaceChange::Kind;

constexpr unsigned watched[] = {RTNLGRP_LINK,       RTNLGRP_NEIGH,        RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR,
                                RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE,   RTNLGRP_IPV4_RULE,   RTNLGRP_IPV6_RULE,
                                RTNLGRP_NEXTHOP,    RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF};
constexpr size_t largest_datagram = 65'536;

void vanish(unsigned index, InterfaceNames& names, Changes& changes) {
    const auto known = names.find(index);
    if (known == names.end()) return;
    changes.interfaces.push_back({Kind::vanished, index, known->second});
    names.erase(known);
}

void appear(unsigned index, const std::string& name, InterfaceNames& names, Changes& changes) {
    const auto known = names.find(index);
    if (known != names.end() && known->second == name) return;
    vanish(index, names, changes);  // renamed
    names[index] = name;
    changes.interfaces.push_back({Kind::appeared, index, name});
}

void note_link(const netlink::Message& message, InterfaceNames& names, Changes& changes) {
    const auto link = netlink::front<ifinfomsg>(message.payload);
    // A bridge reports its ports coming and going as links of its own family; the interfaces themselves stay.
    if (!link || link->ifi_family != AF_UNSPEC || link->ifi_index <= 0) return;
    changes.links = true;
    const auto index = static_cast<unsigned>(link->ifi_index);
    if (message.type == RTM_DELLINK) return vanish(index, names, changes);
    netlink::Attributes attributes(netlink::after(message.payload, sizeof *link));
    while (const auto attribute = attributes.next()) {
        if (attribute->type != IFLA_IFNAME) continue;
        const std::string name = netlink::text_of(attribute->payload);
        if (!name.empty()) appear(index, name, names, changes);
    }
}

void note_neighbour(const netlink::Message& message, Changes& changes) {
    const auto neighbour = netlink::front<ndmsg>(message.payload);
    // The forwarding tables of bridges share the group.
    if (neighbour && (neighbour->ndm_family == AF_INET || neighbour->ndm_family == AF_INET6)) changes.neighbours = true;
}

struct Listed {
    InterfaceNames names;
    Vlans vlans;
};
// Nothing where they could not be read: an incomplete list would make interfaces vanish that are there.
std::optional<Listed> list_interfaces() {
    netlink::Request request(RTM_GETLINK, NLM_F_DUMP);
    request.append(ifinfomsg{});
    const netlink::Answer answer = netlink::ask(request);
    if (answer.error != 0) return std::nullopt;
    Listed listed;
    Changes ignored;
    note_changes(answer.replies, listed.names, ignored);
    note_vlans(answer.replies, listed.vlans);
    return listed;
}

// IPv4 in its own family, as the kernel wants it.
struct FamilyAddress {
    uint8_t family;
    netlink::Bytes bytes;
};
FamilyAddress in_family(const IpAddress& address) {
    const auto bytes = std::as_bytes(std::span(address.bytes));
    if (address.is_v4()) return {AF_INET, bytes.subspan(12)};
    return {AF_INET6, bytes};
}

std::optional<IpAddress> address_of(netlink::Bytes bytes) {
    if (bytes.size() == 4) {
        IpAddress address = IpAddress::any_v4();
        std::memcpy(address.bytes.data() + 12, bytes.data(), 4);
        return address;
    }
    if (bytes.size() != 16) return std::nullopt;
    IpAddress address;
    std::memcpy(address.bytes.data(), bytes.data(), 16);
    return address;
}

// What a route says; nothing where the message is not one that packets can follow.
std::optional<NextHop> next_hop_of(const netlink::Message& message, const IpAddress& destination) {
    const auto route = netlink::front<rtmsg>(message.payload);
    if (message.type != RTM_NEWROUTE || !route) return std::nullopt;
    NextHop hop{0, destination, route->rtm_type == RTN_LOCAL};
    netlink::Attributes attributes(netlink::after(message.payload, sizeof *route));
    while (const auto attribute = attributes.next()) {
        std::optional<IpAddress> gateway;
        if (attribute->type == RTA_OIF) hop.interface_index = netlink::front<unsigned>(attribute->payload).value_or(0);
        if (attribute->type == RTA_GATEWAY) gateway = address_of(attribute->payload);
        // An IPv4 route whose gateway is an IPv6 address: the family comes first.
        if (attribute->type == RTA_VIA && attribute->payload.size() > sizeof(rtvia))
            gateway = address_of(attribute->payload.subspan(sizeof(rtvia)));
        if (gateway) hop.address = *gateway;
        if (attribute->type == RTA_PREFSRC) hop.source = address_of(attribute->payload);
    }
    return hop.interface_index == 0 ? std::nullopt : std::optional(hop);
}

ndmsg neighbour_entry(const NextHop& hop, uint8_t family) {
    ndmsg entry{};
    entry.ndm_family = family;
    entry.ndm_ifindex = static_cast<int>(hop.interface_index);
    return entry;
}

// Whether an administrator or the interface's kind fixed the hardware address: NTF_USE, or another state, would make
// such an entry one that the kernel may forget.
bool is_fixed(const NextHop& hop) {
    const FamilyAddress neighbour = in_family(hop.address);
    netlink::Request request(RTM_GETNEIGH);
    request.append(neighbour_entry(hop, neighbour.family)).attribute(NDA_DST, neighbour.bytes);
    const netlink::Answer answer = netlink::ask(request);
    netlink::Messages messages(answer.replies);
    while (const auto message = messages.next()) {
        const auto entry = netlink::front<ndmsg>(message->payload);
        if (message->type == RTM_NEWNEIGH && entry) return (entry->ndm_state & (NUD_PERMANENT | NUD_NOARP)) != 0;
    }
    return false;
}

std::string in_words(const netlink::Answer& answer) {
    return answer.message.empty() ? std::strerror(answer.error)
                                  : fmt::format("{} ({})", std::strerror(answer.error), answer.message);
}

}  // namespace

void note_changes(netlink::Bytes datagram, InterfaceNames& names, Changes& changes) {
    netlink::Messages messages(datagram);
    while (const auto message = messages.next()) {
        switch (message->type) {
            case RTM_NEWLINK:
            case RTM_DELLINK:
                note_link(*message, names, changes);
                break;
            case RTM_NEWNEIGH:
            case RTM_DELNEIGH:
                note_neighbour(*message, changes);
                break;
            case RTM_NEWADDR:
            case RTM_DELADDR:
                changes.addresses = true;
                break;
            case RTM_NEWROUTE:
            case RTM_DELROUTE:
            case RTM_NEWRULE:
            case RTM_DELRULE:
            case RTM_NEWNEXTHOP:
            case RTM_DELNEXTHOP:
                changes.routes = true;
                break;
            case RTM_NEWNETCONF:
            case RTM_DELNETCONF:
                changes.settings = true;
                break;
            default:
                break;
        }
    }
}

Result<NetworkWatch> NetworkWatch::open() {
    auto socket = netlink::subscribe(watched);
    if (!socket) return Error{socket.error()};
    NetworkWatch watch(std::move(*socket));
    Changes ignored;  // Listed after the subscription, so that nothing falls between the two.
    watch.list_again(ignored);
    return watch;
}

Changes NetworkWatch::read() {
    Changes changes;
    std::vector<std::byte> buffer(largest_datagram);
    for (int count = 0; count < datagrams_at_once; ++count) {
        sockaddr_nl sender{};
        socklen_t size = sizeof sender;
        const ssize_t length = ::recvfrom(socket_.get(), buffer.data(), buffer.size(), MSG_TRUNC,
                                          reinterpret_cast<sockaddr*>(&sender), &size);
        if (length < 0 && errno == EINTR) continue;
        if (length < 0 && errno == ENOBUFS) {
            list_again(changes);
            continue;
        }
        if (length < 0) break;
        if (sender.nl_pid != 0) continue;  // not the kernel
        if (static_cast<size_t>(length) > buffer.size()) {
            list_again(changes);
            continue;
        }
        const netlink::Bytes datagram = netlink::Bytes(buffer).first(static_cast<size_t>(length));
        note_changes(datagram, names_, changes);
        note_vlans(datagram, vlans_);
    }
    return changes;
}

// After messages were lost: what the interfaces are now, against what was known.
void NetworkWatch::list_again(Changes& changes) {
    changes.everything = true;
    auto now = list_interfaces();
    if (!now) return;
    vlans_ = std::move(now->vlans);
    const InterfaceNames before = names_;
    for (const auto& [index, name] : before)
        if (!now->names.contains(index)) vanish(index, names_, changes);
    for (const auto& [index, name] : now->names)
        appear(index, name, names_, changes);
}

Result<NextHop> find_next_hop(const IpAddress& destination) {
    const FamilyAddress wanted = in_family(destination);
    rtmsg route{};
    route.rtm_family = wanted.family;
    route.rtm_dst_len = static_cast<uint8_t>(wanted.bytes.size() * 8);
    netlink::Request request(RTM_GETROUTE);
    request.append(route).attribute(RTA_DST, wanted.bytes);
    const netlink::Answer answer = netlink::ask(request);
    if (answer.error != 0)
        return Error{fmt::format("no route to {}: {}; add one, or see `ip route get {}`", to_string(destination),
                                 in_words(answer), to_string(destination))};
    netlink::Messages messages(answer.replies);
    while (const auto message = messages.next())
        if (const auto hop = next_hop_of(*message, destination)) return *hop;
    return Error{fmt::format("no route to {} leads to an interface: see `ip route get {}`", to_string(destination),
                             to_string(destination))};
}

Result<NextHop> resolve_neighbour(const IpAddress& destination) {
    auto hop = find_next_hop(destination);
    if (!hop || hop->local || is_fixed(*hop)) return hop;
    const FamilyAddress neighbour = in_family(hop->address);
    ndmsg entry = neighbour_entry(*hop, neighbour.family);
    entry.ndm_flags = NTF_USE;
    netlink::Request request(RTM_NEWNEIGH, NLM_F_CREATE);
    request.append(entry).attribute(NDA_DST, neighbour.bytes);
    const netlink::Answer answer = netlink::ask(request);
    if (answer.error == EPERM)
        return Error{fmt::format("the kernel was not asked to resolve {}: the process lacks CAP_NET_ADMIN",
                                 to_string(hop->address))};
    if (answer.error != 0)
        return Error{fmt::format("the kernel does not resolve {} on interface {}: {}", to_string(hop->address),
                                 hop->interface_index, in_words(answer))};
    return hop;
}

void learn_neighbour(unsigned interface_index, const IpAddress& address, std::span<const uint8_t, 6> hardware_address) {
    const NextHop hop{interface_index, address};
    if (is_fixed(hop)) return;  // it would become one that the kernel may forget
    const FamilyAddress neighbour = in_family(address);
    ndmsg entry = neighbour_entry(hop, neighbour.family);
    entry.ndm_state = NUD_STALE;
    // Without NLM_F_REPLACE an entry that is valid keeps its hardware address: nobody can take over one by asking.
    netlink::Request request(RTM_NEWNEIGH, NLM_F_CREATE);
    request.append(entry)
        .attribute(NDA_DST, neighbour.bytes)
        .attribute(NDA_LLADDR, netlink::Bytes(std::as_bytes(hardware_address)));
    // Refused, packets to the neighbour have it resolved instead.
    (void)netlink::ask(request);
}

}  // namespace marchproxy::packet
