// The service manager's notification protocol (sd_notify(3)): newline-separated NAME=value in one datagram to the unix
// socket that $NOTIFY_SOCKET names. Written directly, so that the binary needs no libsystemd.
// Thread: the control thread. Every message is best effort: a manager that is gone must not stop the proxy.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "model/result.h"
#include "model/units.h"

namespace marchproxy::control {

class Notifier {
  public:
    // An absolute path, or '@' and an abstract name. Empty: there is no manager and every call does nothing.
    explicit Notifier(std::string socket);
    ~Notifier();
    Notifier(const Notifier&) = delete;
    Notifier& operator=(const Notifier&) = delete;

    static std::string socket_from_environment();  // $NOTIFY_SOCKET
    // How often the manager wants to hear WATCHDOG=1: half of $WATCHDOG_USEC, absent when it does not watch this
    // process.
    static std::optional<Duration> watchdog_interval_from_environment();

    Result<void> ready(std::string_view status);
    Result<void> reloading();  // with MONOTONIC_USEC, as Type=notify-reload demands; ready() ends it
    Result<void> stopping(std::string_view status);
    Result<void> status(std::string_view status);
    Result<void> main_process(pid_t process);
    Result<void> watchdog();

  private:
    Result<void> send(const std::string& message);

    std::string socket_;
    int descriptor_ = -1;
};

}  // namespace marchproxy::control
