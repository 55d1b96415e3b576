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

Publisher::Publisher(gateways::Gateways& gateways, qos::Shapers& shapers, stream::Plane& stream, packet::Plane& packet,
                     Pilot& pilot, telemetry::Log& log, Board& board, std::function<void()> names_moved,
                     ResolverOptions resolver)
    : gateways_(gateways),
      shapers_(shapers),
      stream_(stream),
      packet_(packet),
      pilot_(pilot),
      log_(log),
      board_(board),
      resolver_(log, std::move(names_moved), std::move(resolver)) {}

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

    next.path_table = PathTable(next.paths);
    std::set<IpAddress> gateways;
    for (const Path& path : next.paths)
        if (path.gateway) gateways.insert(*path.gateway);
    next.gateway_marks = gateways_.follow(gateways);
    const auto names = names_of(next);
    auto resolution = resolver_.require(names, patience);
    const auto snapshot = std::make_shared<const Snapshot>(std::move(next));
    auto applied = share_out(snapshot, resolution);
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

// The stream plane may refuse, so that it comes before the packet plane takes over. A service that moves from one to
// the other ends its connections.
Result<void> Publisher::share_out(const SnapshotPointer& snapshot, const Resolution& resolution) {
    const routing::SharesByService& shares = pilot_.prepare(snapshot, resolution);
    if (auto prepared = packet_.prepare(snapshot, resolution, shares); !prepared.ok()) return prepared;
    auto streams = std::make_shared<Snapshot>(*snapshot);
    std::erase_if(streams->services, [&](const Service& service) { return packet_.carries(service.name); });
    if (auto applied = stream_.apply(std::move(streams), resolution, shares); !applied.ok()) return applied;
    shapers_.configure(snapshot->settings.qos);
    packet_.apply();
    pilot_.take_over();
    return {};
}

void Publisher::follow_names() {
    auto resolution = resolver_.current();
    if (resolution == applied_) return;
    applied_ = std::move(resolution);
    share_out_again();
}

void Publisher::share_out_again() {
    const SnapshotPointer running = board_.snapshot();
    if (!running) return;
    const auto applied = share_out(running, applied_);
    board_.note("planes", applied.ok() ? std::vector<std::string>{} : std::vector{applied.error()});
    if (!applied.ok())
        log_.error("endpoints or routes have changed, and the planes cannot follow; they go on as before",
                   {{"error", applied.error()}});
}

}  // namespace marchproxy::control
