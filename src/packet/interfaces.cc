#include "packet/interfaces.h"

#include <fmt/format.h>

#include <algorithm>

#include "packet/device.h"

namespace marchproxy::packet {

namespace {

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
    const std::string driver = driver_of(member.name);
    if (driver == veth_driver) programs.bounce_by_redirect();
    const Attachable attachable{.xdp = programs.xdp(), .classifier = programs.tc(), .open_again = [&programs] {
                                    return programs.open_again();
                                }};
    const Candidates candidates = candidates_for(mode_, driver);
    auto attached = attacher.attach(member.name, candidates.ways, attachable);
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
    std::vector<Attempt>& refused = member.attachment->refused;
    refused.insert(refused.begin(), candidates.passed_over.begin(), candidates.passed_over.end());
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

std::vector<std::string> Interfaces::attached() const {
    std::vector<std::string> names;
    for (const Member& member : members_)
        if (member.attachment) names.push_back(member.name);
    return names;
}

std::string Interfaces::why_no_queues() const {
    for (const Member& member : members_) {
        if (!member.attachment) continue;
        const Way way = member.attachment->way;
        if (!is_xdp(way)) return fmt::format("{} has its program at TC, where nothing can wait", member.name);
        // Packets come there when the kernel has merged them already.
        if (way == Way::generic)
            return fmt::format("{} has its program in generic mode, where packets may be larger than what can wait",
                               member.name);
    }
    return {};
}

std::vector<std::string> Interfaces::notes_on(const Vlans& vlans) const {
    std::vector<std::string> notes;
    for (const Member& member : members_) {
        if (!member.attachment || !is_xdp(member.attachment->way)) continue;
        if (notes.empty()) notes = out_of_reach(vlans);
        if (!carries_vlans(vlans, member.attachment->interface_index)) continue;
        if (driver_of(member.name) == veth_driver || !takes_tags_off(member.name)) continue;
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
