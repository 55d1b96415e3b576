// Structured logging: an event in plain words and named fields, as JSON lines or text on standard error.
// Built by main and handed to every part; no global. Safe from any thread; never called per packet or per byte.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "model/names.h"
#include "model/units.h"

namespace marchproxy::telemetry {

struct Field {
    std::string_view name;
    std::variant<std::string_view, int64_t, uint64_t, double, bool> value;

    Field(std::string_view n, std::string_view v) : name(n), value(v) {}
    Field(std::string_view n, const std::string& v) : name(n), value(std::string_view(v)) {}
    Field(std::string_view n, const char* v) : name(n), value(std::string_view(v)) {}
    Field(std::string_view n, bool v) : name(n), value(v) {}
    Field(std::string_view n, double v) : name(n), value(v) {}
    template <class I>
    requires std::is_integral_v<I> Field(std::string_view n, I v) : name(n) {
        if constexpr (std::is_signed_v<I>)
            value = static_cast<int64_t>(v);
        else
            value = static_cast<uint64_t>(v);
    }
};

using Fields = std::initializer_list<Field>;

class Log {
  public:
    using Writer = std::function<void(std::string_view line)>;  // one whole line, without its newline

    Log(LogLevel level, LogFormat format);  // to standard error
    Log(LogLevel level, LogFormat format, Writer writer, std::function<TimePoint()> now = Clock::now);  // tests
    ~Log();

    void configure(LogLevel level, LogFormat format);  // by reload
    bool enabled(LogLevel level) const;

    void write(LogLevel level, std::string_view event, Fields fields = {});
    void debug(std::string_view event, Fields fields = {}) { write(LogLevel::debug, event, fields); }
    void info(std::string_view event, Fields fields = {}) { write(LogLevel::info, event, fields); }
    void warn(std::string_view event, Fields fields = {}) { write(LogLevel::warn, event, fields); }
    void error(std::string_view event, Fields fields = {}) { write(LogLevel::error, event, fields); }

    // For events that hostile or broken peers can cause at will: at most one line a second for each `key`; the next
    // line that passes carries `suppressed`, the number left out. Bounded memory.
    void limited(LogLevel level, std::string_view key, std::string_view event, Fields fields = {});

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace marchproxy::telemetry
