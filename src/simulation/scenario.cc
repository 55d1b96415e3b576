#include "simulation/scenario.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "config/codec.h"
#include "config/document.h"
#include "config/embedded.h"
#include "config/problems.h"

namespace marchproxy::simulation {

namespace {

using config::Node;
using config::Problems;

// The keys of one map: each is asked for once, and what nobody asked for is a problem.
class Keys {
  public:
    Keys(const Node& node, std::string path, Problems& problems)
        : node_(node), path_(std::move(path)), problems_(problems) {
        if (node.kind != Node::Kind::map && node.kind != Node::Kind::null)
            problems_.at_value(node, path_, "must be a map of keys and values");
    }

    const Node* child(std::string_view key) {
        asked_.insert(std::string(key));
        return node_.child(key);
    }
    std::string path_of(std::string_view key) const {
        return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
    }

    template <class T>
    std::optional<T> read(std::string_view key) {
        const Node* node = child(key);
        if (!node) return std::nullopt;
        if (node->kind != Node::Kind::scalar) {
            problems_.at_value(*node, path_of(key), "must be a single value");
            return std::nullopt;
        }
        const Result<T> value = config::Codec<T>::parse(node->text);
        if (value) return *value;
        problems_.at_value(*node, path_of(key), value.error());
        return std::nullopt;
    }
    template <class T>
    void read(std::string_view key, T& value) {
        if (const std::optional<T> given = read<T>(key)) value = *given;
    }
    std::optional<double> read_share(std::string_view key) {
        const auto share = read<Share>(key);
        return share ? std::optional(share->fraction) : std::nullopt;
    }
    void need(std::string_view key) {
        if (!child(key)) problems_.at_owner(node_, path_of(key), "is missing");
    }
    void refuse_others() {
        if (node_.kind != Node::Kind::map) return;
        for (const Node& one : node_.children)
            if (!asked_.contains(one.key)) problems_.at_key(one, path_of(one.key), "is not a key of a scenario");
    }

  private:
    const Node& node_;
    std::string path_;
    Problems& problems_;
    std::set<std::string> asked_;
};

template <class Each>
void each_of(const Node* list, std::string_view name, Problems& problems, Each&& each) {
    if (!list) return;
    if (list->kind != Node::Kind::list) return problems.at_value(*list, name, "must be a list");
    for (size_t i = 0; i < list->children.size(); ++i)
        each(list->children[i], fmt::format("{}[{}]", name, i));
}

class Reader {
  public:
    Reader(Node root, Problems& problems) : root_(std::move(root)), problems_(problems) {}

    Scenario read() {
        Keys keys(root_, "", problems_);
        keys.read("name", scenario_.name);
        keys.read("about", scenario_.about);
        keys.read("duration", scenario_.duration);
        keys.read("seed", scenario_.seed);
        keys.need("configuration");
        keys.need("paths");
        read_flows(keys);
        read_configuration(keys);
        each_of(keys.child("paths"), "paths", problems_,
                [this](const Node& node, const std::string& path) { read_path(node, path); });
        each_of(keys.child("events"), "events", problems_,
                [this](const Node& node, const std::string& path) { read_event(node, path); });
        keys.refuse_others();
        check();
        return std::move(scenario_);
    }

  private:
    void read_flows(Keys& keys) {
        const Node* node = keys.child("flows");
        if (!node) return;
        Keys flows(*node, "flows", problems_);
        flows.read("rate", scenario_.flows);
        scenario_.peak = flows.read<Frequency>("peak");
        flows.read("size", scenario_.size);
        flows.refuse_others();
    }

    void read_configuration(Keys& keys) {
        keys.child("configuration");
        if (Node* node = root_.child("configuration")) {
            Node configuration = std::move(*node);
            node->key = configuration.key;  // it goes on being there for refuse_others()
            scenario_.snapshot = config::read_embedded(std::move(configuration), problems_);
        }
        for (const Path& path : scenario_.snapshot.paths)
            scenario_.paths[path.name].cost_per_gb = path.cost_per_gb;
        scenario_.snapshot.path_table = PathTable(scenario_.snapshot.paths);
    }

    // The path that a map is about; one of the configuration's.
    std::string named(Keys& keys, std::string_view key, const Node& node) {
        keys.need(key);
        std::string name = keys.read<std::string>(key).value_or("");
        const Node* given = node.child(key);
        if (given && !name.empty() && !scenario_.snapshot.find_path(name))
            problems_.at_value(*given, keys.path_of(key), fmt::format("{} is no path of the configuration", name));
        return name;
    }

    void read_path(const Node& node, const std::string& path) {
        Keys keys(node, path, problems_);
        Behaviour& behaviour = scenario_.paths[named(keys, "name", node)];
        keys.read("latency", behaviour.latency);
        keys.read("jitter", behaviour.jitter);
        behaviour.loss = keys.read_share("loss").value_or(0);
        behaviour.traffic_loss = keys.read_share("traffic_loss").value_or(0);
        keys.refuse_others();
    }

    void read_event(const Node& node, const std::string& path) {
        Keys keys(node, path, problems_);
        Event event;
        keys.need("at");
        keys.read("at", event.at);
        event.lasts = keys.read<Duration>("for");
        event.every = keys.read<Duration>("every");
        event.until = keys.read<Duration>("until");
        keys.read("over", event.over);
        event.path = named(keys, "path", node);
        event.latency = keys.read<Duration>("latency");
        event.jitter = keys.read<Duration>("jitter");
        event.loss = keys.read_share("loss");
        event.traffic_loss = keys.read_share("traffic_loss");
        event.cost_per_gb = keys.read<double>("cost_per_gb");
        event.down = keys.read<bool>("down");
        event.refuses = keys.read<bool>("refuses");
        keys.refuse_others();
        if (event.every && *event.every < std::chrono::seconds(1))
            problems_.at_owner(node, keys.path_of("every"), "must be a second at least");
        if (event.every && event.lasts && *event.lasts >= *event.every)
            problems_.at_owner(node, keys.path_of("for"), "must be shorter than `every`");
        if (event.until && !event.every) problems_.at_owner(node, keys.path_of("until"), "needs `every`");
        if (event.cost_per_gb && *event.cost_per_gb < 0)
            problems_.at_owner(node, keys.path_of("cost_per_gb"), "must not be less than 0");
        scenario_.events.push_back(std::move(event));
    }

    void check() {
        const auto wrong = [this](std::string_view key, std::string_view what) {
            problems_.at_owner(root_, key, what);
        };
        if (!problems_.empty()) return;
        if (scenario_.duration < std::chrono::seconds(1) || scenario_.duration > std::chrono::hours(24 * 366))
            wrong("duration", "must be from 1s to 8784h");
        const double most = std::max(scenario_.flows.per_second, scenario_.peak.value_or(Frequency{0}).per_second);
        if (most <= 0 || most > 100'000) wrong("flows.rate", "must be above 0/s, and 100000/s at most");
        if (scenario_.size.count == 0) wrong("flows.size", "must be 1B at least");
        if (scenario_.snapshot.services.size() != 1) return wrong("configuration.services", "must hold one service");
        if (!scenario_.snapshot.settings.multicloud.enabled)
            wrong("configuration.multicloud.enabled", "must be true: without it nothing is steered");
        for (const Endpoint& endpoint : scenario_.service().endpoints)
            if (!endpoint.address.is_literal() || !scenario_.snapshot.find_path(endpoint.path))
                wrong("configuration.services[0].endpoints", "must each have an IP address and a path");
    }

    Node root_;
    Problems& problems_;
    Scenario scenario_;
};

Read finish(Node root, Problems& problems) {
    Read read;
    if (problems.empty()) read.scenario = Reader(std::move(root), problems).read();
    read.problems = problems.take();
    return read;
}

}  // namespace

Read read_scenario(const std::string& file) {
    Problems problems(file);
    Node root;
    if (const std::optional<std::string> text = config::read_document(file, problems))
        root = config::parse_document(*text, problems);
    return finish(std::move(root), problems);
}

Read read_scenario_text(std::string_view yaml, std::string_view name) {
    Problems problems{std::string(name)};
    Node root = config::parse_document(yaml, problems);
    return finish(std::move(root), problems);
}

}  // namespace marchproxy::simulation
