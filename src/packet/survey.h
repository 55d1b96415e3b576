// What attaching to the interfaces of a configuration would meet, for `doctor`: looks, and attaches and makes nothing.
// Thread: any, in the network namespace of the interfaces; takes milliseconds.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/snapshot.h"
#include "packet/attach.h"
#include "packet/hook.h"
#include "packet/way.h"

namespace marchproxy::packet {

struct Survey {
    std::string name;
    bool exists = false;            // else nothing below is known
    std::string driver;             // empty: it names none
    unsigned mtu = 0;               // bytes; 0: not known
    Candidates candidates;          // what attaching would try
    std::optional<Attachment> own;  // ours, by its pin
    XdpProgram other;               // of somebody else; id 0: none
    std::string unseen;             // why it is not known what is ours; empty: it is

    std::vector<Attempt> vain() const;    // those of the candidates that would be refused as things are
    std::optional<Way> expected() const;  // what would be left of them; nothing: none
};

// Of packet.interfaces, in that order.
std::vector<Survey> survey(const PacketSettings& settings);

}  // namespace marchproxy::packet
