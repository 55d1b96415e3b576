#include "costs/calendar.h"

#include <fmt/format.h>

#include <charconv>

namespace marchproxy::costs {

namespace {

using namespace std::chrono;

std::optional<unsigned> number_from(std::string_view text) {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

Day first_of(year_month month) {
    return sys_days(month / 1);
}

year_month month_of(Day day) {
    const year_month_day date(day);
    return date.year() / date.month();
}

}  // namespace

Day day_of(WallTime time) {
    return floor<days>(time);
}

Day month_begin(Day day) {
    return first_of(month_of(day));
}

Day next_month(Day day) {
    return first_of(month_of(day) + months(1));
}

Day previous_month(Day day) {
    return first_of(month_of(day) - months(1));
}

std::string text_of(Day day) {
    const year_month_day date(day);
    return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                       static_cast<unsigned>(date.day()));
}

std::optional<Day> day_from(std::string_view text) {
    if (text.size() != 10 || text[4] != '-' || text[7] != '-') return std::nullopt;
    const auto of_year = number_from(text.substr(0, 4)), of_month = number_from(text.substr(5, 2)),
               of_day = number_from(text.substr(8, 2));
    if (!of_year || !of_month || !of_day) return std::nullopt;
    const year_month_day date(year(static_cast<int>(*of_year)), month(*of_month), day(*of_day));
    if (!date.ok()) return std::nullopt;
    return sys_days(date);
}

int64_t slot_of(WallTime time) {
    return floor<seconds>(time).time_since_epoch() / slot_length;
}

int64_t first_slot(Day day) {
    return day.time_since_epoch() / slot_length;
}

}  // namespace marchproxy::costs
