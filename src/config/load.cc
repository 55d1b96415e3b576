#include "config/load.h"

#include "config/document.h"
#include "config/embedded.h"
#include "config/overlay.h"
#include "config/problems.h"
#include "config/table.h"
#include "config/validate.h"

namespace marchproxy::config {
namespace {

// Services that name no policy have that of `multicloud`, where paths are measured.
void inherit_policy(Snapshot& snapshot, const Node& root) {
    const MulticloudSettings& multicloud = snapshot.settings.multicloud;
    const Node* services = root.find("services");
    if (!multicloud.enabled || !services) return;
    for (size_t i = 0; i < snapshot.services.size(); ++i)
        if (!services->children[i].find("routing.policy")) snapshot.services[i].routing.policy = multicloud.policy;
}

Loaded finish(Node root, const Sources& sources, Problems& problems) {
    const Tables& tables = Tables::constant();
    root.kind = Node::Kind::map;  // no file, or none that could be read: the rest can still be checked
    overlay(root, sources, tables, problems);
    Loaded loaded;
    bind_object(root, "", loaded.snapshot, {tables, problems});
    inherit_policy(loaded.snapshot, root);
    validate(loaded.snapshot, root, problems);
    loaded.problems = problems.take();
    return loaded;
}

}  // namespace

Snapshot read_embedded(Node root, Problems& problems) {
    Snapshot snapshot;
    bind_object(root, "", snapshot, {Tables::constant(), problems});
    inherit_policy(snapshot, root);
    validate(snapshot, root, problems);
    return snapshot;
}

Loaded load(const Sources& sources) {
    Problems problems(sources.file);
    Node root;
    if (!sources.file.empty())
        if (const std::optional<std::string> text = read_document(sources.file, problems))
            root = parse_document(*text, problems);
    return finish(std::move(root), sources, problems);
}

Loaded load_text(std::string_view yaml, std::string_view name, const Sources& sources) {
    Problems problems{std::string(name)};
    return finish(parse_document(yaml, problems), sources, problems);
}

}  // namespace marchproxy::config
