// One interface, one way: put a program there, put another in its place, see whether it is there, take it away. What is
// tried in which order, and what is remembered, is attach.h's. Thread: the control thread, in the network namespace of
// the interface; all of it blocks for as long as the kernel takes, in practice milliseconds.
//
// A classifier that has nothing to do with a packet should return TC_ACT_UNSPEC (-1), an XDP program XDP_PASS: so the
// programs of others behind it, and libxdp's dispatcher, go on with the packet.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "model/descriptor.h"
#include "model/result.h"
#include "packet/way.h"

struct bpf_object;

namespace marchproxy::packet {

// What can be attached. Descriptors are borrowed; below 0: there is none.
struct Attachable {
    int xdp = -1;         // BPF_PROG_TYPE_XDP, loaded
    int classifier = -1;  // BPF_PROG_TYPE_SCHED_CLS, loaded; used by the ways at TC

    // Opens the object of the XDP program once more, not loaded, its maps those of `xdp` (bpf_map__reuse_fd) and only
    // that program set to load; it is closed after use (bpf_object__close). libxdp's dispatcher calls programs of the
    // type EXT, which are loaded against the dispatcher they are for: a program loaded as XDP cannot be used there.
    // Empty, or a null returned: the dispatcher is not tried.
    std::function<bpf_object*()> open_again;
    std::string xdp_section = "xdp";  // of the XDP program in that object
};

struct Interface {
    std::string name;
    unsigned index = 0;  // 0: there is none of that name (now)
};
Interface find_interface(const std::string& name);

uint32_t id_of_program(int program);       // 0: none
std::string name_of_program(uint32_t id);  // at most 15 characters; empty: none, or not allowed to look

// An XDP program on an interface, whoever's it is, in the driver or not; id 0: there is none.
struct XdpProgram {
    uint32_t id = 0;
    std::string name;  // as name_of_program()
};
XdpProgram xdp_program_on(const Interface& interface);

// Bytes. Above it most drivers refuse XDP: a packet and the room around it must lie in one page.
inline constexpr unsigned usual_xdp_mtu = 3500;

// Attaches; nothing of ours is there yet. Returns what is to be pinned: the link, or the program for the ways that have
// none. Error: why not, and what to do.
Result<Descriptor> put_there(Way way, const Interface& interface, const Attachable& programs);

// Puts the program in the place of the one that `pinned` stands for: no packet passes between the two. Returns what is
// to be pinned instead; none: `pinned` stays.
Result<Descriptor> put_instead(Way way, const Interface& interface, const Descriptor& pinned,
                               const Attachable& programs);

// The id of our program while it sits on the interface; 0: it does not (any more).
uint32_t program_there(Way way, const Interface& interface, const Descriptor& pinned);

// For links, the index of the interface that the link is on, whatever its name is now; 0: none.
unsigned index_of_link(const Descriptor& link);

// Idempotent; other programs and filters stay. The clsact queueing discipline stays while one of them hangs on it.
void take_away(Way way, const Interface& interface, const Descriptor& pinned);

// Why the kernel refused, from what is known about it.
struct Refusal {
    Way way = Way::native;
    int error = 0;             // errno
    std::string kernel_words;  // its own message, where it has one
    std::string interface;
    unsigned mtu = 0;  // bytes; 0: unknown
    XdpProgram other;  // of somebody else, that is there
};
std::string explain(const Refusal& refusal);  // pure

// `error` seen when attaching to `interface`, with what can be found out about it.
Refusal look_into(Way way, const Interface& interface, int error, std::string kernel_words);

}  // namespace marchproxy::packet
