#include "packet/reconcile.h"

#include <algorithm>
#include <cassert>
#include <set>

namespace marchproxy::packet {

namespace {

template <class T>
const T* find(const std::map<uint32_t, T>& records, uint32_t index) {
    const auto found = records.find(index);
    return found == records.end() ? nullptr : &found->second;
}

template <class T>
bool holds(const std::map<uint32_t, T>& records, uint32_t index, const T& record) {
    const T* there = find(records, index);
    return there && same_bytes(*there, record);
}

// Its numbers are those of the header.
class Reconciler {
  public:
    Reconciler(const Plan& held, const Plan& wanted) : held_(held), wanted_(wanted) {
        for (const abi::directory_entry& entry : wanted.directory)
            if (entry.kind == abi::directory_service) found_.insert(entry.index);
    }

    std::vector<MapChange> changes() {
        write_sources();
        grow_endpoints();
        write_rings();
        widen_directory();
        widen_access();
        write_limits();
        write_qos();
        write_services(true);
        replace_directory();
        write_services(false);
        replace_access(wanted_.access);
        shrink_endpoints();
        clear();
        return std::move(changes_);
    }

  private:
    void write_sources();
    void grow_endpoints();
    void write_rings();
    void widen_directory();
    void widen_access();
    void write_limits();
    void write_qos();
    void write_services(bool found);
    void replace_access(const AccessTrees& trees);
    void replace_directory();
    void shrink_endpoints();
    void clear();

    void name_directory(const std::vector<abi::directory_entry>& entries) {
        changes_.emplace_back(ReplaceDirectory{entries});
    }

    const Plan& held_;
    const Plan& wanted_;
    std::set<uint32_t> found_;  // services that packets are to find
    std::vector<MapChange> changes_;
    std::vector<abi::directory_entry> directory_ = held_.directory;  // as it is after the changes so far
    AccessTrees access_ = held_.access;                              // the same
};

void Reconciler::write_sources() {
    for (const auto& [index, address] : wanted_.sources)
        if (!holds(held_.sources, index, address)) changes_.emplace_back(WriteSource{index, address});
}

// What an endpoint is while both configurations may name it.
abi::packet_endpoint both(const abi::packet_endpoint* held, abi::packet_endpoint wanted) {
    if (!held) return wanted;
    wanted.flags |= held->flags;
    if (!wanted.dnat_service) wanted.dnat_service = held->dnat_service;
    if (held->source_count) {  // the directory may not name the new ones yet
        wanted.source_first = held->source_first;
        wanted.source_count = held->source_count;
    }
    return wanted;
}

void Reconciler::grow_endpoints() {
    for (const auto& [index, endpoint] : wanted_.endpoints) {
        const abi::packet_endpoint record = both(find(held_.endpoints, index), endpoint);
        if (!holds(held_.endpoints, index, record)) changes_.emplace_back(WriteEndpoint{index, record});
    }
}

void Reconciler::write_rings() {
    for (const auto& [first, slots] : wanted_.rings) {
        const std::vector<uint32_t>* there = find(held_.rings, first);
        if (there && *there == slots) continue;
        assert(!there);
        changes_.emplace_back(WriteRing{first, slots});
    }
}

void Reconciler::widen_directory() {
    std::vector<abi::directory_entry> early;
    for (const abi::directory_entry& entry : wanted_.directory)
        if (entry.kind == abi::directory_endpoint || entry.kind == abi::directory_source) early.push_back(entry);
    const std::vector<abi::directory_entry> wider = joined(held_.directory, early);
    if (wider.size() == held_.directory.size()) return;
    directory_ = wider;
    name_directory(wider);
}

void Reconciler::replace_access(const AccessTrees& trees) {
    if (same(access_, trees)) return;
    access_ = trees;
    changes_.emplace_back(ReplaceAccess{trees});
}

// The lists of services that packets are to find, and those that others had.
void Reconciler::widen_access() {
    AccessTrees wider = wanted_.access;
    for (const auto& [service, tree] : held_.access)
        if (!found_.contains(service)) wider.insert_or_assign(service, tree);
    replace_access(wider);
}

// What a service's flags do not ask for nobody reads, and what they ask for and is 0 is no limit.
void Reconciler::write_limits() {
    for (const auto& [service, limits] : wanted_.limits)
        if (!holds(held_.limits, service, limits)) changes_.emplace_back(WriteLimits{service, limits});
}

void Reconciler::write_qos() {
    for (const auto& [service, qos] : wanted_.qos)
        if (!holds(held_.qos, service, qos)) changes_.emplace_back(WriteQos{service, qos});
}

void Reconciler::write_services(bool found) {
    for (const auto& [index, service] : wanted_.services)
        if (found_.contains(index) == found && !holds(held_.services, index, service))
            changes_.emplace_back(WriteService{index, service});
}

// Also where it stays the same but a ring was left: for its slots it has to be known that nobody is in them.
void Reconciler::replace_directory() {
    const bool same =
        std::equal(directory_.begin(), directory_.end(), wanted_.directory.begin(), wanted_.directory.end(),
                   [](const auto& a, const auto& b) { return same_bytes(a, b); });
    const bool left = std::any_of(held_.rings.begin(), held_.rings.end(),
                                  [&](const auto& ring) { return !wanted_.rings.contains(ring.first); });
    const bool lost = std::any_of(wanted_.endpoints.begin(), wanted_.endpoints.end(), [&](const auto& endpoint) {
        return !same_bytes(both(find(held_.endpoints, endpoint.first), endpoint.second), endpoint.second);
    });
    if (!same || left || lost) name_directory(wanted_.directory);
}

void Reconciler::shrink_endpoints() {
    for (const auto& [index, endpoint] : wanted_.endpoints)
        if (!same_bytes(both(find(held_.endpoints, index), endpoint), endpoint))
            changes_.emplace_back(WriteEndpoint{index, endpoint});
}

void Reconciler::clear() {
    for (const auto& [index, service] : held_.services)
        if (!wanted_.services.contains(index)) changes_.emplace_back(ClearService{index});
    for (const auto& [service, limits] : held_.limits)
        if (!wanted_.limits.contains(service)) changes_.emplace_back(ClearLimits{service});
    for (const auto& [service, qos] : held_.qos)
        if (!wanted_.qos.contains(service)) changes_.emplace_back(ClearQos{service});
    for (const auto& [index, endpoint] : held_.endpoints)
        if (!wanted_.endpoints.contains(index)) changes_.emplace_back(ClearEndpoint{index});
    for (const auto& [index, address] : held_.sources)
        if (!wanted_.sources.contains(index)) changes_.emplace_back(ClearSource{index});
    for (const auto& [first, slots] : held_.rings)
        if (!wanted_.rings.contains(first)) changes_.emplace_back(LeaveRing{first});
}

// One change, written and noted in what is held.
struct Apply {
    MapTarget& target;
    Plan& held;

    template <class Note>
    Result<void> noting(Result<void> written, Note note) {
        if (written) note();
        return written;
    }

    Result<void> operator()(const WriteSource& c) {
        return noting(target.set_source(c.index, c.address), [&] { held.sources[c.index] = c.address; });
    }
    Result<void> operator()(const WriteEndpoint& c) {
        return noting(target.set_endpoint(c.index, c.endpoint), [&] { held.endpoints[c.index] = c.endpoint; });
    }
    Result<void> operator()(const WriteRing& c) {
        // Also where it fails: what of it was written is not known, and nobody points to it.
        held.rings[c.first] = c.slots;
        return target.set_ring(c.first, c.slots);
    }
    Result<void> operator()(const ReplaceAccess& c) {
        return noting(target.set_access(c.trees), [&] { held.access = c.trees; });
    }
    Result<void> operator()(const WriteLimits& c) {
        return noting(target.set_limits(c.service, c.limits), [&] { held.limits[c.service] = c.limits; });
    }
    Result<void> operator()(const WriteQos& c) {
        return noting(target.set_qos(c.service, c.qos), [&] { held.qos[c.service] = c.qos; });
    }
    Result<void> operator()(const WriteService& c) {
        return noting(target.set_service(c.index, c.service), [&] { held.services[c.index] = c.service; });
    }
    Result<void> operator()(const ReplaceDirectory& c) {
        return noting(target.set_directory(c.entries), [&] { held.directory = c.entries; });
    }
    Result<void> operator()(const ClearService& c) {
        return noting(target.set_service(c.index, {}), [&] { held.services.erase(c.index); });
    }
    Result<void> operator()(const ClearLimits& c) {
        return noting(target.set_limits(c.service, {}), [&] { held.limits.erase(c.service); });
    }
    Result<void> operator()(const ClearQos& c) {
        return noting(target.set_qos(c.service, {}), [&] { held.qos.erase(c.service); });
    }
    Result<void> operator()(const ClearEndpoint& c) {
        return noting(target.set_endpoint(c.index, {}), [&] { held.endpoints.erase(c.index); });
    }
    Result<void> operator()(const ClearSource& c) {
        return noting(target.set_source(c.index, {}), [&] { held.sources.erase(c.index); });
    }
    Result<void> operator()(const LeaveRing& c) {
        held.rings.erase(c.first);
        return {};
    }
};

}  // namespace

std::vector<MapChange> reconcile(const Plan& held, const Plan& wanted) {
    return Reconciler(held, wanted).changes();
}

Result<void> apply(std::span<const MapChange> changes, MapTarget& target, Plan& held) {
    Apply one{target, held};
    for (const MapChange& change : changes)
        if (Result<void> applied = std::visit(one, change); !applied) return applied;
    return {};
}

}  // namespace marchproxy::packet
