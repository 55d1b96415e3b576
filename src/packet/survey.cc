#include "packet/survey.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "packet/device.h"

namespace marchproxy::packet {

namespace {

constexpr std::string_view dispatcher_name = "xdp_dispatcher";  // libxdp's program, which calls those of others

std::string why_unseen(const std::string& directory) {
    const bool readable = ::access(directory.c_str(), R_OK | X_OK) == 0;
    if (!readable && errno == ENOENT) return {};  // nothing is pinned
    if (!readable) return fmt::format("{}: {}", directory, std::strerror(errno));
    for (const Pin& pin : Pins::look(directory).list())
        if (!Pins::get(pin) && errno == EPERM) return fmt::format("{}: {}", pin.path, std::strerror(EPERM));
    return {};
}

bool shares(Way way, const XdpProgram& other) {
    return way == Way::dispatcher && other.name == dispatcher_name;
}

Survey look_at(const std::string& name, PacketMode mode, const std::vector<Attachment>& pinned) {
    const Interface interface = find_interface(name);
    Survey found{.name = name, .exists = interface.index != 0};
    if (!found.exists) return found;
    found.driver = driver_of(name);
    found.mtu = mtu_of(name);
    found.candidates = candidates_for(mode, found.driver);
    for (const Attachment& attachment : pinned)
        if (attachment.interface_index == interface.index && attachment.program_id != 0) found.own = attachment;
    // Of ours in libxdp's dispatcher the dispatcher is seen, with others' programs or without.
    if (!found.own || !is_xdp(found.own->way)) found.other = xdp_program_on(interface);
    return found;
}

}  // namespace

std::vector<Attempt> Survey::vain() const {
    std::vector<Attempt> attempts;
    const bool taken = other.id != 0 && unseen.empty();
    for (const Way way : candidates.ways) {
        if (is_xdp(way) && taken && !shares(way, other))
            attempts.push_back({way, explain({way, EBUSY, {}, name, mtu, other})});
        else if (is_in_driver(way) && mtu > usual_xdp_mtu)
            attempts.push_back(
                {way, fmt::format("the MTU is {}, and beyond about {} most drivers refuse XDP: `ip link set dev {} mtu "
                                  "1500`, where XDP generic is too slow",
                                  mtu, usual_xdp_mtu, name)});
    }
    return attempts;
}

std::optional<Way> Survey::expected() const {
    const std::vector<Attempt> refused = vain();
    for (const Way way : candidates.ways)
        if (std::none_of(refused.begin(), refused.end(), [&](const Attempt& one) { return one.way == way; }))
            return way;
    return {};
}

std::vector<Survey> survey(const PacketSettings& settings) {
    const std::vector<Attachment> pinned = Attacher::look(settings.pin).attachments();
    const std::string unseen = why_unseen(settings.pin);
    std::vector<Survey> list;
    for (const std::string& name : settings.interfaces) {
        list.push_back(look_at(name, settings.mode, pinned));
        list.back().unseen = unseen;
    }
    return list;
}

}  // namespace marchproxy::packet
