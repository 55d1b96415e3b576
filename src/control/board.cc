#include "control/board.h"

#include <utility>

#include "version.h"

namespace marchproxy::control {

Board::Board() {
    status_.version = MARCHPROXY_VERSION;
    status_.commit = MARCHPROXY_COMMIT;
    status_.started = std::chrono::system_clock::now();
}

void Board::set_state(admin::ProcessState state) {
    const std::lock_guard lock(mutex_);
    status_.state = state;
}

void Board::published(SnapshotPointer snapshot) {
    const std::lock_guard lock(mutex_);
    snapshot_ = std::move(snapshot);
}

void Board::reload_succeeded() {
    const std::lock_guard lock(mutex_);
    ++status_.reload.succeeded;
    status_.reload.last = std::chrono::system_clock::now();
    status_.reload.last_error.clear();
}

void Board::reload_failed(std::string why) {
    const std::lock_guard lock(mutex_);
    ++status_.reload.failed;
    status_.reload.last = std::chrono::system_clock::now();
    status_.reload.last_error = std::move(why);
}

void Board::note(const std::string& topic, std::vector<std::string> notes) {
    const std::lock_guard lock(mutex_);
    if (notes.empty())
        notes_.erase(topic);
    else
        notes_[topic] = std::move(notes);
}

SnapshotPointer Board::snapshot() const {
    const std::lock_guard lock(mutex_);
    return snapshot_;
}

admin::ProcessStatus Board::status() const {
    const std::lock_guard lock(mutex_);
    admin::ProcessStatus status = status_;
    status.uptime = Clock::now() - started_;
    for (const auto& [topic, notes] : notes_)
        status.notes.insert(status.notes.end(), notes.begin(), notes.end());
    return status;
}

}  // namespace marchproxy::control
