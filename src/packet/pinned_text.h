// A text in the BPF file system, which takes no files: it lies in a map of one element. It lives as long as the
// programs that it tells of, and is gone with them when the machine starts anew. Thread: the control thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/result.h"

namespace marchproxy::packet {

// Takes the place of the text there at once: a reader finds one or the other.
Result<void> write_pinned_text(const std::string& path, std::string_view text);

// Nothing: there is none.
std::optional<std::string> read_pinned_text(const std::string& path);

}  // namespace marchproxy::packet
