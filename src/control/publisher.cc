#include "control/publisher.h"

#include <set>
#include <utility>

namespace marchproxy::control {

namespace {

std::set<HostPort> names_of(const Snapshot& snapshot) {
    std::set<HostPort> names;
    for (const Service& service : snapshot.services)
        for (const Endpoint& endpoint : service.endpoints)
            if (!endpoint.address.is_literal()) names.insert(endpoint.address);
    return names;
}

}  // namespace

Publisher::Publisher(stream::Plane& plane, telemetry::Log& log, Board& board, std::function<void()> names_moved,
                     ResolverOptions resolver)
    : plane_(plane), board_(board), resolver_(log, std::move(names_moved), std::move(resolver)) {}

Result<void> Publisher::publish(Snapshot next) {
    const SnapshotPointer running = board_.snapshot();
    next.version = running ? running->version + 1 : 1;

    const bool needs_demo = next.services.empty();
    std::unique_ptr<Demo> started;
    if (needs_demo && !demo_) {
        auto demo = Demo::start();
        if (!demo.ok()) return Error{demo.error()};
        started = std::move(*demo);
    }
    if (needs_demo) (started ? started : demo_)->add_to(next);

    const auto names = names_of(next);
    auto resolution = resolver_.require(names, patience);
    const auto snapshot = std::make_shared<const Snapshot>(std::move(next));
    const auto applied = plane_.apply(snapshot, resolution);
    if (!applied.ok()) {
        resolver_.retain(running ? names_of(*running) : std::set<HostPort>{});
        return applied;
    }
    resolver_.retain(names);
    applied_ = std::move(resolution);
    board_.published(snapshot);
    if (started) demo_ = std::move(started);
    if (!needs_demo) demo_.reset();
    return {};
}

void Publisher::follow_names() {
    auto resolution = resolver_.current();
    if (resolution == applied_) return;
    plane_.update_resolution(resolution);
    applied_ = std::move(resolution);
}

}  // namespace marchproxy::control
