// Reload requests from other threads to the control thread, and wake-ups for it: a descriptor to poll, and futures for
// those who wait for the outcome.
#pragma once

#include <future>
#include <mutex>
#include <vector>

#include "model/descriptor.h"
#include "model/result.h"

namespace marchproxy::control {

class Mailbox {
  public:
    Mailbox();

    void wake();            // any thread: the resolver has news
    Result<void> reload();  // any thread but the control thread: waits for the outcome

    // The control thread's side.
    int descriptor() const { return wake_.get(); }  // readable: something came
    void drain_wakes();
    std::vector<std::promise<Result<void>>> take_reloads();
    void close(const std::string& why);  // refuses what waits and all that comes: nobody will take it any more

  private:
    Descriptor wake_;
    std::mutex mutex_;
    std::vector<std::promise<Result<void>>> reloads_;
    std::string closed_;  // why; empty: open
};

}  // namespace marchproxy::control
