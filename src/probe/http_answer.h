// Whether what came back from an http probe is what was wanted. Pure; the bytes are anybody's.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/snapshot.h"

namespace marchproxy::probe {

// No more of an answer is looked at.
inline constexpr size_t most_of_an_answer = 64 << 10;

// `answer`: what has come so far; `over`: nothing more comes. Nothing: not to be said yet; empty: it is; else why it is
// not, in words.
std::optional<std::string> judge(std::string_view answer, bool over, const ProbeSettings& settings);

}  // namespace marchproxy::probe
