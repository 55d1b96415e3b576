#include "config/document.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <istream>
#include <streambuf>
#include <unordered_map>
#include <utility>

#include "model/quote.h"

namespace marchproxy::config {
namespace {

constexpr size_t max_bytes = 64U << 20;
constexpr size_t max_depth = 64;
constexpr size_t longest_key = 128;
constexpr size_t max_values = 2'000'000;

// Ends the parse from within an event; the place is already in `mark`.
struct Refusal {
    YAML::Mark mark;
    std::string key;
    std::string message;
};

class TreeBuilder : public YAML::EventHandler {
  public:
    explicit TreeBuilder(Problems& problems) : problems_(problems) {}

    Node take() { return std::move(root_); }

    void OnDocumentStart(const YAML::Mark& mark) override {
        if (std::exchange(started_, true)) refuse(mark, "a second document begins here; one file holds one document");
    }
    void OnDocumentEnd() override {}

    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        refuse_anchor(mark, anchor);
        if (expects_key()) refuse(mark, "a key is missing before \":\"");
        value(mark, Node::Kind::null);
    }
    void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
        refuse(mark, "aliases (*name) are not supported; write the value out");
    }
    void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  const std::string& text) override {
        refuse_anchor(mark, anchor);
        refuse_tag(mark, tag);
        if (expects_key()) return key(mark, text);
        value(mark, Node::Kind::scalar).text = text;
    }
    void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                         YAML::EmitterStyle::value) override {
        open(mark, tag, anchor, Node::Kind::list);
    }
    void OnSequenceEnd() override { open_.pop_back(); }
    void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                    YAML::EmitterStyle::value) override {
        open(mark, tag, anchor, Node::Kind::map);
    }
    void OnMapEnd() override {
        report_duplicates(*open_.back().node);
        open_.pop_back();
    }

  private:
    struct Open {
        Node* node;  // the last child of the one before, which therefore does not move while this one is open
        bool has_key = false;
    };

    [[noreturn]] void refuse(const YAML::Mark& mark, std::string message) const {
        throw Refusal{mark, path(), std::move(message)};
    }
    void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
        if (anchor != 0) refuse(mark, "anchors (&name) are not supported; write the value out where it is used");
    }
    void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
        const bool implied = tag.empty() || tag == "?" || tag == "!";
        if (!implied) refuse(mark, fmt::format("tags ({}) are not supported; remove it", quoted(tag)));
    }

    bool expects_key() const {
        return !open_.empty() && open_.back().node->kind == Node::Kind::map && !open_.back().has_key;
    }

    void key(const YAML::Mark& mark, const std::string& text) {
        const bool plain = text.size() <= longest_key && text_length(text) == text.size();
        if (!plain) refuse(mark, fmt::format("{} is not a key; keys are short words", quoted(text)));
        Node& child = open_.back().node->children.emplace_back();
        child.key = text;
        child.key_line = mark.line + 1;
        child.key_column = mark.column + 1;
        open_.back().has_key = true;
    }

    Node& value(const YAML::Mark& mark, Node::Kind kind) {
        if (++values_ > max_values) refuse(mark, fmt::format("more than {} values; split the load", max_values));
        Node* node = &root_;
        if (!open_.empty()) {
            Open& parent = open_.back();
            if (!std::exchange(parent.has_key, false)) parent.node->children.emplace_back();
            node = &parent.node->children.back();
        }
        node->kind = kind;
        // yaml-cpp gives no place to a value that is not there; its key's is the nearest.
        node->line = mark.is_null() ? node->key_line : mark.line + 1;
        node->column = mark.is_null() ? node->key_column : mark.column + 1;
        return *node;
    }

    void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, Node::Kind kind) {
        refuse_anchor(mark, anchor);
        refuse_tag(mark, tag);
        if (expects_key()) refuse(mark, "a key must be a word, not a list or a map");
        if (open_.size() >= max_depth) refuse(mark, fmt::format("nested deeper than {} levels", max_depth));
        open_.push_back({&value(mark, kind)});
    }

    // Through an index: a hostile file makes large maps. What is given again is dropped, so that the rest may rely on
    // one value a key.
    void report_duplicates(Node& map) {
        std::unordered_map<std::string_view, const Node*> seen;
        std::vector<size_t> repeated;
        seen.reserve(map.children.size());
        const std::string parent = path();
        for (size_t i = 0; i < map.children.size(); ++i) {
            const Node& child = map.children[i];
            const auto [first, fresh] = seen.emplace(child.key, &child);
            if (fresh) continue;
            repeated.push_back(i);
            problems_.at_key(child, parent.empty() ? child.key : parent + "." + child.key,
                             fmt::format("is given twice; first on line {}", first->second->key_line));
        }
        if (repeated.empty()) return;
        size_t next = 0, index = 0;
        std::erase_if(map.children, [&](const Node&) {
            const bool drop = next < repeated.size() && repeated[next] == index++;
            if (drop) ++next;
            return drop;
        });
    }

    std::string path() const {
        std::string text;
        for (size_t i = 0; i < open_.size(); ++i) {
            const Node& node = *open_[i].node;
            const bool last = i + 1 == open_.size();
            if (last && (node.kind == Node::Kind::list || !open_[i].has_key)) break;
            if (node.kind == Node::Kind::list)
                text += fmt::format("[{}]", node.children.size() - 1);
            else
                text += (text.empty() ? "" : ".") + node.children.back().key;
        }
        return text;
    }

    Problems& problems_;
    Node root_;
    std::vector<Open> open_;
    size_t values_ = 0;
    bool started_ = false;
};

// Reads a text in place; std::istringstream would copy it.
class ViewBuffer : public std::streambuf {
  public:
    explicit ViewBuffer(std::string_view text) {
        char* begin = const_cast<char*>(text.data());
        setg(begin, begin, begin + text.size());
    }
};

// The length of the UTF-8 sequence that begins here, 0 for none (RFC 3629); control characters other than tab and
// line ends count as none.
size_t character_length(std::string_view text) {
    const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
    const auto follows = [&](size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
    const unsigned first = byte(0);
    if (first < 0x20) return first == '\t' || first == '\n' || first == '\r' ? 1 : 0;
    if (first < 0x80) return first == 0x7f ? 0 : 1;
    if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
    if (first >= 0xe0 && first <= 0xef) {
        const bool overlong = first == 0xe0 && byte(1) < 0xa0;
        const bool surrogate = first == 0xed && byte(1) >= 0xa0;
        return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        const bool overlong = first == 0xf0 && byte(1) < 0x90;
        const bool beyond = first == 0xf4 && byte(1) >= 0x90;
        return follows(1) && follows(2) && follows(3) && !overlong && !beyond ? 4 : 0;
    }
    return 0;
}

bool is_text(std::string_view yaml, Problems& problems) {
    const size_t end = text_length(yaml);
    if (end == yaml.size()) return true;
    const std::string_view before = yaml.substr(0, end);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const size_t line_end = before.rfind('\n');
    const size_t column = line_end == std::string_view::npos ? end + 1 : end - line_end;
    problems.at(static_cast<int>(line), static_cast<int>(column), "",
                fmt::format("byte 0x{:02x} is not text; the file must be YAML in UTF-8",
                            static_cast<unsigned char>(yaml[end])));
    return false;
}

std::string too_large() {
    return fmt::format("is larger than {} MiB; a configuration must not be", max_bytes >> 20);
}

}  // namespace

Node* Node::child(std::string_view name) {
    return const_cast<Node*>(std::as_const(*this).child(name));
}

const Node* Node::child(std::string_view name) const {
    if (kind != Kind::map) return nullptr;
    for (const Node& candidate : children)
        if (candidate.key == name) return &candidate;
    return nullptr;
}

const Node* Node::find(std::string_view dotted) const {
    const Node* node = this;
    while (node && !dotted.empty()) {
        const size_t dot = dotted.find('.');
        node = node->child(dotted.substr(0, dot));
        dotted = dot == std::string_view::npos ? "" : dotted.substr(dot + 1);
    }
    return node;
}

Node parse_document(std::string_view yaml, Problems& problems) {
    if (yaml.size() > max_bytes) {
        problems.at(0, 0, "", too_large());
        return {};
    }
    if (!is_text(yaml, problems)) return {};

    ViewBuffer buffer(yaml);
    std::istream stream(&buffer);
    TreeBuilder builder(problems);
    try {
        YAML::Parser parser(stream);
        while (parser.HandleNextDocument(builder)) {
        }
    } catch (const Refusal& refusal) {
        problems.at(refusal.mark.line + 1, refusal.mark.column + 1, refusal.key, refusal.message);
        return {};
    } catch (const YAML::Exception& error) {
        problems.at(error.mark.line + 1, error.mark.column + 1, "", "is not valid YAML: " + error.msg);
        return {};
    }

    Node root = builder.take();
    if (root.kind == Node::Kind::null) {
        problems.at(0, 0, "", "is empty; write at least one key, or leave the file out to run on defaults");
    } else if (root.kind != Node::Kind::map) {
        problems.at(root.line, root.column, "", "must be a map of keys, such as \"listen: { port: 8080 }\"");
        return {};
    }
    return root;
}

size_t text_length(std::string_view text) {
    size_t at = 0;
    while (at < text.size()) {
        const size_t length = character_length(text.substr(at, 4));
        if (length == 0) break;
        at += length;
    }
    return at;
}

std::optional<std::string> read_document(const std::string& path, Problems& problems) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    std::string text;
    ssize_t count = -1;
    if (descriptor >= 0) {
        std::vector<char> chunk(1U << 18);
        while (text.size() <= max_bytes) {
            count = read(descriptor, chunk.data(), chunk.size());
            if (count < 0 && errno == EINTR) continue;
            if (count <= 0) break;
            text.append(chunk.data(), static_cast<size_t>(count));
        }
    }
    const int error = count < 0 ? errno : 0;
    if (descriptor >= 0) close(descriptor);
    if (error != 0) {
        problems.at(0, 0, "", fmt::format("cannot be read: {}; check the path and its permissions", strerror(error)));
        return std::nullopt;
    }
    if (text.size() > max_bytes) {
        problems.at(0, 0, "", too_large());
        return std::nullopt;
    }
    return text;
}

}  // namespace marchproxy::config
