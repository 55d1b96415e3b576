// The rows of options.def as values: for each object of the model its keys, and how each is bound, printed and
// compared.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "config/document.h"
#include "config/options.h"
#include "config/problems.h"
#include "config/traits.h"
#include "model/snapshot.h"

namespace marchproxy::config {

class Tables;

struct Binding {
    const Tables& tables;
    Problems& problems;
    bool types_only = false;  // of a value that a variable or flag overrides: what it asks for does not matter
};

template <class Object>
struct Row {
    std::string_view name;  // below the object: "limits.connections"
    Option option;
    Needs need;
    // Reads the node into the member, or reports why not. `path` is the node's: "services[3].limits.connections".
    std::function<void(Node&, const std::string& path, Object&, const Row&, const Binding&)> bind;
    std::function<std::optional<nlohmann::json>(const Object&, const Tables&)> print;  // nothing: its parts are rows
    std::function<bool(const Object&, const Object&)> equal;
};

template <class Object>
struct Table {
    // What stands under a name: a row, a section with these keys, or both ("qos.rate").
    struct Entry {
        const Row<Object>* row = nullptr;
        std::vector<std::string_view> keys;
    };

    std::vector<Row<Object>> rows;
    std::map<std::string, Entry, std::less<>> entries;  // the object itself: ""
};

class Tables {
  public:
    // The one there is: a constant, made at its first use because a constant expression cannot hold it.
    static const Tables& constant();

    Tables(const Tables&) = delete;  // entries point into rows
    Tables& operator=(const Tables&) = delete;

    template <class Object>
    const Table<Object>& of() const {
        return std::get<Table<Object>>(tables_);
    }
    const std::vector<Option>& options() const { return options_; }

  private:
    Tables();

    std::tuple<Table<Snapshot>, Table<Path>, Table<Service>, Table<Endpoint>, Table<MarkRule>, Table<CustomMetric>,
               Table<CostTier>, Table<Budget>>
        tables_;
    std::vector<Option> options_;
};

// "" + "listen" -> "listen"; "services[3]" + "listen" -> "services[3].listen".
std::string join(std::string_view path, std::string_view key);

// Reads a whole map into the object: known keys into their members, all else reported.
template <class Object>
void bind_object(Node& node, const std::string& path, Object& object, const Binding& binding);

// Every key of the object, nested as in YAML.
template <class Object>
nlohmann::json print_object(const Object& object, const Tables& tables);

}  // namespace marchproxy::config
