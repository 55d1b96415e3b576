#include "config/overlay.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <span>
#include <unordered_map>
#include <utility>

#include "config/suggest.h"

namespace marchproxy::config {
namespace {

constexpr std::string_view prefix = "MARCHPROXY_";

// One step from a map to a key, or from a list to an element.
struct Step {
    std::string key;
    size_t element = 0;  // where the key is empty
    auto operator<=>(const Step&) const = default;
};

struct Override {
    std::vector<Step> steps;
    const Option* option;
    std::string source;  // "environment LISTEN_PORT"
    std::string text;
};

std::vector<std::string_view> split(std::string_view text, std::string_view separator) {
    std::vector<std::string_view> parts;
    while (true) {
        const size_t end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + separator.size());
    }
}

std::string upper(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    return out;
}

// The steps of a key, with the numbers that `elements` holds for its lists.
std::vector<Step> steps_of(std::string_view key, const std::vector<size_t>& elements) {
    std::vector<Step> steps;
    size_t next = 0;
    for (std::string_view part : split(key, ".")) {
        const bool list = part.ends_with("[]");
        if (list) part.remove_suffix(2);
        steps.push_back({std::string(part)});
        if (list) steps.push_back({"", elements[next++]});
    }
    return steps;
}

// Kubernetes tells every container where the services of its namespace are, in variables named after them; one called
// "marchproxy" would otherwise keep the proxy from starting (kubernetes.io, "Accessing the Service": Docker links).
bool is_service_link(std::string_view name, std::string_view value) {
    if (name.find("__") != std::string_view::npos) return false;  // ours
    const auto has = [name](std::string_view part) { return name.find(part) != std::string_view::npos; };
    const bool is_url = value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
    return has("_SERVICE_HOST") || has("_SERVICE_PORT") || has("_PORT_") || (name.ends_with("_PORT") && is_url);
}

class Overlay {
  public:
    Overlay(Node& root, const Tables& tables, Problems& problems) : root_(root), tables_(tables), problems_(problems) {
        for (const Option& option : tables.options())
            if (!option.elements) by_variable_.emplace(environment_name(option.key), &option);
    }

    // The names of the contract's table. An empty one counts as unset, as it does for most programs: compose files
    // write LISTEN_PORT=${LISTEN_PORT:-}.
    void short_names(const std::map<std::string, std::string>& environment) {
        for (const Option& option : tables_.options()) {
            if (option.environment.empty()) continue;
            for (const std::string_view name : split(option.environment, ",")) {
                const auto found = environment.find(std::string(name));
                if (found == environment.end() || found->second.empty()) continue;
                put({steps_of(option.key, {}), &option, fmt::format("environment {}", name), found->second});
                break;
            }
        }
    }

    void long_names(const std::map<std::string, std::string>& environment) {
        std::vector<Override> overrides;
        for (auto at = environment.lower_bound(std::string(prefix)); at != environment.end(); ++at) {
            const auto& [name, text] = *at;
            if (!name.starts_with(prefix)) break;
            const bool for_others = name == "MARCHPROXY_CONFIG" || name.starts_with("MARCHPROXY_INTERNAL_");
            if (!for_others && !is_service_link(name, text)) read_long_name(name, text, overrides);
        }
        // services[2] before services[10], so that elements can be appended one after the other.
        std::stable_sort(overrides.begin(), overrides.end(),
                         [](const Override& a, const Override& b) { return a.steps < b.steps; });
        for (const Override& override : overrides)
            put(override);
    }

    void flags(const std::map<std::string, std::string>& flags) {
        for (const auto& [key, text] : flags) {
            const auto same = [&key = key](const Option& option) { return option.key == key; };
            const auto option = std::find_if(tables_.options().begin(), tables_.options().end(), same);
            if (option == tables_.options().end() || key.find('[') != std::string::npos) {
                problems_.elsewhere("flag for " + key, "there is no such key");
                continue;
            }
            const std::string_view names = option->flag;
            const std::string_view longest = names.substr(names.find("--") == std::string::npos ? 0 : names.find("--"));
            put({steps_of(key, {}), &*option, fmt::format("flag {}", longest.empty() ? key : longest), text});
        }
    }

  private:
    void read_long_name(const std::string& name, const std::string& text, std::vector<Override>& overrides) {
        const std::vector<std::string_view> parts = split(name, "__");
        std::string pattern(parts.front());
        std::vector<size_t> elements;
        for (const std::string_view part : std::span(parts).subspan(1)) {
            size_t element = 0;
            const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), element);
            const bool number = error == std::errc{} && end == part.data() + part.size();
            if (number) elements.push_back(element);
            pattern += fmt::format("__{}", number ? "N" : part);
        }
        const auto found = by_variable_.find(pattern);
        const bool known = found != by_variable_.end();
        const auto lists = known ? std::count(found->second->key.begin(), found->second->key.end(), '[') : 0;
        if (!known || static_cast<size_t>(lists) != elements.size()) return report_unknown(name, pattern);
        overrides.push_back(
            {steps_of(found->second->key, elements), found->second, fmt::format("environment {}", name), text});
    }

    void report_unknown(const std::string& name, const std::string& pattern) {
        std::vector<std::string_view> known;
        for (const auto& [variable, option] : by_variable_)
            known.push_back(variable);
        std::sort(known.begin(), known.end());
        const std::string_view near = nearest(pattern, known);
        problems_.elsewhere("environment " + name, near.empty()
                                                       ? "names no key; unset it, or see the reference for the names"
                                                       : fmt::format("names no key; did you mean {}?", near));
    }

    void put(const Override& override) {
        const auto source = std::make_shared<const std::string>(override.source);
        Node* node = &root_;
        std::string path;
        for (const Step& step : override.steps) {
            const bool to_key = !step.key.empty();
            const Node::Kind kind = to_key ? Node::Kind::map : Node::Kind::list;
            if (node->kind == Node::Kind::null) {
                node->kind = kind;
                node->given_by = source;
            }
            if (node->kind != kind)
                return problems_.elsewhere(override.source, fmt::format("cannot be set: {} is not a {} in the file",
                                                                        path, to_key ? "map" : "list"));
            Node* next = to_key ? node->child(step.key) : element(*node, step.element);
            if (!to_key && step.element > node->children.size())
                return problems_.elsewhere(
                    override.source, fmt::format("there are {} of {}; the next is number {}", node->children.size(),
                                                 path, node->children.size()));
            if (!next) {
                next = &node->children.emplace_back();
                next->key = step.key;
                next->given_by = source;
            }
            path += to_key ? (path.empty() ? "" : ".") + step.key : fmt::format("[{}]", step.element);
            node = next;
        }
        replace(*node, *override.option, source, override.text);
    }

    static Node* element(Node& list, size_t number) {
        return number < list.children.size() ? &list.children[number] : nullptr;
    }

    static void replace(Node& node, const Option& option, const std::shared_ptr<const std::string>& source,
                        const std::string& text) {
        Node fresh;
        fresh.kind = option.list ? Node::Kind::list : Node::Kind::scalar;
        fresh.key = node.key;
        fresh.given_by = source;
        fresh.text = text;
        if (option.list && !text.empty()) {
            for (const std::string_view part : split(text, ",")) {
                Node& child = fresh.children.emplace_back();
                child.kind = Node::Kind::scalar;
                child.given_by = source;
                child.text = part;
            }
        }
        if (node.kind != Node::Kind::null) fresh.replaced = std::make_unique<Node>(std::move(node));
        node = std::move(fresh);
    }

    Node& root_;
    const Tables& tables_;
    Problems& problems_;
    std::unordered_map<std::string, const Option*> by_variable_;
};

}  // namespace

std::string environment_name(std::string_view key) {
    std::string name;
    for (std::string_view part : split(key, ".")) {
        const bool list = part.ends_with("[]");
        if (list) part.remove_suffix(2);
        name += (name.empty() ? "" : "__") + upper(part) + (list ? "__N" : "");
    }
    return std::string(prefix) + name;
}

void overlay(Node& root, const Sources& sources, const Tables& tables, Problems& problems) {
    Overlay layers(root, tables, problems);
    layers.short_names(sources.environment);
    layers.long_names(sources.environment);
    layers.flags(sources.flags);
}

}  // namespace marchproxy::config
