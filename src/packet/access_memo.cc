#include "packet/access_memo.h"

#include <utility>

namespace marchproxy::packet {

std::shared_ptr<const AccessTree> AccessMemo::of(const SnapshotPointer& snapshot, const Service& service) {
    if (now_.snapshot != snapshot) before_ = std::exchange(now_, {.snapshot = snapshot});
    if (const auto made = now_.by_name.find(service.name); made != now_.by_name.end()) return made->second.tree;
    const auto before = before_.by_name.find(service.name);
    const bool same = before != before_.by_name.end() && *before->second.lists == service.access;
    return now_.by_name
        .emplace(service.name, Made{&service.access, same ? before->second.tree : access_tree(service.access)})
        .first->second.tree;
}

}  // namespace marchproxy::packet
