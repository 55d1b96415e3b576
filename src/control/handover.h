// Listening sockets from one process image to the next, so that no connection attempt is refused while the binary is
// replaced: by number in the environment (ours at SIGUSR2), or as the service manager hands them over
// (sd_listen_fds(3): LISTEN_PID, LISTEN_FDS).
// Thread: the control thread.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/descriptor.h"
#include "model/result.h"
#include "stream/plane.h"

namespace marchproxy::control {

// "3-6,9": ten thousand services' sockets have to fit into one environment variable.
std::string format_numbers(std::vector<int> numbers);
std::optional<std::vector<int>> parse_numbers(std::string_view text);

struct Inherited {
    std::vector<stream::ListeningSocket> sockets;  // close-on-exec again
    Descriptor ready_pipe;                         // the predecessor waits for a byte on it
    std::string drains;                            // what was drained there (drains.h)
    std::vector<std::string> problems;             // descriptors that were named and are of no use
};

// Takes the variables out of the environment, so that neither the configuration nor a child sees them. Before any
// other thread runs.
Inherited take_inherited();

// The plane wants a socket for each of its workers and opens what is missing, sharing the port by SO_REUSEPORT. Sockets
// that a service manager opened have no such option, and the kernel shares a port between sockets of one user only: of
// a TCP listener each worker gets a duplicate instead, a UDP socket gets the option, which works where manager and
// proxy are the same user (duplicates would spread a client's datagrams over the workers).
void share_out(std::vector<stream::ListeningSocket>& sockets, unsigned workers);

// The path this process was started by, absolute: the one a new binary is put at. /proc/self/exe alone would follow
// a symbolic link to the old version, and says "(deleted)" once the file was replaced.
std::string path_of_this_program();

// A process that is to take over.
class Successor {
  public:
    // Starts `program` with `arguments` (the first one is its name), this environment, the listeners under the numbers
    // they have here, and what is drained. The listeners stay the caller's.
    static Result<Successor> start(const std::string& program, const std::vector<std::string>& arguments,
                                   const std::vector<stream::ListeningSocket>& listeners, const std::string& drains,
                                   const sigset_t& signal_mask);
    Successor(Successor&&) = default;
    Successor& operator=(Successor&&) = default;
    ~Successor();  // kills it, unless it was released

    pid_t process() const { return process_; }
    int ready_descriptor() const { return ready_.get(); }  // readable: is_ready() knows more

    enum class Answer { none, ready, gone };
    Answer answer();

    std::string end();  // kills it where it still runs, and says in words how it ended
    void release();     // it goes on without us

  private:
    Successor(pid_t process, Descriptor ready) : process_(process), ready_(std::move(ready)) {}

    pid_t process_ = -1;
    Descriptor ready_;
};

}  // namespace marchproxy::control
