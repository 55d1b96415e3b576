#include "admin/events.h"

namespace marchproxy::admin {

Events::Events(unsigned most_subscribers, Duration interval, std::function<std::string()> make)
    : most_subscribers_(most_subscribers), interval_(interval), make_(std::move(make)) {}

std::shared_ptr<Events::Subscription> Events::subscribe() {
    std::lock_guard lock(mutex_);
    if (subscribers_ >= most_subscribers_ || stopped_) return nullptr;
    ++subscribers_;
    return std::make_shared<Subscription>(*this);
}

Events::Subscription::~Subscription() {
    std::lock_guard lock(events_.mutex_);
    --events_.subscribers_;
}

std::optional<std::string> Events::Subscription::next() {
    std::unique_lock lock(events_.mutex_);
    while (!events_.stopped_) {
        events_.make_if_due(lock);
        if (events_.number_ > seen_) {
            seen_ = events_.number_;
            return "data: " + events_.event_ + "\n\n";
        }
        events_.changed_.wait_until(lock, events_.next_);
    }
    return std::nullopt;
}

// The first subscriber to find that it is time makes the event, outside the lock; the others wait for it.
void Events::make_if_due(std::unique_lock<std::mutex>& lock) {
    const TimePoint now = Clock::now();
    if (making_ || now < next_) return;
    making_ = true;
    next_ = now + interval_;
    lock.unlock();
    std::string event;
    try {
        event = make_();
    } catch (...) {
        lock.lock();
        making_ = false;
        throw;
    }
    lock.lock();
    event_ = std::move(event);
    ++number_;
    making_ = false;
    changed_.notify_all();
}

void Events::stop() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
}

}  // namespace marchproxy::admin
