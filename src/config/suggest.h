// "Did you mean": the nearest of some words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace marchproxy::config {

// Insertions, deletions, replacements and swaps of neighbours that turn one into the other (optimal string alignment;
// F. Damerau, "A technique for computer detection and correction of spelling errors", 1964).
size_t edit_distance(std::string_view a, std::string_view b);

// The nearest candidate within a third of the word's length (1 to 3); empty: none is near.
std::string_view nearest(std::string_view word, const std::vector<std::string_view>& candidates);

}  // namespace marchproxy::config
