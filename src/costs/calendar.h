// Days and months as bills have them: in UTC.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "model/units.h"

namespace marchproxy::costs {

using Day = std::chrono::sys_days;

Day day_of(WallTime time);
Day month_begin(Day day);
Day next_month(Day day);      // the first of it
Day previous_month(Day day);  // the first of it

std::string text_of(Day day);                        // "2026-11-30"
std::optional<Day> day_from(std::string_view text);  // the same; none: it is no such day

// Five minutes, as carriers sample; counted from 1970.
inline constexpr std::chrono::minutes slot_length{5};
int64_t slot_of(WallTime time);
int64_t first_slot(Day day);

}  // namespace marchproxy::costs
