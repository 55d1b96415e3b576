// Reading nodes into members: the generic half of what a row of options.def does. Included by table.cc alone.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/form.h"
#include "config/table.h"

namespace marchproxy::config {

std::string_view describe(Node::Kind kind);  // "a list"
bool needs_feature(const Needs& need, std::string_view value);
std::string refusal(const Needs& need, std::string_view value, const Node& node);

inline void refuse(Node& node, const std::string& path, std::string message, const Binding& binding) {
    node.refused = true;
    binding.problems.at_value(node, path, std::move(message));
}

// The value as users write it, text without its quotation marks.
template <class T>
std::string word_of(const T& value) {
    if constexpr (std::is_same_v<T, std::string>)
        return value;
    else
        return Codec<T>::text(value);
}

inline void refuse_missing_feature(Node& node, const std::string& path, std::string_view value, const Needs& need,
                                   const Binding& binding) {
    if (binding.types_only || !needs_feature(need, value)) return;
    binding.problems.at_key(node, path, refusal(need, value, node));
}

// A scalar's text, fit to be parsed.
inline std::optional<std::string_view> read_text(Node& node, const std::string& path, const std::string& type,
                                                 const Binding& binding) {
    if (node.kind == Node::Kind::null) {
        refuse(node, path, fmt::format("has no value; expected: {}", type), binding);
    } else if (node.kind != Node::Kind::scalar) {
        refuse(node, path, fmt::format("is {}; expected: {}", describe(node.kind), type), binding);
    } else if (text_length(node.text) != node.text.size()) {
        refuse(node, path, "holds control characters or bytes that are not UTF-8", binding);
    } else {
        return node.text;
    }
    return std::nullopt;
}

template <class T>
std::optional<T> read_scalar(Node& node, const std::string& path, const Form<T>& form, bool secret,
                             const Binding& binding) {
    const std::optional<std::string_view> text = read_text(node, path, form.type, binding);
    if (!text) return std::nullopt;
    // Variables and flags are often written by scripts that know only 1 and 0.
    const bool number_for_truth = std::is_same_v<T, bool> && node.given_by && (*text == "1" || *text == "0");
    Result<T> value = form.parse(number_for_truth ? (*text == "1" ? "true" : "false") : *text);
    if (value) return std::move(*value);
    refuse(node, path, secret ? fmt::format("is not allowed; allowed: {}", form.range) : value.error(), binding);
    return std::nullopt;
}

// A list of scalars. In variables and flags it has been split at its commas already.
template <class T>
std::optional<std::vector<T>> read_list(Node& node, const std::string& path, const Form<T>& form,
                                        const Binding& binding) {
    std::vector<T> values;
    if (node.kind == Node::Kind::null) return values;
    if (node.kind != Node::Kind::list) {
        refuse(node, path, fmt::format("is {}; expected a list, as in [{}, ...]", describe(node.kind), form.type),
               binding);
        return std::nullopt;
    }
    bool sound = true;
    for (size_t i = 0; i < node.children.size(); ++i) {
        std::optional<T> value = read_scalar<T>(node.children[i], fmt::format("{}[{}]", path, i), form, false, binding);
        sound &= value.has_value();
        if (value) values.push_back(std::move(*value));
    }
    node.refused |= !sound;
    if (!sound) return std::nullopt;
    return values;
}

using Words = std::vector<std::pair<std::string, std::string>>;

inline std::optional<Words> read_words(Node& node, const std::string& path, const Binding& binding) {
    Words words;
    if (node.kind == Node::Kind::null) return words;
    if (node.kind != Node::Kind::map) {
        refuse(node, path, fmt::format("is {}; expected a map, as in {{ service: web }}", describe(node.kind)),
               binding);
        return std::nullopt;
    }
    for (Node& child : node.children) {
        const std::optional<std::string> word =
            read_scalar<std::string>(child, join(path, child.key), {}, false, binding);
        if (word) words.emplace_back(child.key, *word);
    }
    return words;
}

// --- the shapes of members ------------------------------------------------------------------------------------------

template <class M>
struct Shape {  // of a plain member
    using Value = M;
    static constexpr bool list = false;
    static std::string type(const Form<Value>& form) { return form.type; }
    static std::string text(const M& member) { return Codec<Value>::text(member); }
    static std::optional<nlohmann::json> print(const M& member) { return Codec<Value>::print(member); }
    static std::optional<M> read(Node& node, const std::string& path, const Form<Value>& form, const Option& option,
                                 const Needs& need, const Binding& binding) {
        std::optional<Value> value = read_scalar<Value>(node, path, form, option.secret, binding);
        if (value) refuse_missing_feature(node, path, word_of(*value), need, binding);
        return value;
    }
};

template <>
inline std::optional<nlohmann::json> Shape<DirectedRate>::print(const DirectedRate&) {
    return std::nullopt;
}

template <class T>
struct Shape<std::optional<T>> {
    using Value = T;
    static constexpr bool list = false;
    static std::string type(const Form<T>& form) { return form.type; }
    static std::string text(const std::optional<T>& member) { return member ? Codec<T>::text(*member) : "none"; }
    static std::optional<nlohmann::json> print(const std::optional<T>& member) {
        return member ? nlohmann::json(Codec<T>::print(*member)) : nlohmann::json();
    }
    static std::optional<std::optional<T>> read(Node& node, const std::string& path, const Form<T>& form,
                                                const Option& option, const Needs& need, const Binding& binding) {
        std::optional<T> value = Shape<T>::read(node, path, form, option, need, binding);
        if (!value) return std::nullopt;
        return value;
    }
};

template <class T>
struct Shape<std::vector<T>> {
    using Value = T;
    static constexpr bool list = true;
    static std::string type(const Form<T>& form) { return "list of " + form.type; }
    static std::string text(const std::vector<T>& member) {
        std::string all;
        for (const T& value : member)
            all += (all.empty() ? "" : ", ") + word_of(value);
        return "[" + all + "]";
    }
    static std::optional<nlohmann::json> print(const std::vector<T>& member) {
        nlohmann::json all = nlohmann::json::array();
        for (const T& value : member)
            all.push_back(Codec<T>::print(value));
        return all;
    }
    static std::optional<std::vector<T>> read(Node& node, const std::string& path, const Form<T>& form, const Option&,
                                              const Needs& need, const Binding& binding) {
        std::optional<std::vector<T>> values = read_list<T>(node, path, form, binding);
        if (values) refuse_missing_feature(node, path, values->empty() ? "" : text(*values), need, binding);
        return values;
    }
};

template <>
struct Shape<Words> {
    using Value = std::string;
    static constexpr bool list = false;
    static std::string type(const Form<Value>&) { return "map of text"; }
    static std::string text(const Words&) { return "{}"; }
    static std::optional<nlohmann::json> print(const Words& member) {
        nlohmann::json all = nlohmann::json::object();
        for (const auto& [key, value] : member)
            all[key] = value;
        return all;
    }
    static std::optional<Words> read(Node& node, const std::string& path, const Form<Value>&, const Option&,
                                     const Needs&, const Binding& binding) {
        return read_words(node, path, binding);
    }
};

// Every element gets its object, sound or not, so that elements and nodes have the same index.
template <class Element>
void bind_elements(Node& node, const std::string& path, std::vector<Element>& elements, const Needs& need,
                   const Binding& binding) {
    elements.clear();
    if (node.kind == Node::Kind::null) return;
    if (node.kind != Node::Kind::list)
        return refuse(node, path, fmt::format("is {}; expected a list, each element after \"- \"", describe(node.kind)),
                      binding);
    if (!node.children.empty()) refuse_missing_feature(node, path, "list", need, binding);
    elements.resize(node.children.size());
    for (size_t i = 0; i < elements.size(); ++i)
        bind_object(node.children[i], fmt::format("{}[{}]", path, i), elements[i], binding);
}

// One price, or a list of tiers.
template <>
struct Shape<Tariff> {
    using Value = Tariff;
    static constexpr bool list = false;
    static std::string type(const Form<Value>& form) { return form.type; }
    static std::string text(const Tariff& member) { return Codec<Tariff>::text(member); }
    static std::optional<nlohmann::json> print(const Tariff& member) {
        if (member.tiers.empty()) return nlohmann::json();
        if (member.tiers.size() == 1 && !member.tiers[0].up_to) return member.tiers[0].cost;
        nlohmann::json all = nlohmann::json::array();
        for (const CostTier& tier : member.tiers)
            all.push_back({{"up_to", Shape<std::optional<Bytes>>::print(tier.up_to).value()}, {"cost", tier.cost}});
        return all;
    }
    static std::optional<Tariff> read(Node& node, const std::string& path, const Form<Value>& form,
                                      const Option& option, const Needs& need, const Binding& binding) {
        if (node.kind != Node::Kind::list) return read_scalar<Tariff>(node, path, form, option.secret, binding);
        Tariff tariff;
        bind_elements(node, path, tariff.tiers, need, binding);
        return tariff;
    }
};

}  // namespace marchproxy::config
