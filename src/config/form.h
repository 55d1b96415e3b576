// The ranges that rows of options.def name: `any`, `between(1, 65535)`, `at_least(1)`, `name_word`, ...
// Each makes a Form<T>: how a value of the row's member is read, and how its range reads in messages and on the
// reference page.
#pragma once

#include <fmt/format.h>

#include <array>
#include <functional>
#include <string>

#include "config/codec.h"
#include "model/dscp.h"

namespace marchproxy::config {

template <class T>
struct Form {
    std::string type = Codec<T>::type();
    std::string range;
    std::function<Result<T>(std::string_view)> parse = &Codec<T>::parse;
};

struct Any {
    template <class T>
    Form<T> form() const {
        return {};
    }
};
inline constexpr Any any;

template <class L, class H>
struct Between {
    L low;
    H high;

    template <class T>
    Form<T> form() const {
        const T least = T(low), most = T(high);
        Form<T> form;
        form.range = fmt::format("{}..{}", Codec<T>::text(least), Codec<T>::text(most));
        form.parse = [least, most, range = form.range](std::string_view text) -> Result<T> {
            // Read wide: a number that does not fit the member is out of range like any other.
            using Wide = std::conditional_t<std::unsigned_integral<T>, uint64_t, T>;
            const Result<Wide> value = Codec<Wide>::parse(text);
            if (!value) return Error{value.error()};
            if (*value < least || most < *value)
                return Error{fmt::format("{} is out of range; allowed: {}", quoted(text), range)};
            return static_cast<T>(*value);
        };
        return form;
    }
};
template <class L, class H>
constexpr Between<L, H> between(L low, H high) {
    return {low, high};
}

template <class L>
struct AtLeast {
    L low;

    template <class T>
    Form<T> form() const {
        const T least = T(low);
        Form<T> form;
        form.range = fmt::format("{} or more", Codec<T>::text(least));
        form.parse = [least, range = form.range](std::string_view text) -> Result<T> {
            Result<T> value = Codec<T>::parse(text);
            if (value && *value < least) return Error{fmt::format("{} is too small; allowed: {}", quoted(text), range)};
            return value;
        };
        return form;
    }
};
template <class L>
constexpr AtLeast<L> at_least(L low) {
    return {low};
}

// Text that must pass a test.
struct TextForm {
    std::string_view range;
    bool (*allowed)(std::string_view);

    template <class T>
    Form<T> form() const {
        Form<T> form;
        form.range = range;
        form.parse = [*this](std::string_view text) -> Result<T> {
            if (!allowed(text)) return Error{fmt::format("{} is not allowed here; allowed: {}", quoted(text), range)};
            return Codec<T>::parse(text);
        };
        return form;
    }
};

constexpr bool only_of(std::string_view text, std::string_view set) {
    return text.find_first_not_of(set) == std::string_view::npos;
}
constexpr std::string_view lower_case = "abcdefghijklmnopqrstuvwxyz";
constexpr std::string_view upper_case = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::string_view digits = "0123456789";

// Names stand in metric labels, URLs (/api/v1/paths/{name}/drain) and messages.
inline constexpr TextForm name_word{
    "1 to 128 characters, none of them a blank at either end, a slash or a control character",
    [](std::string_view text) {
        const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '/'; };
        return !text.empty() && text.size() <= 128 && text.front() != ' ' && text.back() != ' ' &&
               std::none_of(text.begin(), text.end(), control);
    }};
inline constexpr TextForm kernel_word{
    "auto, system, or the kernel's name of an algorithm: 1 to 15 of a-z, 0-9, _", [](std::string_view text) {
        const bool made_of = std::all_of(text.begin(), text.end(), [](char c) {
            return lower_case.find(c) != std::string_view::npos || digits.find(c) != std::string_view::npos || c == '_';
        });
        return made_of && !text.empty() && text.size() <= 15;
    }};
inline constexpr TextForm interface_name{"1 to 15 characters without blank or slash", [](std::string_view text) {
                                             return !text.empty() && text.size() <= 15 &&
                                                    text.find_first_of(" /\t:") == std::string_view::npos;
                                         }};
inline constexpr TextForm http_url{
    "http://HOST or https://HOST, or empty", [](std::string_view text) {
        const auto host = [&](std::string_view scheme) {
            return text.starts_with(scheme) && text.size() > scheme.size();
        };
        return text.empty() || ((host("http://") || host("https://")) && text.find(' ') == std::string_view::npos);
    }};
inline constexpr TextForm collector{"host:port, or empty",
                                    [](std::string_view text) { return text.empty() || HostPort::parse(text).ok(); }};
inline constexpr TextForm absolute_path{"a path that begins with /",
                                        [](std::string_view text) { return text.starts_with('/'); }};
inline constexpr TextForm path_or_nothing{"a path that begins with /, or nothing",
                                          [](std::string_view text) { return text.empty() || text.starts_with('/'); }};
inline constexpr TextForm token_text{"printable characters without blanks", [](std::string_view text) {
                                         return std::all_of(text.begin(), text.end(),
                                                            [](unsigned char c) { return c > 0x20 && c < 0x7f; });
                                     }};
inline constexpr TextForm node_list{
    "auto, or numbers and ranges such as 0,2-3", [](std::string_view text) {
        return text == "auto" || (!text.empty() && only_of(text, "0123456789,-") && only_of(text.substr(0, 1), digits));
    }};
inline constexpr TextForm metric_name{"letters, digits and _, not beginning with a digit", [](std::string_view text) {
                                          const auto plain = [](char c) {
                                              return lower_case.find(c) != std::string_view::npos ||
                                                     upper_case.find(c) != std::string_view::npos || c == '_';
                                          };
                                          return !text.empty() && text.size() <= 128 && plain(text.front()) &&
                                                 std::all_of(text.begin(), text.end(), [&](char c) {
                                                     return plain(c) || digits.find(c) != std::string_view::npos;
                                                 });
                                      }};
inline constexpr TextForm metric_kind{"counter, gauge, histogram", [](std::string_view text) {
                                          return text == "counter" || text == "gauge" || text == "histogram";
                                      }};
inline constexpr TextForm trace_reason{"error, slow",
                                       [](std::string_view text) { return text == "error" || text == "slow"; }};

// A pace of bits that can be told apart from standing still, and one beyond all links there are.
inline constexpr Rate slowest_rate{1000}, fastest_rate{100'000'000'000'000};

// What a gigabyte may cost.
inline constexpr Between<double, double> dollars_a_gigabyte{0, 1e6};

// A price that stands for all tiers.
struct OnePriceForm {
    template <class T>
    Form<T> form() const {
        const Form<double> one = dollars_a_gigabyte.form<double>();
        Form<T> form;
        form.range = one.range;
        form.parse = [parse = one.parse](std::string_view text) -> Result<T> {
            const Result<double> price = parse(text);
            if (!price) return Error{price.error()};
            return T::flat(*price);
        };
        return form;
    }
};
inline constexpr OnePriceForm one_price;

// A rate that stands for both directions.
struct BothForm {
    template <class T>
    Form<T> form() const {
        const Form<Rate> one = between(slowest_rate, fastest_rate).form<Rate>();
        Form<T> form;
        form.range = one.range;
        form.parse = [parse = one.parse](std::string_view text) -> Result<T> {
            const Result<Rate> rate = parse(text);
            if (!rate) return Error{rate.error()};
            return T{*rate, *rate};
        };
        return form;
    }
};
inline constexpr BothForm both_directions;

// DSCP marks by name (RFC 2474, 2597, 3246, 5865, 8622) or number.
struct DscpForm {
    template <class T>
    Form<T> form() const {
        Form<T> form;
        form.type = "DSCP name or number";
        form.range = "EF, AF11..AF43, CS0..CS7, BE, LE, VA, 0..63";
        form.parse = [range = form.range](std::string_view text) -> Result<T> {
            for (const DscpName& known : dscp_names)
                if (same_word(known.name, text)) return T{known.code};
            Result<T> number = Codec<T>::parse(text);
            if (number && *number <= 63) return number;
            return Error{fmt::format("{} is not a DSCP mark; allowed: {}", quoted(text), range)};
        };
        return form;
    }
};
inline constexpr DscpForm dscp_mark;

}  // namespace marchproxy::config
