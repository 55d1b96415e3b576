// The ways in which a program can sit on an interface, best first.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/names.h"

namespace marchproxy::packet {

enum class Way : uint8_t {
    dispatcher,  // XDP in the driver, beside other XDP programs, by libxdp's dispatcher
    native,      // XDP in the driver, alone
    generic,     // XDP in the network stack, after the kernel has made its packet buffer: any interface, slower
    tcx,         // TC ingress, as a link (Linux 6.6 and newer)
    clsact,      // TC ingress, as a filter
};

// The word in file names and JSON.
constexpr std::string_view name_of(Way way) {
    switch (way) {
        case Way::dispatcher:
            return "dispatcher";
        case Way::native:
            return "native";
        case Way::generic:
            return "generic";
        case Way::tcx:
            return "tcx";
        case Way::clsact:
            return "clsact";
    }
    return "?";
}

// For people.
constexpr std::string_view title_of(Way way) {
    switch (way) {
        case Way::dispatcher:
            return "XDP native, beside others";
        case Way::native:
            return "XDP native";
        case Way::generic:
            return "XDP generic";
        case Way::tcx:
            return "TC ingress (tcx)";
        case Way::clsact:
            return "TC ingress (clsact)";
    }
    return "?";
}

// Whether the kernel knows it as a link: survives by its pin alone, and changes its program in place.
constexpr bool is_link(Way way) {
    return way == Way::native || way == Way::generic || way == Way::tcx;
}

constexpr bool is_xdp(Way way) {
    return way == Way::dispatcher || way == Way::native || way == Way::generic;
}

// In the network card's driver.
constexpr bool is_in_driver(Way way) {
    return way == Way::dispatcher || way == Way::native;
}

// What to try for `packet.mode`, in order.
inline std::vector<Way> ways_for(PacketMode mode) {
    switch (mode) {
        case PacketMode::automatic:
            return {Way::dispatcher, Way::native, Way::generic, Way::tcx, Way::clsact};
        case PacketMode::native:
            return {Way::dispatcher, Way::native};
        case PacketMode::generic:
            return {Way::generic};
        case PacketMode::tc:
            return {Way::tcx, Way::clsact};
    }
    return {};
}

// A way that was tried in vain, or not tried.
struct Attempt {
    Way way = Way::native;
    std::string reason;  // and what to do, for people
};

// What to try for `packet.mode` on an interface of this driver, in order, and what better ways not.
struct Candidates {
    std::vector<Way> ways;
    std::vector<Attempt> passed_over;
};
Candidates candidates_for(PacketMode mode, std::string_view driver);

}  // namespace marchproxy::packet
