// Differentiated services: the six bits of an IP header that say how a packet is to be treated, their names, and what
// they mean to us. The two bits beside them are ECN's (RFC 3168), which marking leaves alone.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "model/names.h"

namespace marchproxy {

struct DscpName {
    std::string_view name;
    uint8_t code;
};

// RFC 2474 (CS), 2597 (AF), 3246 (EF), 5865 (VA), 8622 (LE).
inline constexpr std::array<DscpName, 24> dscp_names{{
    {"BE", 0},    {"CS0", 0},   {"LE", 1},    {"CS1", 8},  {"AF11", 10}, {"AF12", 12}, {"AF13", 14}, {"CS2", 16},
    {"AF21", 18}, {"AF22", 20}, {"AF23", 22}, {"CS3", 24}, {"AF31", 26}, {"AF32", 28}, {"AF33", 30}, {"CS4", 32},
    {"AF41", 34}, {"AF42", 36}, {"AF43", 38}, {"CS5", 40}, {"VA", 44},   {"EF", 46},   {"CS6", 48},  {"CS7", 56},
}};

// How packets of a priority are marked where nothing else is asked for: EF, AF41, AF21, BE.
constexpr uint8_t dscp_of(Priority priority) {
    constexpr std::array<uint8_t, 4> codes{46, 34, 18, 0};
    return codes[static_cast<size_t>(priority)];
}

// The priority of a packet whose mark is trusted, along the service classes of RFC 4594: routing and voice; what people
// wait for at once; what has a place before the rest; the rest, bulk data and LE.
constexpr Priority priority_of(uint8_t dscp) {
    switch (dscp >> 3) {
        case 7:  // CS7
        case 6:  // CS6
            return Priority::p0;
        case 5:  // EF and VA, but CS5
            return dscp == 46 || dscp == 44 ? Priority::p0 : Priority::p1;
        case 4:  // AF4x, CS4
            return Priority::p1;
        case 3:  // AF3x, CS3
        case 2:  // AF2x, CS2
            return Priority::p2;
        default:  // AF1x, CS1, LE, BE
            return Priority::p3;
    }
}

}  // namespace marchproxy
