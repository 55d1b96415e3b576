// Where problems are gathered: bounded, so that a hostile file cannot make more of them than anyone would read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/load.h"

namespace marchproxy::config {

struct Node;

class Problems {
  public:
    static constexpr size_t limit = 1000;

    explicit Problems(std::string file) : file_(std::move(file)) {}

    void at(int line, int column, std::string key, std::string message);  // in the file; 0: the file as a whole
    void at_value(const Node& node, std::string_view key, std::string message);
    void at_key(const Node& node, std::string_view key, std::string message);
    // Something below the node is missing: `key` names what.
    void at_owner(const Node& node, std::string_view key, std::string_view message);
    void elsewhere(std::string source, std::string message);  // "flag --workers"

    bool full() const { return found_.size() >= limit; }
    bool empty() const { return found_.empty(); }
    // In the order of the file, then environment and flags; a last one counts those beyond the limit.
    std::vector<Problem> take();

  private:
    void add(Problem problem);

    std::string file_;
    std::vector<Problem> found_;
    size_t left_out_ = 0;
};

}  // namespace marchproxy::config
