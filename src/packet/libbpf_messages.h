// While one lives, what libbpf would print on stderr is kept instead: its last warnings say more than the error number,
// and the verifier's log would be thousands of lines. libbpf has one printer a process: the control thread only.
#pragma once

#include <bpf/libbpf.h>

#include <string>

namespace marchproxy::packet {

class LibbpfMessages {
  public:
    LibbpfMessages();
    ~LibbpfMessages();
    LibbpfMessages(const LibbpfMessages&) = delete;
    LibbpfMessages& operator=(const LibbpfMessages&) = delete;

    // The last lines of the last warning with a text of its own, at most some hundred bytes; empty: there was none.
    static const std::string& last();

  private:
    libbpf_print_fn_t printer_;
};

}  // namespace marchproxy::packet
