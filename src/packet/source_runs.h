// Which of our addresses an endpoint is spoken to from: a run of numbers, as its record has room for no more. Pure.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "packet/indexes.h"

namespace marchproxy::packet {

struct SourceRun {
    uint8_t first = 0, count = 0;
};

// Takes numbers for the addresses, side by side. An address keeps the number it has; one that came later is used where
// the number beside the others is free, and otherwise not: `notes` says so.
SourceRun take_sources(std::span<const IpAddress> addresses, Book<IpAddress>& book, std::vector<std::string>& notes);

}  // namespace marchproxy::packet
