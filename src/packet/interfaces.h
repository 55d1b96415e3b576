// The interfaces that the packet plane is to sit on: attached where they are there, and again when they come back.
// One thread at a time, the control thread's network namespace.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "packet/attach.h"
#include "packet/programs.h"
#include "packet/status.h"
#include "packet/vlans.h"
#include "telemetry/log.h"

namespace marchproxy::packet {

class Interfaces {
  public:
    Interfaces(telemetry::Log& log, std::vector<std::string> names, PacketMode mode);

    // Attaches what is not attached, and tells the programs of the hardware addresses. What fails is in status(), and
    // may be tried again at any time. Interfaces that are pinned and not named any more are detached.
    void attach(const Attacher& attacher, Programs& programs);

    // Hardware addresses may change while programs stay attached.
    void tell_addresses(Programs& programs) const;

    // Whether every interface has its program still; looks at the kernel.
    bool complete(const Attacher& attacher) const;

    // Why none of them has its program, each by its name; empty: one has, or none was tried yet.
    std::string why_none() const;

    // Those that have their program; and why packets that come by one of them cannot wait, each by its name.
    std::vector<std::string> attached() const;
    std::string why_no_queues() const;

    std::vector<InterfaceStatus> status() const;

    // What of these cannot be carried where XDP is attached, and what to do.
    std::vector<std::string> notes_on(const Vlans& vlans) const;

  private:
    struct Member {
        std::string name;
        std::optional<Attachment> attachment;
        std::string problem = "not attached yet";
    };

    void attach(const Attacher& attacher, Programs& programs, Member& member);
    void tell_address(const std::string& name, Programs& programs) const;

    telemetry::Log& log_;
    const PacketMode mode_;
    std::vector<Member> members_;
    bool tried_ = false;
};

}  // namespace marchproxy::packet
