#include "flow/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

#include "flow/json.h"

namespace marchproxy::flow {

namespace {

constexpr size_t write_at_once = 64 << 10;
constexpr int patience_milliseconds = 1000;  // with a reader of a named pipe that does not read

std::string line_of(const Record& record) {
    return to_json(record).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

}  // namespace

Store::File::File(const StoreOptions& options, Report report)
    : report_(std::move(report)), path_(options.file), most_queued_(options.queued_for_file) {
    thread_ = std::thread([this] { run(); });
}

Store::File::~File() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
    close();
}

void Store::File::enqueue(const std::vector<Record>& batch) {
    {
        std::lock_guard lock(mutex_);
        if (path_.empty()) return;
        const size_t room = most_queued_ - std::min(most_queued_, queue_.size());
        const size_t taken = std::min(room, batch.size());
        queue_.insert(queue_.end(), batch.begin(), batch.begin() + static_cast<ptrdiff_t>(taken));
        dropped_ += batch.size() - taken;
    }
    wake_.notify_one();
}

void Store::File::configure(const StoreOptions& options) {
    {
        std::lock_guard lock(mutex_);
        most_queued_ = options.queued_for_file;
        if (path_ == options.file) return;
        path_ = options.file;
        reopen_ = true;
    }
    wake_.notify_one();
}

void Store::File::reopen() {
    {
        std::lock_guard lock(mutex_);
        reopen_ = true;
    }
    wake_.notify_one();
}

void Store::File::add_to(StoreStatus& status) const {
    std::lock_guard lock(mutex_);
    status.written = written_;
    status.dropped = dropped_;
    status.file_error = error_;
}

void Store::File::run() {
    for (;;) {
        const Work work = next();
        if (work.reopen) {
            close();
            torn_ = false;
        }
        if (!work.path.empty()) write(work);
        if (work.stop) return;
    }
}

Store::File::Work Store::File::next() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return stop_ || reopen_ || !queue_.empty(); });
    Work work{.records = {}, .path = path_, .reopen = std::exchange(reopen_, false), .stop = stop_};
    work.records.swap(queue_);
    return work;
}

void Store::File::write(const Work& work) {
    if (descriptor_ < 0 && !open(work.path)) {
        failed(work.records.size(), "open " + work.path, errno);
        return;
    }
    std::string lines;
    size_t count = 0;
    for (size_t i = 0; i < work.records.size(); ++i) {
        lines += line_of(work.records[i]);
        ++count;
        if (lines.size() < write_at_once && i + 1 < work.records.size()) continue;
        if (!append(lines)) {
            failed(work.records.size() - (i + 1 - count), "write " + work.path, errno);
            close();  // the next batch tries from the beginning: the directory or the reader may be another by then
            return;
        }
        succeeded(count);
        lines.clear();
        count = 0;
    }
}

// Not blocking, so that a named pipe without a reader is an error and never a stuck thread.
bool Store::File::open(const std::string& path) {
    descriptor_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0640);
    return descriptor_ >= 0;
}

void Store::File::close() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
}

// After an error the file may end within a line; the next line then starts on its own.
bool Store::File::append(std::string_view lines) {
    const std::string repaired = torn_ ? fmt::format("\n{}", lines) : std::string();
    std::string_view left = torn_ ? std::string_view(repaired) : lines;
    while (!left.empty()) {
        const ssize_t written = ::write(descriptor_, left.data(), left.size());
        if (written > 0) {
            torn_ = left[static_cast<size_t>(written) - 1] != '\n';
            left.remove_prefix(static_cast<size_t>(written));
        } else if (written < 0 && errno == EAGAIN) {
            pollfd waiting{descriptor_, POLLOUT, 0};
            if (::poll(&waiting, 1, patience_milliseconds) == 0) {
                errno = EAGAIN;
                return false;
            }
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

void Store::File::succeeded(size_t lines) {
    bool recovered = false;
    {
        std::lock_guard lock(mutex_);
        written_ += lines;
        recovered = !error_.empty();
        error_.clear();
    }
    if (recovered && report_) report_(true, "the flow file is written again");
}

void Store::File::failed(size_t lines, const std::string& doing, int number) {
    const std::string message =
        fmt::format("cannot {}: {}; finished flows are not written to it until that is repaired", doing,
                    std::generic_category().message(number));
    bool first = false;
    {
        std::lock_guard lock(mutex_);
        dropped_ += lines;
        first = error_.empty();
        error_ = message;
    }
    if (first && report_) report_(false, message);
}

}  // namespace marchproxy::flow
