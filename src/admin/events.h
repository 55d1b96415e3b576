// The event stream (server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html): one JSON of
// totals a second, made once for all subscribers.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "model/units.h"

namespace marchproxy::admin {

class Events {
  public:
    Events(unsigned most_subscribers, Duration interval, std::function<std::string()> make);

    // Holds one of the places while it lives.
    class Subscription {
      public:
        explicit Subscription(Events& events) : events_(events) {}
        ~Subscription();
        Subscription(const Subscription&) = delete;
        Subscription& operator=(const Subscription&) = delete;

        // The next event as it goes over the wire: the first at once, then one an interval. Nothing: stop() was called.
        std::optional<std::string> next();

      private:
        Events& events_;
        uint64_t seen_ = 0;
    };
    std::shared_ptr<Subscription> subscribe();  // null: all places are taken

    void stop();  // wakes all subscribers, for good

  private:
    void make_if_due(std::unique_lock<std::mutex>& lock);

    const unsigned most_subscribers_;
    const Duration interval_;
    const std::function<std::string()> make_;

    std::mutex mutex_;
    std::condition_variable changed_;
    bool stopped_ = false;
    unsigned subscribers_ = 0;
    bool making_ = false;
    std::string event_;
    uint64_t number_ = 0;
    TimePoint next_{};
};

}  // namespace marchproxy::admin
