#include "gateways/gateways.h"

#include <fmt/format.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "netlink/netlink.h"

namespace marchproxy::gateways {

namespace {

constexpr uint8_t protocol = 77;         // of rules and routes: ours
constexpr uint32_t rule_place = 12'000;  // before the main table
constexpr uint32_t last_metric = 0xfffffff0;

uint8_t family_of(const IpAddress& address) {
    return address.is_v4() ? AF_INET : AF_INET6;
}

netlink::Bytes bytes_of(const IpAddress& address) {
    const auto all = std::as_bytes(std::span(address.bytes));
    return address.is_v4() ? all.subspan(12) : all;
}

bool is_ours(uint32_t table) {
    return table >= Gateways::first_mark && table <= Gateways::last_mark;
}

// --- rules and routes ----------------------------------------------------------------------------------------------

int change_rule(uint16_t type, uint16_t flags, uint8_t family, uint32_t mark) {
    netlink::Request request(type, flags);
    request.append(fib_rule_hdr{.family = family, .table = RT_TABLE_UNSPEC, .action = FR_ACT_TO_TBL});
    request.attribute(FRA_PRIORITY, rule_place).attribute(FRA_FWMARK, mark).attribute(FRA_FWMASK, ~uint32_t{0});
    request.attribute(FRA_TABLE, mark).attribute(FRA_PROTOCOL, protocol);
    return netlink::ask(request).error;
}

netlink::Request default_route(uint16_t type, uint16_t flags, uint8_t family, uint8_t kind, uint32_t table) {
    netlink::Request request(type, flags);
    request.append(rtmsg{.rtm_family = family,
                         .rtm_table = RT_TABLE_UNSPEC,
                         .rtm_protocol = protocol,
                         .rtm_scope = RT_SCOPE_UNIVERSE,
                         .rtm_type = kind});
    request.attribute(RTA_TABLE, table);
    return request;
}

int refuse_others(uint16_t type, uint16_t flags, uint8_t family, uint32_t table) {
    netlink::Request request = default_route(type, flags, family, RTN_UNREACHABLE, table);
    request.attribute(RTA_PRIORITY, last_metric);
    return netlink::ask(request).error;
}

netlink::Answer lead_by(const IpAddress& gateway, uint32_t table) {
    netlink::Request request =
        default_route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, family_of(gateway), RTN_UNICAST, table);
    request.attribute(RTA_GATEWAY, bytes_of(gateway));
    return netlink::ask(request);
}

// All of the table, until there is nothing left in it.
void clear_table(uint8_t family, uint32_t table) {
    refuse_others(RTM_DELROUTE, 0, family, table);
    for (int i = 0; i < 4; ++i) {
        netlink::Request request = default_route(RTM_DELROUTE, 0, family, RTN_UNICAST, table);
        if (netlink::ask(request).error != 0) return;
    }
}

void take_away(uint8_t family, uint32_t mark) {
    change_rule(RTM_DELRULE, 0, family, mark);
    clear_table(family, mark);
}

// --- what is there -------------------------------------------------------------------------------------------------

template <class Header>
netlink::Answer dump(uint16_t type, uint8_t family) {
    netlink::Request request(type, NLM_F_DUMP);
    Header header{};
    reinterpret_cast<uint8_t&>(header) = family;  // both begin with it
    request.append(header);
    return netlink::ask(request);
}

// Marks that rules of ours lead by.
std::set<uint32_t> rules_of(uint8_t family) {
    std::set<uint32_t> marks;
    const netlink::Answer answer = dump<fib_rule_hdr>(RTM_GETRULE, family);
    netlink::Messages messages(answer.replies);
    while (const auto message = messages.next()) {
        if (message->type != RTM_NEWRULE) continue;
        netlink::Attributes attributes(netlink::after(message->payload, sizeof(fib_rule_hdr)));
        while (const auto attribute = attributes.next())
            if (attribute->type == FRA_TABLE)
                if (const auto table = netlink::front<uint32_t>(attribute->payload); table && is_ours(*table))
                    marks.insert(*table);
    }
    return marks;
}

// The gateways of our tables.
std::map<IpAddress, uint32_t> tables_of(uint8_t family) {
    std::map<IpAddress, uint32_t> tables;
    const netlink::Answer answer = dump<rtmsg>(RTM_GETROUTE, family);
    netlink::Messages messages(answer.replies);
    while (const auto message = messages.next()) {
        if (message->type != RTM_NEWROUTE) continue;
        uint32_t table = 0;
        std::optional<IpAddress> gateway;
        netlink::Attributes attributes(netlink::after(message->payload, sizeof(rtmsg)));
        while (const auto attribute = attributes.next()) {
            if (attribute->type == RTA_TABLE) table = netlink::front<uint32_t>(attribute->payload).value_or(0);
            if (attribute->type != RTA_GATEWAY) continue;
            const auto four = netlink::front<std::array<uint8_t, 4>>(attribute->payload);
            const auto sixteen = netlink::front<std::array<uint8_t, 16>>(attribute->payload);
            if (family == AF_INET && four)
                gateway = IpAddress::v4(uint32_t{(*four)[0]} << 24 | (*four)[1] << 16 | (*four)[2] << 8 | (*four)[3]);
            if (family == AF_INET6 && sixteen) gateway = IpAddress{*sixteen};
        }
        if (gateway && is_ours(table)) tables[*gateway] = table;
    }
    return tables;
}

std::map<IpAddress, uint32_t> tables_left() {
    std::map<IpAddress, uint32_t> all = tables_of(AF_INET);
    all.merge(tables_of(AF_INET6));
    return all;
}

std::string why_not(const IpAddress& gateway, int error, const std::string& words) {
    const std::string said = words.empty() ? strerror(error) : words;
    if (error == EPERM || error == EACCES)
        return fmt::format(
            "gateway {}: rules and routes cannot be set ({}); paths by it are down: give this process CAP_NET_ADMIN, "
            "or "
            "leave the gateway out and set the machine's own routes",
            to_string(gateway), said);
    return fmt::format("gateway {} cannot be reached at the moment ({}); paths by it are down until it can",
                       to_string(gateway), said);
}

}  // namespace

std::map<IpAddress, uint32_t> Gateways::follow(const std::set<IpAddress>& wanted) {
    std::map<IpAddress, uint32_t> marks;
    std::lock_guard lock(mutex_);
    const bool news = std::any_of(wanted.begin(), wanted.end(), [&](const auto& one) { return !marks_.contains(one); });
    const auto left = news ? tables_left() : std::map<IpAddress, uint32_t>{};
    for (const IpAddress& gateway : wanted) {
        Way& way = marks_[gateway];
        if (way.mark == 0) {
            const auto found = left.find(gateway);
            way.mark = found != left.end() ? found->second : free_mark(left);
        }
        establish(gateway, way);
        if (way.leads) marks[gateway] = way.mark;
    }
    turned_ = Clock::now();
    return marks;
}

// 0: all are taken.
uint32_t Gateways::free_mark(const std::map<IpAddress, uint32_t>& left) const {
    std::set<uint32_t> taken = rules_of(AF_INET);
    taken.merge(rules_of(AF_INET6));
    for (const auto& [gateway, mark] : left)
        taken.insert(mark);
    for (const auto& [gateway, way] : marks_)
        taken.insert(way.mark);
    for (uint32_t mark = first_mark; mark <= last_mark; ++mark)
        if (!taken.contains(mark)) return mark;
    return 0;
}

// The rule comes last, so that it never leads into a table that would let anything fall through.
void Gateways::establish(const IpAddress& gateway, Way& way) {
    way.leads = false;
    way.problem.clear();
    if (way.mark == 0) {
        way.problem = fmt::format("gateway {}: there are {} already, of this and other processes; paths by it are down",
                                  to_string(gateway), last_mark - first_mark + 1);
        return;
    }
    const uint8_t family = family_of(gateway);
    constexpr uint16_t fresh = NLM_F_CREATE | NLM_F_EXCL;
    const auto failed = [](int error) { return error != 0 && error != EEXIST; };
    if (const int error = refuse_others(RTM_NEWROUTE, fresh, family, way.mark); failed(error)) {
        way.problem = why_not(gateway, error, {});
        return;
    }
    const netlink::Answer led = lead_by(gateway, way.mark);
    if (failed(led.error)) way.problem = why_not(gateway, led.error, led.message);
    const int error = change_rule(RTM_NEWRULE, fresh, family, way.mark);
    if (failed(error))
        way.problem = why_not(gateway, error, {});
    else
        way.leads = true;
}

void Gateways::turn(TimePoint now) {
    std::lock_guard lock(mutex_);
    if (now < turned_ + interval) return;
    turned_ = now;
    for (auto& [gateway, way] : marks_)
        establish(gateway, way);
}

void Gateways::end() {
    std::lock_guard lock(mutex_);
    for (const auto& [gateway, way] : marks_)
        if (way.mark != 0) take_away(family_of(gateway), way.mark);
    marks_.clear();
}

std::vector<std::string> Gateways::notes() const {
    std::lock_guard lock(mutex_);
    std::vector<std::string> notes;
    for (const auto& [gateway, way] : marks_)
        if (!way.problem.empty()) notes.push_back(way.problem);
    return notes;
}

Result<size_t> remove_all() {
    std::set<std::pair<uint8_t, uint32_t>> left;
    for (const uint8_t family : {uint8_t{AF_INET}, uint8_t{AF_INET6}}) {
        for (const uint32_t mark : rules_of(family))
            left.emplace(family, mark);
        for (const auto& [gateway, mark] : tables_of(family))
            left.emplace(family, mark);
    }
    for (const auto& [family, mark] : left)
        take_away(family, mark);
    for (const uint8_t family : {uint8_t{AF_INET}, uint8_t{AF_INET6}})
        if (!rules_of(family).empty())
            return Error{
                "rules for gateways are left (ip rule, protocol 77) and cannot be removed: it takes CAP_NET_ADMIN"};
    return left.size();
}

}  // namespace marchproxy::gateways
