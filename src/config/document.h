// A YAML text as a bounded tree in which every value knows where it came from.
//
// Refused with their place: more than 64 MiB, control characters or bytes that are not UTF-8, nesting deeper than 64,
// more than 2 million values, anchors, aliases, tags, second documents, keys that are not plain words, a key given
// twice. Source of the grammar: YAML 1.2 (yaml.org/spec/1.2), read by yaml-cpp's event interface, never by its own
// tree.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/problems.h"

namespace marchproxy::config {

struct Node {
    enum class Kind : uint8_t { null, scalar, list, map };

    Kind kind = Kind::null;
    bool refused = false;      // a problem with its value has been reported: no further check may trust it
    int line = 0, column = 0;  // of the value
    int key_line = 0, key_column = 0;
    std::string key;                              // within a map
    std::string text;                             // of a scalar
    std::vector<Node> children;                   // of a list or a map
    std::shared_ptr<const std::string> given_by;  // "environment LISTEN_PORT"; null: the file
    std::unique_ptr<Node> replaced;               // what the file said before a variable or flag took its place

    Node* child(std::string_view name);
    const Node* child(std::string_view name) const;
    // "limits.connections" below this node; null where it is not given.
    const Node* find(std::string_view dotted) const;
};

// A null node where the text cannot be used at all; `problems` then says why.
Node parse_document(std::string_view yaml, Problems& problems);

// Where `text` stops being printable UTF-8 (RFC 3629; tab and line ends count as printable); its size if nowhere.
size_t text_length(std::string_view text);

// The text of a file, within the size limit; nothing, and a problem, where it cannot be read.
std::optional<std::string> read_document(const std::string& path, Problems& problems);

}  // namespace marchproxy::config
