#include "stream/pipe_pool.h"

#include <fcntl.h>
#include <unistd.h>

namespace marchproxy::stream {

PipePool::~PipePool() {
    for (const Pipe& pipe : idle_)
        discard(pipe);
}

bool PipePool::borrow(Pipe& pipe) {
    if (!idle_.empty()) {
        pipe = idle_.back();
        idle_.pop_back();
        return true;
    }
    starved_ = true;  // until one was had
    if (!budget_.take_for_pipe()) return false;
    int ends[2];
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) {
        budget_.give_back(2);
        return false;
    }
    pipe = {ends[0], ends[1], 0};
    // A request above the user's allowance is refused, not cut down: halve it until one is granted.
    for (size_t wanted = capacity_; wanted >= smallest_useful && pipe.capacity == 0; wanted /= 2) {
        const int granted = fcntl(pipe.write_end, F_SETPIPE_SZ, static_cast<int>(wanted));
        if (granted > 0) pipe.capacity = static_cast<size_t>(granted);
    }
    if (pipe.capacity == 0) {
        discard(pipe);
        return false;
    }
    starved_ = false;
    return true;
}

void PipePool::give_back(Pipe pipe) {
    if (idle_.size() < keep)
        idle_.push_back(pipe);
    else
        discard(pipe);
}

void PipePool::discard(Pipe pipe) {
    close(pipe.read_end);
    close(pipe.write_end);
    budget_.give_back(2);
}

}  // namespace marchproxy::stream
