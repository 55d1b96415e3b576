#include "config/problems.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "config/document.h"

namespace marchproxy::config {

std::string to_string(const Problem& problem) {
    std::string text;
    if (!problem.file.empty()) {
        text = problem.file + ":";
        if (problem.line > 0) text += fmt::format("{}:{}:", problem.line, problem.column);
        text += " ";
    }
    if (!problem.key.empty()) text += problem.key + ": ";
    return text + problem.message;
}

void Problems::add(Problem problem) {
    if (full())
        ++left_out_;
    else
        found_.push_back(std::move(problem));
}

void Problems::at(int line, int column, std::string key, std::string message) {
    add({file_, line, column, std::move(key), std::move(message)});
}

void Problems::at_value(const Node& node, std::string_view key, std::string message) {
    if (node.given_by) return elsewhere(*node.given_by, std::move(message));
    at(node.line, node.column, std::string(key), std::move(message));
}

void Problems::at_key(const Node& node, std::string_view key, std::string message) {
    if (node.key_line == 0) return at_value(node, key, std::move(message));
    if (node.given_by) return elsewhere(*node.given_by, std::move(message));
    at(node.key_line, node.key_column, std::string(key), std::move(message));
}

void Problems::at_owner(const Node& node, std::string_view key, std::string_view message) {
    at_value(node, key, node.given_by ? fmt::format("{} {}", key, message) : std::string(message));
}

void Problems::elsewhere(std::string source, std::string message) {
    add({"", 0, 0, std::move(source), std::move(message)});
}

std::vector<Problem> Problems::take() {
    std::stable_sort(found_.begin(), found_.end(), [](const Problem& a, const Problem& b) {
        return std::tuple(a.file.empty(), a.line, a.column) < std::tuple(b.file.empty(), b.line, b.column);
    });
    if (left_out_ > 0) found_.push_back({file_, 0, 0, "", fmt::format("and {} more problems", left_out_)});
    return std::move(found_);
}

}  // namespace marchproxy::config
