#include "control/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

namespace marchproxy::control {

Signals::Signals() {
    sigset_t handled;
    ::sigemptyset(&handled);
    for (const int signal : {SIGHUP, SIGTERM, SIGINT, SIGUSR2})
        ::sigaddset(&handled, signal);
    ::pthread_sigmask(SIG_BLOCK, &handled, &before_);
    ::signal(SIGPIPE, SIG_IGN);
    descriptor_ = Descriptor::required(::signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd");
}

std::optional<int> Signals::next() {
    signalfd_siginfo info{};
    if (::read(descriptor_.get(), &info, sizeof info) != sizeof info) return std::nullopt;
    return static_cast<int>(info.ssi_signo);
}

}  // namespace marchproxy::control
