#include "admin/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>

#include "telemetry/utf8.h"

namespace marchproxy::admin {

namespace {

constexpr std::string_view gap = "  ";

// Characters, not bytes: what follows the first byte of a UTF-8 sequence takes no column.
size_t width_of(std::string_view text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

template <size_t N>
std::string scaled(double value, const std::array<std::string_view, N>& units) {
    size_t unit = 0;
    for (; value >= 999.5 && unit + 1 < N; ++unit)
        value /= 1000;
    const int digits = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    return fmt::format("{:.{}f} {}", value, digits, units[unit]);
}

}  // namespace

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::add(std::vector<std::string> cells) {
    assert(cells.size() == columns_.size());
    for (std::string& cell : cells)
        cell = printable(cell);
    rows_.push_back(std::move(cells));
}

std::string Table::text() const {
    std::vector<size_t> widths;
    for (size_t i = 0; i < columns_.size(); ++i) {
        size_t width = width_of(columns_[i].title);
        for (const auto& row : rows_)
            width = std::max(width, width_of(row[i]));
        widths.push_back(width);
    }
    std::string result;
    auto append = [&](size_t i, const std::string& cell) {
        const std::string padding(widths[i] - width_of(cell), ' ');
        const bool last = i + 1 == columns_.size();
        if (columns_[i].align == Align::right)
            result += padding + cell;
        else
            result += cell + (last ? "" : padding);
        result += last ? "\n" : gap;
    };
    for (size_t i = 0; i < columns_.size(); ++i)
        append(i, columns_[i].title);
    for (const auto& row : rows_)
        for (size_t i = 0; i < row.size(); ++i)
            append(i, row[i]);
    return result;
}

std::string printable(std::string_view text) {
    std::string result = telemetry::valid_utf8(text);
    for (size_t i = 0; i < result.size(); ++i) {
        const auto byte = static_cast<unsigned char>(result[i]);
        const bool second_of_c1 = i > 0 && static_cast<unsigned char>(result[i - 1]) == 0xc2 && byte < 0xa0;
        if (byte < 0x20 || byte == 0x7f) result[i] = '?';
        if (second_of_c1) result.replace(i - 1, 2, "??");
    }
    return result;
}

std::string or_dash(const std::string& text) {
    return text.empty() ? "-" : text;
}

std::string human_bytes(double count) {
    return scaled(count, std::array<std::string_view, 6>{"B", "KB", "MB", "GB", "TB", "PB"});
}

std::string human_rate(double bits_per_second) {
    return scaled(bits_per_second, std::array<std::string_view, 5>{"bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"});
}

std::string human_duration(double seconds) {
    if (seconds < 0.9995) return fmt::format("{:.{}f}ms", seconds * 1000, seconds < 0.00995 ? 2 : 0);
    if (seconds < 59.95) return fmt::format("{:.1f}s", seconds);
    const auto whole = static_cast<uint64_t>(seconds);
    if (whole < 3600) return fmt::format("{}m {}s", whole / 60, whole % 60);
    if (whole < 86400) return fmt::format("{}h {}m", whole / 3600, whole / 60 % 60);
    return fmt::format("{}d {}h", whole / 86400, whole / 3600 % 24);
}

}  // namespace marchproxy::admin
