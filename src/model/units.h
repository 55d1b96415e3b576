// Quantities with their unit in the type, and how users write them.
//
// Numbers alone are refused where a unit is needed; prefixes follow the contract: rates in bits and powers of 1000,
// sizes in bytes with KB = 1000 and KiB = 1024, times in us, ms, s, m, h.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "model/result.h"

namespace marchproxy {

using Duration = std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;                 // intervals
using TimePoint = Clock::time_point;                     // passed in wherever a decision depends on time
using WallTime = std::chrono::system_clock::time_point;  // only for what people read

struct Rate {
    uint64_t bits_per_second = 0;
    auto operator<=>(const Rate&) const = default;
};

struct Bytes {
    uint64_t count = 0;
    auto operator<=>(const Bytes&) const = default;
};

// A share of a whole: 10% is {0.10}.
struct Share {
    double fraction = 0;
    auto operator<=>(const Share&) const = default;
};

// Events a second, written "20000/s".
struct Frequency {
    double per_second = 0;
    auto operator<=>(const Frequency&) const = default;
};

// Errors name the text that was refused and show one that would do.
Result<Rate> parse_rate(std::string_view text);            // "10Gbps", "1.5Mbps"
Result<Bytes> parse_bytes(std::string_view text);          // "1MiB", "4MB", "512B"
Result<Duration> parse_duration(std::string_view text);    // "200ms", "1h", "1.5s"
Result<Share> parse_share(std::string_view text);          // "5%"
Result<Frequency> parse_frequency(std::string_view text);  // "20000/s"

// The shortest exact form that the parsers above read back as the same value; below one of a unit the next smaller unit
// is taken: "100ms", not "0.1s".
std::string to_string(Rate rate);
std::string to_string(Bytes bytes);
std::string to_string(Duration duration);
std::string to_string(Share share);
std::string to_string(Frequency frequency);

}  // namespace marchproxy
