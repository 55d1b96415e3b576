#include "packet/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "packet/directory.h"
#include "packet/qos_records.h"
#include "packet/ring.h"
#include "packet/source_runs.h"

namespace marchproxy::packet {

namespace {

// Flows that only the client has spoken on: long enough for repeated SYNs and slow answers, short since anybody can
// begin them (Linux: 60 s for TCP after the SYN's answer, 30 s for UDP without one).
constexpr Duration opening_tcp = std::chrono::seconds(60), opening_udp = std::chrono::seconds(30);

uint8_t number_of(Protocol protocol) {
    return protocol == Protocol::tcp ? IPPROTO_TCP : IPPROTO_UDP;
}

// Up to whole seconds, so that nothing ends too early.
uint32_t seconds_of(Duration duration) {
    return static_cast<uint32_t>(std::chrono::ceil<std::chrono::seconds>(duration).count());
}

bool goes_before(const abi::directory_entry& a, const abi::directory_entry& b) {
    const auto place = [](const abi::directory_entry& e) {
        return std::tuple(e.address.word[0], e.address.word[1], e.port_be, e.protocol);
    };
    return place(a) < place(b);
}

abi::directory_entry entry_of(abi::directory_kind kind, const IpAddress& ip, uint16_t port, uint8_t protocol,
                              uint32_t index) {
    return {.address = to_abi(ip),
            .port_be = to_network(port),
            .protocol = protocol,
            .kind = static_cast<uint8_t>(kind),
            .index = index,
            .reserved = 0};
}

struct UsedUp {
    std::string what;
};

// Makes one plan; its functions are called in the order in which they stand here.
class Planner {
  public:
    Planner(const PlanInput& input, Indexes indexes, const Plan& held)
        : input_(input), held_(held), made_{.plan = {}, .indexes = std::move(indexes), .notes = {}} {}

    Planned make() {
        made_.indexes.services.rest_all();
        made_.indexes.endpoints.rest_all();
        made_.indexes.sources.rest_all();
        for (const auto& [first, slots] : held_.rings)
            regions_[first] = static_cast<uint32_t>(slots.size());
        Indexes& book = made_.indexes;
        keep_back(held_.services, book.services, left_services_, [](const abi::packet_service& r) {
            return std::tuple(from_abi(r.address), r.port_be, r.protocol, r.forwarding);
        });
        keep_back(held_.endpoints, book.endpoints, left_endpoints_,
                  [](const abi::packet_endpoint& r) { return std::tuple(from_abi(r.address), r.port_be, r.protocol); });
        keep_back(held_.sources, book.sources, left_sources_, from_abi);
        for (const PlannedService& planned : input_.services) {
            listens_.insert(planned.service->listen.ip);
            take_service(planned);
        }
        for (const PlannedService& planned : input_.services)
            for (const Target& target : planned.targets)
                take_endpoint(*planned.service, target);
        for (const PlannedService& planned : input_.services)
            place_ring(planned);
        keep_resting();
        fill_directory();
        book.services.keep_back({});
        book.endpoints.keep_back({});
        book.sources.keep_back({});
        return std::move(made_);
    }

  private:
    void take_service(const PlannedService& planned);
    void take_endpoint(const Service& service, const Target& target);
    void place_ring(const PlannedService& planned);
    void keep_resting();
    void fill_directory();

    template <class T, class Key, class Left>
    static void keep_back(const std::map<uint32_t, T>& held, Book<Key>& book, Left& left, const auto& who) {
        std::set<uint32_t> numbers;
        for (const auto& [index, record] : held)
            if (!book.owners().contains(index)) {
                numbers.insert(index);
                left.emplace(who(record), index);
            }
        book.keep_back(numbers);
    }

    // Before a newcomer takes a number: the one under which the maps know it.
    template <class Key, class Left>
    static void find_again(const Key& key, const auto& who, Book<Key>& book, const Left& left) {
        if (const auto index = left.find(who); index != left.end() && !book.knows(key))
            book.take_at(key, index->second);
    }

    uint32_t index_of(const Service& service);
    uint32_t index_of(const Service& service, const Target& target);

    const PlanInput& input_;
    const Plan& held_;
    Planned made_;
    std::map<uint32_t, uint32_t> regions_;  // of rings: what may not be written; first slot, slots
    // What the maps hold under numbers that the book does not know: released, or the book was lost. A newcomer gets
    // such a number only if it is its own; the others are cleared by this plan, and for the next one they are free.
    std::map<std::tuple<IpAddress, uint16_t, uint8_t, uint8_t>, uint32_t> left_services_;
    std::map<std::tuple<IpAddress, uint16_t, uint8_t>, uint32_t> left_endpoints_;
    std::map<IpAddress, uint32_t> left_sources_;
    std::set<IpAddress> listens_;       // the services' addresses
    std::map<uint32_t, bool> answers_;  // by endpoint: whether packets come back from there
    std::map<std::vector<IpAddress>, SourceRun> runs_;
    size_t access_nodes_ = 0;
};

uint32_t Planner::index_of(const Service& service) {
    const ServiceKey key{service.name, service.protocol, service.listen, forwarding_of(service)};
    find_again(key,
               std::tuple(service.listen.ip, to_network(service.listen.port), number_of(service.protocol),
                          static_cast<uint8_t>(key.forwarding)),
               made_.indexes.services, left_services_);
    const auto index = made_.indexes.services.take(key);
    if (!index)
        throw UsedUp{
            fmt::format("no index is left for service {}: there are {}, and those of removed services rest "
                        "until their flows have ended",
                        service.name, made_.indexes.services.limit() - 1)};
    return *index;
}

uint32_t Planner::index_of(const Service& service, const Target& target) {
    const EndpointKey key{target.address, service.protocol};
    find_again(key, std::tuple(target.address.ip, to_network(target.address.port), number_of(service.protocol)),
               made_.indexes.endpoints, left_endpoints_);
    const auto index = made_.indexes.endpoints.take(key);
    if (!index)
        throw UsedUp{
            fmt::format("no index is left for endpoint {} of service {}: there are {}, and those of removed "
                        "endpoints rest until their flows have ended",
                        to_string(target.address), service.name, made_.indexes.endpoints.limit() - 1)};
    return *index;
}

void Planner::take_service(const PlannedService& planned) {
    const Service& service = *planned.service;
    const uint32_t index = index_of(service);
    const bool tcp = service.protocol == Protocol::tcp;
    const Duration idle = idle_timeout_of(service, input_.stream);
    const NewFlowLimit limit = new_flow_limit(service.limits.new_connections);

    abi::packet_service record{};
    record.address = to_abi(service.listen.ip);
    record.port_be = to_network(service.listen.port);
    record.protocol = number_of(service.protocol);
    record.forwarding = forwarding_of(service);
    if (service.routing.policy == Policy::maglev) record.flags |= abi::service_by_client;
    if (planned.access) record.flags |= abi::service_has_access;
    record.seed = service.routing.seed;
    record.idle_seconds = seconds_of(idle);
    record.opening_seconds = seconds_of(std::min(idle, tcp ? opening_tcp : opening_udp));
    record.connections = static_cast<uint32_t>(std::min<uint64_t>(service.limits.connections.value_or(0), UINT32_MAX));
    record.mss = service.mss.value_or(0);
    record.new_flow_step = limit.step;
    record.new_flow_tolerance = limit.tolerance;
    const abi::packet_limits limits = packet_limits_of(service);
    record.flags |= flags_of(limits);
    if (!same_bytes(limits, abi::packet_limits{})) made_.plan.limits[index] = limits;
    if (input_.qos.enabled) {
        record.flags |= abi::service_has_qos;
        made_.plan.qos[index] = packet_qos_of(service, input_.qos, input_.cpus);
    }
    made_.plan.services[index] = record;

    if (!planned.access) return;
    made_.plan.access[index] = planned.access;
    access_nodes_ += planned.access->nodes.size();
    if (access_nodes_ > size_t{2} * abi::most_access_prefixes)
        throw UsedUp{
            fmt::format("the access lists of all services take more than {} nodes, of which an entry takes two "
                        "at most; fold them into larger networks",
                        2 * abi::most_access_prefixes)};
}

// Services that share an endpoint write one record.
void Planner::take_endpoint(const Service& service, const Target& target) {
    const uint32_t index = index_of(service, target);
    abi::packet_endpoint& record = made_.plan.endpoints[index];
    record.address = to_abi(target.address.ip);
    record.port_be = to_network(target.address.port);
    record.protocol = number_of(service.protocol);
    if (target.gateway) record.gateway = to_abi(*target.gateway);
    record.flags |= target.lost ? abi::endpoint_dead : abi::endpoint_in_use;
    if (target.weight > 0 && target.up && !target.draining) record.flags |= abi::endpoint_takes;
    bool& answers = answers_[index];
    answers |= service.forwarding != Forwarding::dsr;
    if (service.forwarding == Forwarding::dnat) {
        record.dnat_service = index_of(service);
        return;
    }
    const std::vector<IpAddress> wanted = input_.sources.towards(target);
    for (const IpAddress& address : wanted)
        find_again(address, address, made_.indexes.sources, left_sources_);
    const auto [found, fresh] = runs_.try_emplace(wanted);
    if (fresh) found->second = take_sources(wanted, made_.indexes.sources, made_.notes);
    if (std::any_of(wanted.begin(), wanted.end(), [&](const IpAddress& ip) { return listens_.contains(ip); }))
        record.flags |= abi::endpoint_shares;
    record.source_first = found->second.first;
    record.source_count = found->second.count;
}

void Planner::place_ring(const PlannedService& planned) {
    const Service& service = *planned.service;
    const uint32_t index = index_of(service);
    std::vector<uint32_t> ring = ring_of(service.routing.policy, service.routing.seed, planned.targets);
    if (ring.empty()) return;
    for (uint32_t& slot : ring)
        slot = index_of(service, planned.targets[slot]);

    const auto slots = static_cast<uint32_t>(ring.size());
    uint32_t first = 0;
    const auto now = held_.services.find(index);
    const auto lies = now == held_.services.end() || !static_cast<uint32_t>(now->second.ring)
                          ? held_.rings.end()
                          : held_.rings.find(static_cast<uint32_t>(now->second.ring >> 32));
    if (lies != held_.rings.end() && lies->second == ring) {
        first = lies->first;
    } else {
        const auto found = find_region(regions_, slots, input_.capacity.ring_slots);
        if (!found)
            throw UsedUp{fmt::format("of {} slots none are left for the Maglev table of service {}, which takes {}",
                                     input_.capacity.ring_slots, service.name, slots)};
        first = *found;
        regions_[first] = slots;
    }
    made_.plan.services.at(index).ring = uint64_t{first} << 32 | slots;
    made_.plan.rings[first] = std::move(ring);
}

// Flows may still carry what is gone. Its records say as much as they need.
void Planner::keep_resting() {
    for (const auto& [index, key] : made_.indexes.services.resting()) {
        abi::packet_service& record = made_.plan.services[index] = {};
        record.address = to_abi(key.listen.ip);
        record.port_be = to_network(key.listen.port);
        record.protocol = number_of(key.protocol);
        record.forwarding = key.forwarding;
    }
    for (const auto& [index, key] : made_.indexes.endpoints.resting()) {
        abi::packet_endpoint& record = made_.plan.endpoints[index] = {};
        record.address = to_abi(key.address.ip);
        record.port_be = to_network(key.address.port);
        record.protocol = number_of(key.protocol);
    }
    for (const auto& [index, address] : made_.indexes.sources.owners())
        made_.plan.sources[index] = to_abi(address);
}

void Planner::fill_directory() {
    std::vector<abi::directory_entry>& directory = made_.plan.directory;
    std::map<IpAddress, uint32_t> hosts;  // with the lowest of its services
    for (const auto& [index, address] : made_.indexes.sources.owners())
        directory.push_back(entry_of(abi::directory_source, address, 0, 0, index));
    for (const PlannedService& planned : input_.services) {
        const Service& service = *planned.service;
        const uint32_t index = index_of(service);
        directory.push_back(entry_of(abi::directory_service, service.listen.ip, service.listen.port,
                                     number_of(service.protocol), index));
        // What is the machine's own answers for itself; and what was its own, while flows still speak from it.
        if (!input_.own.contains(service.listen.ip) && !made_.indexes.sources.knows(service.listen.ip)) {
            uint32_t& host = hosts.try_emplace(service.listen.ip, index).first->second;
            host = std::min(host, index);
        }
    }
    for (const auto& [ip, index] : hosts)
        directory.push_back(entry_of(abi::directory_host, ip, 0, 0, index));
    for (const auto& [index, answers] : answers_) {
        const EndpointKey& key = made_.indexes.endpoints.owners().at(index);
        if (answers)
            directory.push_back(
                entry_of(abi::directory_endpoint, key.address.ip, key.address.port, number_of(key.protocol), index));
    }
    sort(directory);
}

}  // namespace

abi::packet_forwarding forwarding_of(const Service& service) {
    if (service.forwarding == Forwarding::nat) return abi::forwarding_nat;
    if (service.forwarding == Forwarding::dnat) return abi::forwarding_dnat;
    return service.encapsulation == Encapsulation::gue ? abi::forwarding_dsr_gue : abi::forwarding_dsr_ipip;
}

Result<Planned> make_plan(const PlanInput& input, Indexes indexes, const Plan& held) {
    try {
        Planned made = Planner(input, std::move(indexes), held).make();
        // Also as it is on the way there; see reconcile.
        for (const auto& directory : {made.plan.directory, joined(held.directory, made.plan.directory)})
            if (auto table = build_directory(directory); !table) return Error{table.error()};
        return made;
    } catch (const UsedUp& used_up) {
        return Error{fmt::format("packet plane: {}", used_up.what)};
    }
}

void sort(std::vector<abi::directory_entry>& directory) {
    std::sort(directory.begin(), directory.end(), goes_before);
}

std::vector<abi::directory_entry> joined(const std::vector<abi::directory_entry>& first,
                                         const std::vector<abi::directory_entry>& second) {
    std::vector<abi::directory_entry> both;
    std::set_union(first.begin(), first.end(), second.begin(), second.end(), std::back_inserter(both), goes_before);
    return both;
}

namespace {

template <class T>
bool same_records(const std::map<uint32_t, T>& a, const std::map<uint32_t, T>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
        return x.first == y.first && same_bytes(x.second, y.second);
    });
}

}  // namespace

bool operator==(const Plan& a, const Plan& b) {
    return same_records(a.services, b.services) && same_records(a.limits, b.limits) && same_records(a.qos, b.qos) &&
           same_records(a.endpoints, b.endpoints) && same_records(a.sources, b.sources) && a.rings == b.rings &&
           same(a.access, b.access) &&
           std::equal(a.directory.begin(), a.directory.end(), b.directory.begin(), b.directory.end(),
                      [](const auto& x, const auto& y) { return same_bytes(x, y); });
}

}  // namespace marchproxy::packet
