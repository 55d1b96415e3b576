#include "model/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <span>

#include "model/quote.h"

namespace marchproxy {
namespace {

__extension__ using Wide = unsigned __int128;

struct Unit {
    std::string_view name;
    uint64_t scale;  // in the base unit of the type
};

// What a kind of quantity is called, how one is written, and its units from large to small.
struct Kind {
    std::string_view noun;
    std::string_view example;
    std::string_view base;  // what must come out whole
    std::span<const Unit> units;
    uint64_t largest;
};

constexpr std::array<Unit, 4> rate_units{{{"Gbps", 1'000'000'000}, {"Mbps", 1'000'000}, {"Kbps", 1'000}, {"bps", 1}}};
constexpr std::array<Unit, 9> byte_units{{{"TiB", 1ULL << 40},
                                          {"TB", 1'000'000'000'000},
                                          {"GiB", 1ULL << 30},
                                          {"GB", 1'000'000'000},
                                          {"MiB", 1ULL << 20},
                                          {"MB", 1'000'000},
                                          {"KiB", 1ULL << 10},
                                          {"KB", 1'000},
                                          {"B", 1}}};
constexpr std::array<Unit, 5> duration_units{
    {{"h", 3'600'000'000'000}, {"m", 60'000'000'000}, {"s", 1'000'000'000}, {"ms", 1'000'000}, {"us", 1'000}}};
constexpr std::array<Unit, 1> share_units{{{"%", 1}}};
constexpr std::array<Unit, 1> frequency_units{{{"/s", 1}}};

constexpr uint64_t any = std::numeric_limits<uint64_t>::max();
constexpr Kind rate_kind{"rate", "10Gbps", "bits a second", rate_units, any};
constexpr Kind byte_kind{"size", "1MiB", "bytes", byte_units, any};
constexpr Kind duration_kind{"duration", "200ms", "nanoseconds", duration_units, std::numeric_limits<int64_t>::max()};
constexpr Kind share_kind{"percentage", "5%", "", share_units, any};
constexpr Kind frequency_kind{"frequency", "20000/s", "", frequency_units, any};

Error refuse(const Kind& kind, std::string_view text, std::string_view why) {
    std::string names;
    for (const Unit& unit : kind.units)
        names += fmt::format("{}{}", names.empty() ? "" : ", ", unit.name);
    return {fmt::format("{} is not a {}: {}; write it like \"{}\" ({}: {})", quoted(text), kind.noun, why, kind.example,
                        kind.units.size() > 1 ? "units" : "unit", names)};
}

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// How much of `text` is digits with at most one point between them. 0: it starts with no number.
size_t number_length(std::string_view text) {
    size_t at = 0;
    while (at < text.size() && is_digit(text[at]))
        ++at;
    if (at == 0 || at + 1 >= text.size() || text[at] != '.' || !is_digit(text[at + 1])) return at;
    ++at;
    while (at < text.size() && is_digit(text[at]))
        ++at;
    return at;
}

struct Parts {
    std::string_view number;
    uint64_t scale;
};

Result<Parts> split(const Kind& kind, std::string_view text) {
    const size_t length = number_length(text);
    if (length == 0) return refuse(kind, text, "it does not start with a number");
    const std::string_view name = text.substr(length);
    if (name.empty()) return refuse(kind, text, "the unit is missing");
    for (const Unit& unit : kind.units)
        if (unit.name == name) return Parts{text.substr(0, length), unit.scale};
    return refuse(kind, text, fmt::format("{} is not one of its units", quoted(name)));
}

// The value in base units, exact: a fraction that leaves no whole number of them is refused rather than rounded.
Result<uint64_t> parse_whole(const Kind& kind, std::string_view text) {
    const Result<Parts> parts = split(kind, text);
    if (!parts) return Error{parts.error()};
    std::string_view number = parts->number;
    const size_t point = number.find('.');
    if (point != std::string_view::npos) {
        while (number.back() == '0')
            number.remove_suffix(1);
        if (number.back() == '.') number.remove_suffix(1);
    }

    uint64_t mantissa = 0;
    Wide divisor = 1;
    for (size_t i = 0; i < number.size(); ++i) {
        if (number[i] == '.') continue;
        const auto digit = static_cast<uint64_t>(number[i] - '0');
        if (__builtin_mul_overflow(mantissa, 10U, &mantissa) || __builtin_add_overflow(mantissa, digit, &mantissa) ||
            divisor > any)
            return refuse(kind, text, i < point ? "it is too large" : "it has too many digits");
        if (i > point) divisor *= 10;
    }
    const Wide scaled = Wide{mantissa} * parts->scale;
    if (scaled % divisor != 0) return refuse(kind, text, fmt::format("it is no whole number of {}", kind.base));
    if (scaled / divisor > kind.largest) return refuse(kind, text, "it is too large");
    return static_cast<uint64_t>(scaled / divisor);
}

// The nearest double to number * 10^exponent, rounded once.
Result<double> parse_real(const Kind& kind, std::string_view text, std::string_view exponent) {
    const Result<Parts> parts = split(kind, text);
    if (!parts) return Error{parts.error()};
    const std::string number = fmt::format("{}{}", parts->number, exponent);
    double value = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error != std::errc{} || end != number.data() + number.size()) return refuse(kind, text, "it is out of range");
    return value;
}

// value / scale as an exact decimal; nothing when it has no short one.
std::optional<std::string> decimal(uint64_t value, uint64_t scale) {
    std::string out = std::to_string(value / scale);
    uint64_t rest = value % scale;
    if (rest != 0) out += '.';
    for (int digits = 0; rest != 0; ++digits) {
        if (digits == 20) return std::nullopt;
        rest *= 10;
        out += static_cast<char>('0' + rest / scale);
        rest %= scale;
    }
    return out;
}

std::string shortest(uint64_t value, std::span<const Unit> units) {
    std::string best;
    for (const Unit& unit : units) {
        if (value < unit.scale && &unit != &units.back()) continue;  // "100ms", not "0.1s"
        const std::optional<std::string> number = decimal(value, unit.scale);
        if (number && (best.empty() || number->size() + unit.name.size() < best.size()))
            best = fmt::format("{}{}", *number, unit.name);
    }
    return best;
}

std::string shortest(double value) {
    std::array<char, 512> buffer{};  // the longest double in fixed notation has about 350 digits
    const auto [end, error] =
        std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
    return {buffer.data(), error == std::errc{} ? end : buffer.data()};
}

}  // namespace

Result<Rate> parse_rate(std::string_view text) {
    const Result<uint64_t> value = parse_whole(rate_kind, text);
    if (!value) return Error{value.error()};
    return Rate{*value};
}

Result<Bytes> parse_bytes(std::string_view text) {
    const Result<uint64_t> value = parse_whole(byte_kind, text);
    if (!value) return Error{value.error()};
    return Bytes{*value};
}

Result<Duration> parse_duration(std::string_view text) {
    const Result<uint64_t> value = parse_whole(duration_kind, text);
    if (!value) return Error{value.error()};
    return Duration{static_cast<int64_t>(*value)};
}

Result<Share> parse_share(std::string_view text) {
    const Result<double> value = parse_real(share_kind, text, "e-2");
    if (!value) return Error{value.error()};
    if (*value > 1) return refuse(share_kind, text, "it is more than the whole");
    return Share{*value};
}

Result<Frequency> parse_frequency(std::string_view text) {
    const Result<double> value = parse_real(frequency_kind, text, "");
    if (!value) return Error{value.error()};
    return Frequency{*value};
}

std::string to_string(Rate rate) {
    return shortest(rate.bits_per_second, rate_units);
}

std::string to_string(Bytes bytes) {
    return shortest(bytes.count, byte_units);
}

std::string to_string(Duration duration) {
    if (duration.count() == 0) return "0s";
    if (duration.count() < 0)
        return fmt::format("-{}", shortest(-static_cast<uint64_t>(duration.count()), duration_units));
    return shortest(static_cast<uint64_t>(duration.count()), duration_units);
}

// Moves the decimal point instead of multiplying: fraction * 100 would round a second time.
std::string to_string(Share share) {
    std::string digits = shortest(share.fraction);
    size_t point = digits.find('.');
    if (point == std::string::npos) {
        point = digits.size();
    } else {
        digits.erase(point, 1);
    }
    while (digits.size() < point + 2)
        digits += '0';
    point += 2;
    if (digits.size() > point) digits.insert(point, 1, '.');
    const size_t first = std::min(digits.find_first_not_of('0'), point - 1);
    return digits.substr(first) + "%";
}

std::string to_string(Frequency frequency) {
    return shortest(frequency.per_second) + "/s";
}

}  // namespace marchproxy
