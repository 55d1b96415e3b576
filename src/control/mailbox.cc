#include "control/mailbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

namespace marchproxy::control {

Mailbox::Mailbox() : wake_(Descriptor::required(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {}

void Mailbox::wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);  // full: it is awake already
}

Result<void> Mailbox::reload() {
    std::future<Result<void>> outcome;
    {
        const std::lock_guard lock(mutex_);
        if (!closed_.empty()) return Error{closed_};
        outcome = reloads_.emplace_back().get_future();
    }
    wake();
    return outcome.get();
}

void Mailbox::drain_wakes() {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t drained = ::read(wake_.get(), &count, sizeof count);
}

std::vector<std::promise<Result<void>>> Mailbox::take_reloads() {
    const std::lock_guard lock(mutex_);
    return std::exchange(reloads_, {});
}

void Mailbox::close(const std::string& why) {
    const std::lock_guard lock(mutex_);
    closed_ = why;
    for (auto& reload : std::exchange(reloads_, {}))
        reload.set_value(Error{why});
}

}  // namespace marchproxy::control
