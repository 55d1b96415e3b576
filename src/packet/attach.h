// Attaches the packet plane's programs to interfaces so that they outlive the process: a proxy that was killed leaves
// its programs working, finds them again when it is started, and puts its own in their place without a gap.
//
//   pinned and on the interface, in a way of packet.mode -> adopted: the program is replaced in place, also when a
//                                                           better way would work by now; detach() first for that
//   pinned and on the interface, in another way          -> taken away, then attached anew
//   pinned, the interface was gone meanwhile             -> the pin is removed, attached anew
//   nothing pinned                                       -> the ways of packet.mode in order, until one works
//
// Thread: the control thread, in the network namespace of the interfaces. A pin directory belongs to one network
// namespace. Everything blocks for as long as the kernel takes, in practice milliseconds.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/names.h"
#include "model/result.h"
#include "packet/hook.h"
#include "packet/pins.h"
#include "packet/way.h"

namespace marchproxy::packet {

struct Attachment {
    std::string interface;
    unsigned interface_index = 0;
    Way way = Way::native;
    uint32_t program_id = 0;       // what runs on the interface
    bool adopted = false;          // found there and replaced in place; what was tried before it came is not known then
    std::vector<Attempt> refused;  // the better ways, and why each was not taken
    std::string pin;               // path below the pin directory
};

class Attacher {
  public:
    // `directory`: packet.pin; made, and a BPF file system mounted below it, where it can be.
    static Result<Attacher> open(const std::string& directory);
    // Only to see attachments(): makes nothing, and there need not be anything.
    static Attacher look(const std::string& directory) { return Attacher(Pins::look(directory)); }

    // Attaches or adopts. Calling it again, also after the interface came back, is right at any time. Error: the
    // interface is unknown, or every way was refused; it says why for each.
    Result<Attachment> attach(const std::string& interface, PacketMode mode, const Attachable& programs) const;
    Result<Attachment> attach(const std::string& interface, std::span<const Way> ways,
                              const Attachable& programs) const;

    // Whether what attach() returned still sits on that interface: it ends with the interface, and when somebody
    // removes the pin or the program.
    bool still_attached(const Attachment& attachment) const;

    // Everything that is pinned, under the interfaces' names of then. `program_id` 0: the pin is there, the attachment
    // is not, as when the interface vanished.
    std::vector<Attachment> attachments() const;

    // Removes what is ours and leaves what is not; idempotent, and the interface may be gone. Returns how many
    // attachments there were.
    unsigned detach(const std::string& interface) const;
    unsigned detach_all() const;

  private:
    explicit Attacher(Pins pins) : pins_(std::move(pins)) {}

    std::vector<Pin> pins_of(const Interface& interface) const;
    bool adopt(const Pin& pin, const Interface& interface, const Attachable& programs, Attachment& attachment) const;
    Result<void> attach_anew(const Interface& interface, Way way, const Attachable& programs,
                             Attachment& attachment) const;

    Pins pins_;
};

}  // namespace marchproxy::packet
