// How each type of the model is written: what users call it, text -> value, value -> text, value -> JSON.
// One Codec a type; optional<T> and vector<T> are handled where rows are bound (table.h).
#pragma once

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <cmath>
#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "model/quote.h"
#include "model/snapshot.h"

namespace marchproxy::config {

template <class T>
struct Codec;

inline bool same_word(std::string_view a, std::string_view b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

template <>
struct Codec<bool> {
    static std::string type() { return "true | false"; }
    static Result<bool> parse(std::string_view text) {
        for (const std::string_view word : {"true", "yes", "on"})
            if (same_word(text, word)) return true;
        for (const std::string_view word : {"false", "no", "off"})
            if (same_word(text, word)) return false;
        return Error{fmt::format("{} is neither true nor false", quoted(text))};
    }
    static std::string text(bool value) { return value ? "true" : "false"; }
    static nlohmann::json print(bool value) { return value; }
};

template <class T>
requires(std::unsigned_integral<T>) struct Codec<T> {
    static std::string type() { return "number"; }
    static Result<T> parse(std::string_view text) {
        T value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
        if (error == std::errc{} && end == text.data() + text.size() && digits) return value;
        if (digits) return Error{fmt::format("{} is too large; the most is {}", text, std::numeric_limits<T>::max())};
        return Error{fmt::format("{} is not a whole number of 0 or more", quoted(text))};
    }
    static std::string text(T value) { return std::to_string(value); }
    static nlohmann::json print(T value) { return value; }
};

template <>
struct Codec<double> {
    static std::string type() { return "number"; }
    static Result<double> parse(std::string_view text) {
        double value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value))
            return Error{fmt::format("{} is not a number", quoted(text))};
        return value;
    }
    static std::string text(double value) { return fmt::format("{}", value); }
    static nlohmann::json print(double value) { return value; }
};

template <>
struct Codec<std::string> {
    static constexpr size_t longest = 4096;
    static std::string type() { return "text"; }
    static Result<std::string> parse(std::string_view text) {
        if (text.size() > longest) return Error{fmt::format("is longer than {} bytes", longest)};
        return std::string(text);
    }
    static std::string text(const std::string& value) { return "\"" + value + "\""; }
    static nlohmann::json print(const std::string& value) { return value; }
};

// Words match in any case: "info" in an environment variable means INFO.
template <class E>
requires(std::is_enum_v<E>) struct Codec<E> {
    static std::string words(std::string_view separator) {
        std::string all;
        for (const auto& [value, word] : Names<E>::table)
            if (word == name_of(value)) all += fmt::format("{}{}", all.empty() ? "" : separator, word);
        return all;
    }
    static std::string type() { return words(" | "); }
    static Result<E> parse(std::string_view text) {
        for (const auto& [value, word] : Names<E>::table)
            if (same_word(word, text)) return value;
        return Error{fmt::format("{} is not one of: {}", quoted(text), words(", "))};
    }
    static std::string text(E value) { return std::string(name_of(value)); }
    static nlohmann::json print(E value) { return name_of(value); }
};

// The types that the model itself reads and prints.
#define MARCHPROXY_CODEC(T, name, reader, printed)                                       \
    template <>                                                                          \
    struct Codec<T> {                                                                    \
        static std::string type() { return name; }                                       \
        static Result<T> parse(std::string_view text) { return reader(text); }           \
        static std::string text(const T& value) { return marchproxy::to_string(value); } \
        static nlohmann::json print(const T& value) { return printed; }                  \
    }

MARCHPROXY_CODEC(Rate, "rate", parse_rate, value.bits_per_second);
MARCHPROXY_CODEC(Bytes, "size", parse_bytes, value.count);
MARCHPROXY_CODEC(Duration, "duration", parse_duration, std::chrono::duration<double>(value).count());
MARCHPROXY_CODEC(Share, "percentage", parse_share, value.fraction);
MARCHPROXY_CODEC(Frequency, "frequency", parse_frequency, value.per_second);
MARCHPROXY_CODEC(IpAddress, "address", IpAddress::parse, marchproxy::to_string(value));
MARCHPROXY_CODEC(SocketAddress, "address:port", SocketAddress::parse, marchproxy::to_string(value));
MARCHPROXY_CODEC(HostPort, "host:port", HostPort::parse, marchproxy::to_string(value));
MARCHPROXY_CODEC(Prefix, "address/length", Prefix::parse, marchproxy::to_string(value));
#undef MARCHPROXY_CODEC

// A price written once holds for any volume; tiers are a list of maps.
template <>
struct Codec<Tariff> {
    static std::string type() { return "number, or list of { up_to, cost }"; }
    static Result<Tariff> parse(std::string_view text) {
        const Result<double> price = Codec<double>::parse(text);
        if (!price) return Error{price.error()};
        return Tariff::flat(*price);
    }
    static std::string text(const Tariff& value) {
        if (value.tiers.empty()) return "none";
        std::string all;
        for (const CostTier& tier : value.tiers)
            all += fmt::format("{}{}{}", all.empty() ? "" : ", ",
                               tier.up_to ? fmt::format("up to {}: ", to_string(*tier.up_to)) : "", tier.cost);
        return all;
    }
};

// A rate written once holds for both directions; { up, down } are keys of their own.
template <>
struct Codec<DirectedRate> {
    static std::string type() { return "rate, or { up, down }"; }
    static Result<DirectedRate> parse(std::string_view text) {
        const Result<Rate> rate = parse_rate(text);
        if (!rate) return Error{rate.error()};
        return DirectedRate{*rate, *rate};
    }
    static std::string text(const DirectedRate& value) {
        const auto side = [](const std::optional<Rate>& rate) { return rate ? to_string(*rate) : "none"; };
        return value.up == value.down ? side(value.up)
                                      : fmt::format("{{ up: {}, down: {} }}", side(value.up), side(value.down));
    }
};

}  // namespace marchproxy::config
