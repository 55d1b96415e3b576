// The access trees of a snapshot's services, made once: of lists with a million entries one takes the better part of a
// second, and a plan is made whenever an endpoint falls. One object, used by the control thread only.
#pragma once

#include <memory>
#include <string_view>
#include <unordered_map>

#include "packet/access_tree.h"

namespace marchproxy::packet {

class AccessMemo {
  public:
    // Of one of the snapshot's services. Null: it has no lists. A service of the snapshot before that had the same name
    // and the same lists lends its tree.
    std::shared_ptr<const AccessTree> of(const SnapshotPointer& snapshot, const Service& service);

  private:
    struct Made {
        const Access* lists;  // of the snapshot
        std::shared_ptr<const AccessTree> tree;
    };
    struct OfSnapshot {
        SnapshotPointer snapshot;
        std::unordered_map<std::string_view, Made> by_name{};
    };
    OfSnapshot now_, before_;
};

}  // namespace marchproxy::packet
