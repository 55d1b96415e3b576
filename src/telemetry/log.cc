#include "telemetry/log.h"

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "model/rfc3339.h"
#include "telemetry/utf8.h"

namespace marchproxy::telemetry {

namespace {

using Json = nlohmann::ordered_json;

class WriterSink final : public spdlog::sinks::base_sink<std::mutex> {
  public:
    explicit WriterSink(Log::Writer writer) : writer_(std::move(writer)) {}

  private:
    void sink_it_(const spdlog::details::log_msg& message) override {
        writer_(std::string_view(message.payload.data(), message.payload.size()));
    }
    void flush_() override {}

    Log::Writer writer_;
};

// Bytes that are no UTF-8 become U+FFFD: a log reader must never stumble over what a peer sent.
std::string dump(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string json_line(LogLevel level, std::string_view event, Fields fields, uint64_t suppressed) {
    Json line;
    line["time"] = rfc3339(std::chrono::system_clock::now());
    line["level"] = name_of(level);
    line["event"] = event;
    for (const Field& field : fields)
        std::visit([&](const auto& value) { line[std::string(field.name)] = value; }, field.value);
    if (suppressed > 0) line["suppressed"] = suppressed;
    return dump(line);
}

bool is_plain(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
        return c > ' ' && c < 0x7f && c != '"' && c != '=' && c != '\\';
    });
}

std::string text_value(const Field& field) {
    return std::visit(
        [](const auto& value) -> std::string {
            if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string_view>)
                return is_plain(value) ? std::string(value) : dump(Json(value));
            else
                return fmt::format("{}", value);
        },
        field.value);
}

// The event's words as they are, unless they hold what would break the line: then quoted like any other string.
std::string text_event(std::string_view event) {
    const bool breaks =
        std::any_of(event.begin(), event.end(), [](char c) { return c >= 0 && (c < ' ' || c == 0x7f); });
    return breaks ? dump(Json(event)) : valid_utf8(event);
}

std::string text_line(LogLevel level, std::string_view event, Fields fields, uint64_t suppressed) {
    std::string line =
        fmt::format("{} {:5} {}", rfc3339(std::chrono::system_clock::now()), name_of(level), text_event(event));
    for (const Field& field : fields)
        line += fmt::format(" {}={}", field.name, text_value(field));
    if (suppressed > 0) line += fmt::format(" suppressed={}", suppressed);
    return line;
}

// Who may write when, for Log::limited. Keys beyond the bound share one allowance.
class Limiter {
  public:
    // The number of lines left out since the last one that passed; nothing when this one is left out too.
    std::optional<uint64_t> pass(std::string_view key, TimePoint now) {
        std::lock_guard lock(mutex_);
        Allowance& allowance = find(key.substr(0, longest_key), now);
        if (now < allowance.next) {
            ++allowance.suppressed;
            return std::nullopt;
        }
        allowance.next = now + interval;
        return std::exchange(allowance.suppressed, 0);
    }

  private:
    struct Allowance {
        TimePoint next{};
        uint64_t suppressed = 0;
    };

    static constexpr size_t most_keys = 1024;
    static constexpr size_t longest_key = 256;
    static constexpr Duration interval = std::chrono::seconds(1);

    Allowance& find(std::string_view key, TimePoint now) {
        if (auto found = keys_.find(std::string(key)); found != keys_.end()) return found->second;
        if (keys_.size() >= most_keys) forget_quiet_keys(now);
        return keys_.size() < most_keys ? keys_[std::string(key)] : others_;
    }

    // Looked for at most once an interval: a flood of new keys must not cost a walk over all of them each time.
    void forget_quiet_keys(TimePoint now) {
        if (now < next_sweep_) return;
        next_sweep_ = now + interval;
        std::erase_if(keys_, [&](const auto& entry) {
            const bool quiet = entry.second.next <= now;
            if (quiet) others_.suppressed += entry.second.suppressed;
            return quiet;
        });
    }

    std::mutex mutex_;
    std::unordered_map<std::string, Allowance> keys_;
    Allowance others_;
    TimePoint next_sweep_{};
};

}  // namespace

struct Log::State {
    State(LogLevel level_, LogFormat format_, spdlog::sink_ptr sink, std::function<TimePoint()> now_)
        : level(level_), format(format_), logger("marchproxy", std::move(sink)), now(std::move(now_)) {
        logger.set_pattern("%v");
        logger.set_level(spdlog::level::trace);  // Log::enabled decides
        logger.flush_on(spdlog::level::trace);
    }

    void write(LogLevel line_level, std::string_view event, Fields fields, uint64_t suppressed) {
        const std::string line = format.load(std::memory_order_relaxed) == LogFormat::json
                                     ? json_line(line_level, event, fields, suppressed)
                                     : text_line(line_level, event, fields, suppressed);
        logger.log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
    }

    std::atomic<LogLevel> level;
    std::atomic<LogFormat> format;
    spdlog::logger logger;
    std::function<TimePoint()> now;
    Limiter limiter;
};

Log::Log(LogLevel level, LogFormat format)
    : state_(std::make_unique<State>(level, format, std::make_shared<spdlog::sinks::stderr_sink_mt>(), Clock::now)) {}

Log::Log(LogLevel level, LogFormat format, Writer writer, std::function<TimePoint()> now)
    : state_(std::make_unique<State>(level, format, std::make_shared<WriterSink>(std::move(writer)), std::move(now))) {}

Log::~Log() = default;

void Log::configure(LogLevel level, LogFormat format) {
    state_->level.store(level, std::memory_order_relaxed);
    state_->format.store(format, std::memory_order_relaxed);
}

bool Log::enabled(LogLevel level) const {
    return level >= state_->level.load(std::memory_order_relaxed);
}

void Log::write(LogLevel level, std::string_view event, Fields fields) {
    if (enabled(level)) state_->write(level, event, fields, 0);
}

void Log::limited(LogLevel level, std::string_view key, std::string_view event, Fields fields) {
    if (!enabled(level)) return;
    if (const auto suppressed = state_->limiter.pass(key, state_->now()))
        state_->write(level, event, fields, *suppressed);
}

}  // namespace marchproxy::telemetry
