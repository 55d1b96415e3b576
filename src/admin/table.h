// Aligned tables and quantities for people at a terminal.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace marchproxy::admin {

class Table {
  public:
    enum class Align : uint8_t { left, right };
    struct Column {
        std::string title;
        Align align = Align::left;
    };

    explicit Table(std::vector<Column> columns);

    // Cells may hold anything: control characters, which could steer the terminal, are shown as '?'.
    void add(std::vector<std::string> cells);
    bool empty() const { return rows_.empty(); }
    std::string text() const;  // ends with a newline; columns as wide as their widest cell

  private:
    std::vector<Column> columns_;
    std::vector<std::vector<std::string>> rows_;
};

std::string printable(std::string_view text);
std::string or_dash(const std::string& text);    // "-" for nothing
std::string human_bytes(double count);           // "1.25 GB", powers of 1000
std::string human_rate(double bits_per_second);  // "941 Mbit/s"
std::string human_duration(double seconds);      // "1h 5m", "12.5s", "250ms"

}  // namespace marchproxy::admin
