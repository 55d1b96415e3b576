#include "config/table.h"

#include <algorithm>

#include "config/bind.h"
#include "config/suggest.h"
#include "version.h"

namespace marchproxy::config {
namespace {

using namespace std::chrono_literals;

// Where the keys of each object stand.
template <class Object>
constexpr std::string_view scope = "";
template <>
constexpr std::string_view scope<Path> = "paths[].";
template <>
constexpr std::string_view scope<Service> = "services[].";
template <>
constexpr std::string_view scope<Endpoint> = "services[].endpoints[].";
template <>
constexpr std::string_view scope<MarkRule> = "services[].qos.rules[].";
template <>
constexpr std::string_view scope<CostTier> = "paths[].cost_per_gb[].";
template <>
constexpr std::string_view scope<Budget> = "multicloud.budgets[].";
template <>
constexpr std::string_view scope<CustomMetric> = "telemetry.custom_metrics[].";

Option describe_option(std::string key, const Traits& traits, std::string_view documentation) {
    Option option;
    option.key = std::move(key);
    option.flag = traits.flag;
    option.environment = traits.environment;
    option.documentation = documentation;
    option.reload = traits.reload;
    option.feature = traits.need.feature ? traits.need.feature->name : "";
    option.required = traits.is_required;
    option.secret = traits.is_secret;
    return option;
}

// `member` yields a pointer to the member, null where an optional parent is absent from a constant object.
template <class Object, class Range, class Member>
Row<Object> option_row(std::string_view name, Member member, const Range& range, const Traits& traits,
                       std::string_view documentation) {
    using M = std::remove_cvref_t<decltype(*member(std::declval<Object&>()))>;
    using S = Shape<M>;
    const Form<typename S::Value> form = range.template form<typename S::Value>();

    Row<Object> row;
    row.name = name;
    row.need = traits.need;
    row.option = describe_option(std::string(scope<Object>) + std::string(name), traits, documentation);
    row.option.type = S::type(form);
    row.option.range = form.range;
    row.option.boolean = std::is_same_v<M, bool>;
    row.option.list = S::list;
    const Object standard;
    const M* const value = member(standard);
    row.option.default_text = value ? S::text(*value) : "none";

    row.bind = [member, form](Node& node, const std::string& path, Object& object, const Row<Object>& self,
                              const Binding& binding) {
        std::optional<M> read = S::read(node, path, form, self.option, self.need, binding);
        if (read) *member(object) = std::move(*read);
    };
    row.print = [member, secret = traits.is_secret](const Object& object,
                                                    const Tables&) -> std::optional<nlohmann::json> {
        const M* const printed = member(object);
        if (!printed) return nlohmann::json();
        std::optional<nlohmann::json> json = S::print(*printed);
        if (secret && json && !json->get_ref<const std::string&>().empty()) return "***";
        return json;
    };
    row.equal = [member](const Object& a, const Object& b) {
        const M* const left = member(a);
        const M* const right = member(b);
        return left && right ? *left == *right : left == right;
    };
    return row;
}

template <class Object, class Element, class Member>
Row<Object> list_row(std::string_view name, Member member, const Traits& traits, std::string_view documentation) {
    Row<Object> row;
    row.name = name;
    row.need = traits.need;
    row.option = describe_option(fmt::format("{}{}[]", scope<Object>, name), traits, documentation);
    row.option.type = "list of maps";
    row.option.default_text = "[]";
    row.option.elements = true;
    row.bind = [member](Node& node, const std::string& path, Object& object, const Row<Object>& self,
                        const Binding& binding) {
        bind_elements<Element>(node, path, *member(object), self.need, binding);
    };
    row.print = [member](const Object& object, const Tables& tables) -> std::optional<nlohmann::json> {
        nlohmann::json all = nlohmann::json::array();
        for (const Element& element : *member(object))
            all.push_back(print_object(element, tables));
        return all;
    };
    row.equal = [member](const Object& a, const Object& b) { return *member(a) == *member(b); };
    return row;
}

template <class Object>
void index(Table<Object>& table) {
    for (const Row<Object>& row : table.rows) {
        table.entries[std::string(row.name)].row = &row;
        std::string_view name = row.name;
        while (!name.empty()) {
            const size_t dot = name.rfind('.');
            const std::string_view parent = dot == std::string_view::npos ? "" : name.substr(0, dot);
            const std::string_view key = name.substr(parent.empty() ? 0 : dot + 1);
            auto& keys = table.entries[std::string(parent)].keys;
            if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
            name = parent;
        }
    }
}

std::string unknown_key(std::string_view key, const std::vector<std::string_view>& siblings, const Tables& tables) {
    const std::string_view near = nearest(key, siblings);
    if (!near.empty()) return fmt::format("is not a key; did you mean \"{}\"?", near);
    for (const Option& option : tables.options()) {
        const std::string_view full = option.key;
        const bool same = full.size() > key.size() && full.ends_with(key) && full[full.size() - key.size() - 1] == '.';
        if (same) return fmt::format("is not a key here; did you mean \"{}\"?", full);
    }
    return fmt::format("is not a key; allowed here: {}", fmt::join(siblings, ", "));
}

template <class Object>
void bind_row(Node& node, const std::string& path, const Row<Object>& row, Object& object, const Binding& binding) {
    for (Node* replaced = node.replaced.get(); replaced; replaced = replaced->replaced.get()) {
        Object scratch;
        row.bind(*replaced, path, scratch, row, {binding.tables, binding.problems, true});
    }
    row.bind(node, path, object, row, binding);
}

// The keys of one map: `section` is its path below the object, "" the object itself.
template <class Object>
void bind_section(Node& node, const std::string& section, const std::string& path, Object& object,
                  const Binding& binding) {
    const Table<Object>& table = binding.tables.of<Object>();
    for (Node& child : node.children) {
        const std::string name = join(section, child.key);
        const std::string full = join(path, child.key);
        const auto found = table.entries.find(name);
        if (found == table.entries.end()) {
            // Beyond the limit problems are only counted: no need to look for what may have been meant.
            const auto& siblings = table.entries.find(section)->second.keys;
            binding.problems.at_key(
                child, full,
                binding.problems.full() ? "is not a key" : unknown_key(child.key, siblings, binding.tables));
            continue;
        }
        const auto& entry = found->second;
        const bool is_section = !entry.keys.empty() && (child.kind == Node::Kind::map || !entry.row);
        if (!is_section)
            bind_row(child, full, *entry.row, object, binding);
        else if (child.kind == Node::Kind::map)
            bind_section(child, name, full, object, binding);
        else if (child.kind != Node::Kind::null)
            refuse(child, full,
                   fmt::format("is {}; expected a map with the keys {}", describe(child.kind),
                               fmt::join(entry.keys, ", ")),
                   binding);
    }
}

void put(nlohmann::json& object, std::string_view dotted, nlohmann::json value) {
    const size_t dot = dotted.find('.');
    nlohmann::json& slot = object[std::string(dotted.substr(0, dot))];
    if (dot == std::string_view::npos)
        slot = std::move(value);
    else
        put(slot, dotted.substr(dot + 1), std::move(value));
}

}  // namespace

Tables::Tables() {
    const auto add = [this]<class Object>(Row<Object> row) {
        options_.push_back(row.option);
        std::get<Table<Object>>(tables_).rows.push_back(std::move(row));
    };
#define OPTION(object, key, member, range, traits, documentation) \
    add(option_row<object>(                                       \
        key, [](auto& o) { return &o.member; }, range, traits, documentation));
#define OPTION_IN(object, key, parent, member, range, traits, documentation)      \
    add(option_row<object>(                                                       \
        key,                                                                      \
        [](auto& o) {                                                             \
            if constexpr (!std::is_const_v<std::remove_reference_t<decltype(o)>>) \
                if (!o.parent) o.parent.emplace();                                \
            return o.parent ? &o.parent->member : nullptr;                        \
        },                                                                        \
        range, traits, documentation));
#define LIST(object, key, member, element, traits, documentation) \
    add(list_row<object, element>(                                \
        key, [](auto& o) { return &o.member; }, traits, documentation));
#include "config/options.def"
#undef LIST
#undef OPTION_IN
#undef OPTION
    std::apply([](auto&... table) { (index(table), ...); }, tables_);
}

const Tables& Tables::constant() {
    static const Tables tables;
    return tables;
}

std::string join(std::string_view path, std::string_view key) {
    return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

std::string_view describe(Node::Kind kind) {
    switch (kind) {
        case Node::Kind::scalar:
            return "a single value";
        case Node::Kind::list:
            return "a list";
        case Node::Kind::map:
            return "a map";
        case Node::Kind::null:
            break;
    }
    return "empty";
}

bool needs_feature(const Needs& need, std::string_view value) {
    if (!need.feature || need.feature->built) return false;
    std::string_view words = need.words;
    while (true) {
        const size_t comma = words.find(',');
        if (words.substr(0, comma) == value) return need.words_need;
        if (comma == std::string_view::npos) return !need.words_need;
        words = words.substr(comma + 1);
    }
}

std::string refusal(const Needs& need, std::string_view value, const Node& node) {
    const std::string_view given = !node.given_by ? "key" : node.given_by->starts_with("flag ") ? "flag" : "variable";
    const std::string what =
        need.words_need ? fmt::format("{} needs {} ({}), which", value, need.feature->title, need.feature->name)
                        : fmt::format("{} ({})", need.feature->title, need.feature->name);
    std::string message = fmt::format("{} is not in this version ({}); remove the {}", what, MARCHPROXY_VERSION, given);
    if (need.words_need) message += " or choose another value";
    if (!need.words_need && !need.words.empty()) message += fmt::format(" or set it to {}", need.words);
    return message;
}

template <class Object>
void bind_object(Node& node, const std::string& path, Object& object, const Binding& binding) {
    if (node.kind != Node::Kind::map)
        return refuse(node, path, fmt::format("is {}; expected a map of keys", describe(node.kind)), binding);
    bind_section(node, "", path, object, binding);
    for (const Row<Object>& row : binding.tables.of<Object>().rows)
        if (row.option.required && !node.find(row.name))
            binding.problems.at_owner(node, join(path, row.name), "is missing");
}
template void bind_object(Node&, const std::string&, Snapshot&, const Binding&);
template void bind_object(Node&, const std::string&, Path&, const Binding&);
template void bind_object(Node&, const std::string&, Service&, const Binding&);
template void bind_object(Node&, const std::string&, Endpoint&, const Binding&);
template void bind_object(Node&, const std::string&, MarkRule&, const Binding&);
template void bind_object(Node&, const std::string&, CustomMetric&, const Binding&);
template void bind_object(Node&, const std::string&, CostTier&, const Binding&);
template void bind_object(Node&, const std::string&, Budget&, const Binding&);

template <class Object>
nlohmann::json print_object(const Object& object, const Tables& tables) {
    nlohmann::json json = nlohmann::json::object();
    for (const Row<Object>& row : tables.of<Object>().rows)
        if (std::optional<nlohmann::json> value = row.print(object, tables)) put(json, row.name, std::move(*value));
    return json;
}
template nlohmann::json print_object(const Snapshot&, const Tables&);

}  // namespace marchproxy::config
