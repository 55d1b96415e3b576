#include "packet/attach.h"

#include <fmt/format.h>
#include <net/if.h>

#include <algorithm>
#include <memory>

namespace marchproxy::packet {

namespace {

// An interface that bears another name than when it was pinned, by the program that is still there. One that has a pin
// of its own is not meant.
Interface renamed(const Pin& pin, const Descriptor& pinned, const std::vector<Pin>& pins) {
    const std::unique_ptr<struct if_nameindex, decltype(&::if_freenameindex)> all(::if_nameindex(), ::if_freenameindex);
    for (const struct if_nameindex* one = all.get(); one && one->if_index != 0; ++one) {
        Interface named{one->if_name, one->if_index};
        const bool known =
            std::any_of(pins.begin(), pins.end(), [&](const Pin& other) { return other.interface == named.name; });
        if (!known && program_there(pin.way, named, pinned) != 0) return named;
    }
    return {pin.interface, 0};
}

// Where the attachment is now: a link follows its interface through a change of name, what else there is is looked for.
Interface interface_of(const Pin& pin, const Descriptor& pinned, const std::vector<Pin>& pins) {
    Interface interface = find_interface(pin.interface);
    if (is_link(pin.way)) interface.index = index_of_link(pinned);
    return interface.index == 0 && !is_link(pin.way) ? renamed(pin, pinned, pins) : interface;
}

void take_away_pinned(const Pin& pin, const std::vector<Pin>& pins) {
    const Descriptor pinned = Pins::get(pin);
    take_away(pin.way, interface_of(pin, pinned, pins), pinned);
    Pins::remove(pin);
}

Error unknown(const std::string& interface) {
    return Error{
        fmt::format("packet.interfaces: there is no interface {} in this network namespace: `ip link` lists them; it "
                    "is attached to "
                    "when it appears",
                    interface)};
}

Error refused_everywhere(const Attachment& attachment) {
    std::string text = fmt::format("the packet plane cannot attach to {}", attachment.interface);
    for (const Attempt& attempt : attachment.refused)
        text += fmt::format("; {}: {}", title_of(attempt.way), attempt.reason);
    return Error{text};
}

}  // namespace

Result<Attacher> Attacher::open(const std::string& directory) {
    auto pins = Pins::open(directory);
    if (!pins) return Error{pins.error()};
    return Attacher(std::move(*pins));
}

Result<Attachment> Attacher::attach(const std::string& interface, PacketMode mode, const Attachable& programs) const {
    return attach(interface, ways_for(mode), programs);
}

Result<Attachment> Attacher::attach(const std::string& name, std::span<const Way> ways,
                                    const Attachable& programs) const {
    const Interface interface = find_interface(name);
    if (interface.index == 0) return unknown(name);

    Attachment attachment;
    attachment.interface = name;
    attachment.interface_index = interface.index;
    for (const Pin& pin : pins_of(interface)) {
        const bool allowed = std::find(ways.begin(), ways.end(), pin.way) != ways.end();
        if (!attachment.adopted && allowed && adopt(pin, interface, programs, attachment)) continue;
        take_away_pinned(pin, pins_.list());
    }
    if (attachment.adopted) return attachment;

    for (const Way way : ways) {
        auto attached = attach_anew(interface, way, programs, attachment);
        if (attached) return attachment;
        attachment.refused.push_back({way, attached.error()});
    }
    return refused_everywhere(attachment);
}

bool Attacher::adopt(const Pin& pin, const Interface& interface, const Attachable& programs,
                     Attachment& attachment) const {
    Descriptor pinned = Pins::get(pin);
    if (program_there(pin.way, interface, pinned) == 0) return false;
    auto instead = put_instead(pin.way, interface, pinned, programs);
    if (!instead) {
        attachment.refused.push_back({pin.way, instead.error()});
        return false;
    }
    std::string path = pin.path;
    if (*instead || pin.interface != interface.name) {
        const auto moved = pins_.put(interface.name, pin.way, *instead ? instead->get() : pinned.get());
        // Without a pin of the new name the old one still holds the attachment.
        if (moved && moved->path != pin.path) Pins::remove(pin);
        if (moved) path = moved->path;
    }
    attachment.way = pin.way;
    attachment.program_id = program_there(pin.way, interface, *instead ? *instead : pinned);
    attachment.adopted = true;
    attachment.pin = path;
    return true;
}

Result<void> Attacher::attach_anew(const Interface& interface, Way way, const Attachable& programs,
                                   Attachment& attachment) const {
    auto held = put_there(way, interface, programs);
    if (!held) return Error{held.error()};
    auto pin = pins_.put(interface.name, way, held->get());
    if (!pin) {
        take_away(way, interface, *held);
        return Error{pin.error()};
    }
    attachment.way = way;
    attachment.program_id = program_there(way, interface, *held);
    attachment.pin = pin->path;
    return {};
}

bool Attacher::still_attached(const Attachment& attachment) const {
    const Interface interface = find_interface(attachment.interface);
    // Another interface may have taken the name.
    if (interface.index == 0 || interface.index != attachment.interface_index) return false;
    const Descriptor pinned = Pins::get({attachment.interface, attachment.way, attachment.pin});
    return program_there(attachment.way, interface, pinned) != 0;
}

std::vector<Attachment> Attacher::attachments() const {
    std::vector<Attachment> list;
    const std::vector<Pin> pins = pins_.list();
    for (const Pin& pin : pins) {
        const Descriptor pinned = Pins::get(pin);
        const Interface interface = interface_of(pin, pinned, pins);
        Attachment attachment;
        attachment.interface = pin.interface;
        attachment.interface_index = interface.index;
        attachment.way = pin.way;
        attachment.program_id = program_there(pin.way, interface, pinned);
        attachment.pin = pin.path;
        list.push_back(std::move(attachment));
    }
    return list;
}

unsigned Attacher::detach(const std::string& interface) const {
    const std::vector<Pin> pins = pins_of(find_interface(interface));
    for (const Pin& pin : pins)
        take_away_pinned(pin, pins_.list());
    return static_cast<unsigned>(pins.size());
}

unsigned Attacher::detach_all() const {
    const std::vector<Pin> pins = pins_.list();
    for (const Pin& pin : pins)
        take_away_pinned(pin, pins);
    return static_cast<unsigned>(pins.size());
}

// By name, and by index for links whose interface was renamed. A link pinned under this name whose interface now bears
// another one is that interface's, not this one's.
std::vector<Pin> Attacher::pins_of(const Interface& interface) const {
    std::vector<Pin> own;
    for (Pin& pin : pins_.list()) {
        const unsigned linked = is_link(pin.way) ? index_of_link(Pins::get(pin)) : 0;
        const bool same =
            linked != 0 && interface.index != 0 ? linked == interface.index : pin.interface == interface.name;
        if (same) own.push_back(std::move(pin));
    }
    return own;
}

}  // namespace marchproxy::packet
