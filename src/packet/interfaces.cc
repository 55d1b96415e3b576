#include "packet/interfaces.h"

#include <fmt/format.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "model/descriptor.h"

namespace marchproxy::packet {

namespace {

std::optional<std::array<uint8_t, 6>> hardware_address(const std::string& name) {
    const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    name.copy(request.ifr_name, sizeof request.ifr_name - 1);
    if (!socket || ::ioctl(socket.get(), SIOCGIFHWADDR, &request) != 0) return {};
    std::array<uint8_t, 6> address{};
    std::memcpy(address.data(), request.ifr_hwaddr.sa_data, address.size());
    return address;
}

// Measured between namespaces (docs/benchmarks.md, packet-tcp): one TCP stream 10 Gbit/s at TC, 3 at XDP.
constexpr auto why_no_xdp_on_veth =
    "a veth pair hands over packets merged and with checksums yet to be computed, which XDP cannot take: its far end "
    "would have to be set up for it (ethtool -K IFACE tx off gro on), and bulk transfers would be slower; packet.mode: "
    "native attaches XDP all the same";

bool is_veth(const std::string& name) {
    const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ethtool_drvinfo driver{.cmd = ETHTOOL_GDRVINFO};
    ifreq request{};
    name.copy(request.ifr_name, sizeof request.ifr_name - 1);
    request.ifr_data = reinterpret_cast<char*>(&driver);
    return socket && ::ioctl(socket.get(), SIOCETHTOOL, &request) == 0 && std::string_view(driver.driver) == "veth";
}

// Whether the card takes a frame's tag out before XDP sees it.
bool takes_tags_off(const std::string& name) {
    const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ethtool_value flags{.cmd = ETHTOOL_GFLAGS};
    ifreq request{};
    name.copy(request.ifr_name, sizeof request.ifr_name - 1);
    request.ifr_data = reinterpret_cast<char*>(&flags);
    return socket && ::ioctl(socket.get(), SIOCETHTOOL, &request) == 0 && (flags.data & ETH_FLAG_RXVLAN) != 0;
}

bool carries_vlans(const Vlans& vlans, unsigned index) {
    return std::any_of(vlans.begin(), vlans.end(), [&](const auto& one) { return one.second.below == index; });
}

}  // namespace

Interfaces::Interfaces(telemetry::Log& log, std::vector<std::string> names, PacketMode mode) : log_(log), mode_(mode) {
    for (std::string& name : names)
        members_.push_back({.name = std::move(name), .attachment = {}});
}

void Interfaces::attach(const Attacher& attacher, Programs& programs) {
    for (const Attachment& there : attacher.attachments()) {
        const bool wanted = std::any_of(members_.begin(), members_.end(),
                                        [&](const Member& member) { return member.name == there.interface; });
        if (wanted) continue;
        attacher.detach(there.interface);
        log_.info("packet plane detached from an interface that is not configured any more",
                  {{"interface", there.interface}});
    }
    for (Member& member : members_)
        if (!member.attachment || !attacher.still_attached(*member.attachment)) attach(attacher, programs, member);
    tried_ = true;
}

void Interfaces::tell_addresses(Programs& programs) const {
    for (const Member& member : members_)
        tell_address(member.name, programs);
}

void Interfaces::tell_address(const std::string& name, Programs& programs) const {
    const unsigned index = find_interface(name).index;
    const auto address = hardware_address(name);
    if (index == 0 || !address) return;
    if (const auto told = programs.set_interface(index, *address); !told.ok())
        log_.limited(LogLevel::error, "packet-interface", told.error());
}

void Interfaces::attach(const Attacher& attacher, Programs& programs, Member& member) {
    tell_address(member.name, programs);
    const bool veth = is_veth(member.name);
    if (veth) programs.bounce_by_redirect();
    const Attachable attachable{.xdp = programs.xdp(), .classifier = programs.tc(), .open_again = [&programs] {
                                    return programs.open_again();
                                }};
    std::vector<Way> ways = ways_for(mode_);
    if (veth && mode_ == PacketMode::automatic) std::erase_if(ways, is_xdp);
    auto attached = attacher.attach(member.name, ways, attachable);
    if (!attached.ok()) {
        member.attachment.reset();
        if (member.problem != attached.error())
            log_.error("packet plane not attached", {{"interface", member.name}, {"error", attached.error()}});
        member.problem = attached.error();
        return;
    }
    member.problem.clear();
    log_.info("packet plane attached", {{"interface", member.name},
                                        {"way", name_of(attached->way)},
                                        {"program", attached->program_id},
                                        {"adopted", attached->adopted}});
    for (const Attempt& refused : attached->refused)
        log_.debug("a better way was refused",
                   {{"interface", member.name}, {"way", name_of(refused.way)}, {"why", refused.reason}});
    member.attachment = std::move(*attached);
    if (ways.size() < ways_for(mode_).size())
        member.attachment->refused.insert(member.attachment->refused.begin(), {Way::native, why_no_xdp_on_veth});
}

bool Interfaces::complete(const Attacher& attacher) const {
    return std::all_of(members_.begin(), members_.end(), [&](const Member& member) {
        return member.attachment && attacher.still_attached(*member.attachment);
    });
}

std::string Interfaces::why_none() const {
    if (!tried_) return {};
    std::vector<std::string> problems;
    for (const Member& member : members_) {
        if (member.attachment) return {};
        problems.push_back(fmt::format("{}: {}", member.name, member.problem));
    }
    return fmt::format("the packet plane is on no interface ({})", fmt::join(problems, "; "));
}

std::vector<std::string> Interfaces::notes_on(const Vlans& vlans) const {
    std::vector<std::string> notes;
    for (const Member& member : members_) {
        if (!member.attachment || !is_xdp(member.attachment->way)) continue;
        if (notes.empty()) notes = out_of_reach(vlans);
        if (!carries_vlans(vlans, member.attachment->interface_index)) continue;
        if (is_veth(member.name) || !takes_tags_off(member.name)) continue;
        notes.push_back(
            fmt::format("interface {} carries VLANs, and its card takes tags off before XDP sees them: the proxy's own "
                        "answers to ARP, ping and the like would leave without: ethtool -K {} rxvlan off",
                        member.name, member.name));
    }
    return notes;
}

std::vector<InterfaceStatus> Interfaces::status() const {
    std::vector<InterfaceStatus> list;
    for (const Member& member : members_) {
        InterfaceStatus status{.name = member.name, .problem = member.problem};
        if (member.attachment) {
            status.way = title_of(member.attachment->way);
            status.program_id = member.attachment->program_id;
            status.adopted = member.attachment->adopted;
            for (const Attempt& attempt : member.attachment->refused)
                status.refused.push_back(fmt::format("{}: {}", title_of(attempt.way), attempt.reason));
        }
        list.push_back(std::move(status));
    }
    return list;
}

}  // namespace marchproxy::packet
