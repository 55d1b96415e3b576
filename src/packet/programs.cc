#include "packet/programs.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "bpf/lib/shared_bucket.h"
#include "model/descriptor.h"
#include "packet/directory.h"
#include "packet/libbpf_messages.h"
#include "packet/singles.h"

using marchproxy::abi::flow_table_settings;  // NOLINT(misc-unused-using-decls): the skeleton knows no namespaces
#include "bpf/packet.skel.h"

namespace marchproxy::packet {
namespace {

Error failed(std::string_view what, int error) {
    const char* advice = error == EPERM ? "; it takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN" : "";
    return {fmt::format("packet plane: {}: {}{}", what, strerror(error), advice)};
}

// The share of cells in use that max_flows stands for. Of 300,000 new flows in place of old ones none is refused at
// 0.6, 3 in 10^5 at 0.7 and 7 in 10^4 at 0.8 (bpf/flow_table_test.cc); see docs/decisions/0006-flow-table.md.
constexpr double flow_table_load = 0.6;

uint32_t chunks_for(uint64_t flows) {
    return static_cast<uint32_t>(static_cast<double>(flows) / flow_table_load / int{abi::flow_chunk_cells}) + 1;
}

// How far into a value the first cache line begins: the values of an array map lie behind its header, whose size is the
// kernel's affair. Wrong alignment costs time, nothing else, so that a kernel without BTF does not matter.
uint32_t alignment_of_values() {
    uint32_t offset = 0;
    if (btf* kernel = btf__load_vmlinux_btf()) {
        const int id = btf__find_by_name_kind(kernel, "bpf_array", BTF_KIND_STRUCT);
        if (const btf_type* type = id > 0 ? btf__type_by_id(kernel, static_cast<uint32_t>(id)) : nullptr)
            offset = btf_member_bit_offset(type, static_cast<uint32_t>(btf_vlen(type)) - 1) / 8;
        btf__free(kernel);
    }
    return (64 - offset % 64) % 64;
}

// Coarse clocks advance once a jiffy, and say so (kernel/time/posix-timers.c).
int64_t nanoseconds_a_jiffy() {
    timespec resolution{};
    clock_getres(CLOCK_MONOTONIC_COARSE, &resolution);
    return resolution.tv_nsec > 0 ? resolution.tv_nsec : 4'000'000;
}

// Puts maps at indexes [first, first + count) of an array of maps, as `make` makes them; where it makes none, errno
// says why. In batches: each costs the kernel a grace period, and a map a descriptor until it is there.
Result<void> put_maps(int outer, uint32_t first, uint32_t count, const std::function<Descriptor(uint32_t)>& make,
                      const char* what) {
    constexpr uint32_t batch = 512;
    std::vector<Descriptor> made;
    std::vector<int> maps;
    std::vector<uint32_t> keys;
    for (uint32_t number = 0; number < count; ++number) {
        made.push_back(make(number));
        if (!made.back()) return failed(fmt::format("memory for {}, piece {} of {}", what, number + 1, count), errno);
        maps.push_back(made.back().get());
        keys.push_back(first + number);
        if (made.size() < batch && number + 1 < count) continue;
        uint32_t put = static_cast<uint32_t>(maps.size());
        if (bpf_map_update_batch(outer, keys.data(), maps.data(), &put, nullptr) < 0)
            return failed(fmt::format("filling {}", what), errno);
        made.clear();
        maps.clear();
        keys.clear();
    }
    return {};
}

// Fills a table of flows with empty chunks.
Result<void> fill_with_chunks(const bpf_map* outer, uint32_t count, uint32_t value_size, const char* name) {
    const auto make = [&](uint32_t) {
        return Descriptor(bpf_map_create(BPF_MAP_TYPE_ARRAY, name, sizeof(uint32_t), value_size, 1, nullptr));
    };
    return put_maps(bpf_map__fd(outer), 0, count, make, "the flow table");
}

template <class T>
Result<void> write(const bpf_map* map, uint32_t index, const T& value) {
    if (bpf_map__update_elem(map, &index, sizeof index, &value, sizeof value, BPF_ANY) == 0) return {};
    return failed(fmt::format("writing entry {} of {}", index, bpf_map__name(map)), errno);
}

// Sums the per-CPU values of a struct that is nothing but 64-bit counters.
template <class T>
Result<T> sum(const bpf_map* map, uint32_t index) {
    const int cpus = libbpf_num_possible_cpus();
    if (cpus < 0) return failed("counting CPUs", -cpus);
    std::vector<T> values(static_cast<size_t>(cpus));
    if (bpf_map__lookup_elem(map, &index, sizeof index, values.data(), values.size() * sizeof(T), 0) < 0)
        return failed(fmt::format("reading entry {} of {}", index, bpf_map__name(map)), errno);
    T total{};
    for (const T& value : values)
        for (size_t word = 0; word < sizeof(T) / sizeof(__u64);
             ++word)  // uint64_t is another type, and may not alias them
            reinterpret_cast<__u64*>(&total)[word] += reinterpret_cast<const __u64*>(&value)[word];
    return total;
}

template <class T>
Result<void> clear(const bpf_map* map, uint32_t index) {
    const int cpus = libbpf_num_possible_cpus();
    if (cpus < 0) return failed("counting CPUs", -cpus);
    const std::vector<T> none(static_cast<size_t>(cpus));
    if (bpf_map__update_elem(map, &index, sizeof index, none.data(), none.size() * sizeof(T), BPF_ANY) == 0) return {};
    return failed(fmt::format("clearing entry {} of {}", index, bpf_map__name(map)), errno);
}

// Client addresses to be remembered beside so many flows.
uint32_t sources_for(uint64_t flows, uint32_t most) {
    return static_cast<uint32_t>(std::clamp<uint64_t>(flows, 1024, most));
}

void size_maps(packet_bpf& skeleton, const Capacity& capacity, uint32_t chunks) {
    bpf_map__set_max_entries(skeleton.maps.services, capacity.services);
    bpf_map__set_max_entries(skeleton.maps.service_counts, capacity.services);
    bpf_map__set_max_entries(skeleton.maps.admissions, capacity.services);
    bpf_map__set_max_entries(skeleton.maps.limits, capacity.services);
    bpf_map__set_max_entries(skeleton.maps.packet_credits, capacity.services);
    for (bpf_map* of_services : {skeleton.maps.qos, skeleton.maps.qos_buckets, skeleton.maps.qos_counts})
        bpf_map__set_max_entries(of_services, capacity.services);
    bpf_map__set_max_entries(skeleton.maps.source_flows, sources_for(capacity.flows, abi::counted_sources));
    bpf_map__set_max_entries(skeleton.maps.source_rates, sources_for(capacity.flows, abi::rated_sources));
    bpf_map__set_max_entries(skeleton.maps.proofs, sources_for(capacity.flows, abi::syn_proofs));
    bpf_map__set_max_entries(skeleton.maps.reports, capacity.report_bytes);
    bpf_map__set_max_entries(skeleton.maps.endpoints, capacity.endpoints);
    bpf_map__set_max_entries(skeleton.maps.endpoint_counts, capacity.endpoints);
    bpf_map__set_max_entries(skeleton.maps.next_hops, capacity.endpoints + abi::client_hops);
    bpf_map__set_max_entries(skeleton.maps.maglev, capacity.ring_slots);
    bpf_map__set_max_entries(skeleton.maps.client_flows, chunks);
    bpf_map__set_max_entries(skeleton.maps.endpoint_flows, chunks);
    bpf_map__set_max_entries(skeleton.maps.clients, chunks);
    bpf_map__set_max_entries(skeleton.maps.access_nodes, 1 + 2 * abi::access_half);
}

Result<MapsMade> make_anew(const Capacity& capacity) {
    MapsMade made{.capacity = capacity};
    made.table.chunks = chunks_for(capacity.flows);
    made.table.alignment = alignment_of_values();
    if (getrandom(made.table.key, sizeof made.table.key, 0) == sizeof made.table.key) return made;
    return failed("drawing the flow table's key", errno);
}

// What the programs are told before they are loaded.
void settle(packet_bpf& skeleton, const MapsMade& made) {
    auto& settings = *skeleton.rodata;
    settings.first_client_hop = made.capacity.endpoints;
    settings.nat_port_first = made.capacity.nat_port_first;
    settings.nat_ports = made.capacity.nat_ports;
    settings.flow_table = made.table;
    const int64_t jiffy = nanoseconds_a_jiffy();
    settings.seconds_a_jiffy = static_cast<uint32_t>((uint64_t(jiffy) << 32) / 1'000'000'000);
    settings.next_hop_jiffies = static_cast<uint32_t>(1'000'000'000 / jiffy);
}

// Maps that hold nothing for another process.
bool passing(const bpf_map* map) {
    const std::string_view name = bpf_map__name(map);
    return bpf_map__is_internal(map) || name == "next_hops" || name == "neighbours" || name == "interfaces" ||
           name == "vlans" || name == "queue_sockets" || name == "queue_places" || name == "fragments" ||
           name == "tells";
}

Result<void> pin_maps(packet_bpf& skeleton, const PinnedMaps& pins) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, skeleton.obj) {
        if (passing(map)) continue;
        const std::string path = pins.path_of(bpf_map__name(map));
        if (const int error = bpf_map__set_pin_path(map, path.c_str())) return failed("naming " + path, -error);
    }
    return {};
}

Result<void> fill_clients(packet_bpf& skeleton, uint32_t chunks) {
    return fill_with_chunks(skeleton.maps.clients, chunks, sizeof(abi::flow_client_chunk), "clients");
}

Result<void> fill_maps(packet_bpf& skeleton, const MapsMade& made) {
    for (const bpf_map* table : {skeleton.maps.client_flows, skeleton.maps.endpoint_flows})
        if (auto filled = fill_with_chunks(table, made.table.chunks, sizeof(abi::flow_chunk), "flows"); !filled.ok())
            return filled;
    if (!made.capacity.ipv6_clients) return {};
    return fill_clients(skeleton, made.table.chunks);
}

// Puts a map of one element in another's place. Returns when no packet is under way that saw that one: replacing a map
// in a map waits for it (kernel, maybe_wait_bpf_programs).
template <class T>
Result<void> replace_single(const bpf_map* outer, const T& value) {
    const char* name = bpf_map__name(outer);
    const Descriptor single = make_single(name, value);
    if (!single) return failed(fmt::format("memory for {}", name), errno);
    const uint32_t zero = 0;
    const int inner = single.get();
    if (bpf_map__update_elem(outer, &zero, sizeof zero, &inner, sizeof inner, BPF_ANY) == 0) return {};
    return failed(fmt::format("replacing {}", name), errno);
}

// Frees the memory of chunks that no root names any more: one that is empty lies in their places.
Result<void> leave_chunks(int outer, uint32_t first, uint32_t count) {
    if (count == 0) return {};
    const Descriptor empty = make_single("access_nodes", abi::access_chunk{});
    if (!empty) return failed("memory for the access lists", errno);
    return put_maps(
        outer, first, count, [&](uint32_t) { return Descriptor(fcntl(empty.get(), F_DUPFD_CLOEXEC, 0)); },
        "the access lists");
}

}  // namespace

void Programs::Destroy::operator()(packet_bpf* skeleton) const {
    packet_bpf::destroy(skeleton);
}

Programs::Programs(Programs&&) noexcept = default;
Programs& Programs::operator=(Programs&&) noexcept = default;
Programs::~Programs() = default;

Result<Programs> Programs::load(const Capacity& capacity, const PinnedMaps* pins) {
    const LibbpfMessages messages;
    Programs programs{std::unique_ptr<packet_bpf, Destroy>(packet_bpf::open())};
    packet_bpf* skeleton = programs.skeleton_.get();
    if (!skeleton) return failed("opening the programs", errno);

    if (const auto there = pins ? pins->read_made() : std::nullopt) {
        programs.made_ = *there;
        programs.took_over_ = true;
    } else {
        auto made = make_anew(capacity);
        if (!made.ok()) return Error{made.error()};
        programs.made_ = *made;
    }
    size_maps(*skeleton, programs.made_.capacity, programs.made_.table.chunks);
    settle(*skeleton, programs.made_);
    if (pins)
        if (auto pinned = programs.prepare_pins(*pins); !pinned.ok()) return Error{pinned.error()};
    if (const int error = packet_bpf::load(skeleton)) {
        const Error refused = failed("loading the programs", -error);
        return Error{fmt::format("{}. libbpf says: {}", refused.message, messages.last())};
    }
    if (!programs.took_over_)
        if (auto filled = programs.fill(pins); !filled.ok()) return Error{filled.error()};
    if (auto opened = programs.open_rings(); !opened.ok()) return Error{opened.error()};
    return programs;
}

Result<void> Programs::open_rings() {
    auto reports = RecordRing::open(bpf_map__fd(skeleton_->maps.reports), sizeof(abi::flow_report));
    if (!reports.ok()) return Error{reports.error()};
    reports_ = std::move(*reports);
    auto neighbours = RecordRing::open(bpf_map__fd(skeleton_->maps.neighbours), sizeof(abi::neighbour_report));
    if (!neighbours.ok()) return Error{neighbours.error()};
    neighbours_ = std::move(*neighbours);
    return {};
}

Result<void> Programs::prepare_pins(const PinnedMaps& pins) {
    if (!took_over_) pins.remove();  // half made, or of another revision
    if (auto made = pins.make_directory(); !made.ok()) return made;
    return pin_maps(*skeleton_, pins);
}

Result<void> Programs::fill(const PinnedMaps* pins) {
    auto filled = fill_maps(*skeleton_, made_);
    if (!pins) return filled;
    if (filled.ok()) filled = pins->write_made(made_);
    if (!filled.ok()) pins->remove();
    return filled;
}

Result<void> Programs::make_room_for_ipv6_clients(const PinnedMaps& pins) {
    if (made_.capacity.ipv6_clients) return {};
    if (auto filled = fill_clients(*skeleton_, made_.table.chunks); !filled.ok()) return filled;
    made_.capacity.ipv6_clients = true;
    return pins.write_made(made_);
}

bpf_object* Programs::open_again() const {
    const LibbpfMessages messages;
    size_t size = 0;
    const void* bytes = packet_bpf::elf_bytes(&size);
    // The compiler's own maps are called after the object.
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = bpf_object__name(skeleton_->obj));
    bpf_object* object = bpf_object__open_mem(bytes, size, &options);
    if (!object) return nullptr;
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object)
        bpf_program__set_autoload(program, std::string_view(bpf_program__name(program)) == "packet_xdp");
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object) {
        const bpf_map* loaded = bpf_object__find_map_by_name(skeleton_->obj, bpf_map__name(map));
        if (loaded && bpf_map__reuse_fd(map, bpf_map__fd(loaded)) == 0) continue;
        bpf_object__close(object);
        return nullptr;
    }
    return object;
}

uint32_t Programs::flow_buckets() const {
    return made_.table.chunks * abi::flow_buckets;
}

uint64_t Programs::table_bytes() const {
    return flow_table_bytes(made_.capacity.flows, made_.capacity.ipv6_clients);
}

uint64_t Programs::flow_table_bytes(uint64_t flows, bool ipv6_clients) {
    constexpr uint64_t piece = uint64_t{32} << 10;  // the allocator's, for a chunk and its map's header
    return chunks_for(flows) * (2 * piece + (ipv6_clients ? sizeof(abi::flow_client_chunk) : 0));
}

Result<void> Programs::set_service(uint32_t index, const abi::packet_service& service) {
    return write(skeleton_->maps.services, index, service);
}
Result<void> Programs::set_limits(uint32_t service, const abi::packet_limits& limits) {
    abi::packet_limits before{};
    (void)bpf_map__lookup_elem(skeleton_->maps.limits, &service, sizeof service, &before, sizeof before, 0);
    if (limits.connections_per_source && !before.connections_per_source) forget_sources(service);
    return write(skeleton_->maps.limits, service, limits);
}

void Programs::forget_sources(uint32_t service) {
    const int map = bpf_map__fd(skeleton_->maps.source_flows);
    abi::source_key key{}, next{};
    bool more = bpf_map_get_next_key(map, nullptr, &next) == 0;
    while (more) {
        key = next;
        more = bpf_map_get_next_key(map, &key, &next) == 0;  // before it is gone, or all would begin again
        if (key.service == service) bpf_map_delete_elem(map, &key);
    }
}

Result<void> Programs::set_qos(uint32_t service, const abi::packet_qos& qos) {
    abi::packet_qos before{};
    (void)bpf_map__lookup_elem(skeleton_->maps.qos, &service, sizeof service, &before, sizeof before, 0);
    if (auto written = write(skeleton_->maps.qos, service, qos); !written.ok()) return written;
    abi::qos_buckets buckets{};
    (void)bpf_map__lookup_elem(skeleton_->maps.qos_buckets, &service, sizeof service, &buckets, sizeof buckets, 0);
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);  // bpf_ktime_get_ns()
    const uint64_t time = uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
    for (const abi::flow_direction direction : {abi::direction_up, abi::direction_down})
        if (const uint64_t rate = qos.rate[direction].bits_per_second; rate != before.rate[direction].bits_per_second)
            buckets.word[direction] = abi::bits_carried(rate, time);
    return write(skeleton_->maps.qos_buckets, service, buckets);
}

Result<void> Programs::set_endpoint(uint32_t index, const abi::packet_endpoint& endpoint) {
    return write(skeleton_->maps.endpoints, index, endpoint);
}
Result<void> Programs::set_source(uint32_t index, const abi::address& address) {
    return write(skeleton_->maps.source_addresses, index, address);
}

Result<void> Programs::set_ring(uint32_t first, std::span<const uint32_t> endpoints) {
    std::vector<uint32_t> slots(endpoints.size());
    for (uint32_t i = 0; i < slots.size(); ++i)
        slots[i] = first + i;
    uint32_t count = static_cast<uint32_t>(slots.size());
    if (bpf_map_update_batch(bpf_map__fd(skeleton_->maps.maglev), slots.data(), endpoints.data(), &count, nullptr) == 0)
        return {};
    return failed(fmt::format("writing {} slots of the Maglev tables from {}", slots.size(), first), errno);
}

Result<void> Programs::set_access(const AccessTrees& trees) {
    const auto before = std::make_unique<abi::access_roots>();
    const bool any = read_single(bpf_map__fd(skeleton_->maps.access_roots), 0, *before);
    const uint32_t halves[] = {1, 1 + abi::access_half};  // by their first chunk
    const uint32_t first = any && before->first_chunk == halves[0] ? halves[1] : halves[0];
    auto packed = pack(trees, first, abi::access_half);
    if (!packed.ok()) return Error{packed.error()};

    const int nodes = bpf_map__fd(skeleton_->maps.access_nodes);
    const auto make = [&](uint32_t number) { return make_single("access_nodes", packed->chunks[number]); };
    if (auto put = put_maps(nodes, first, packed->roots->chunks, make, "the access lists"); !put.ok()) return put;
    if (auto replaced = replace_single(skeleton_->maps.access_roots, *packed->roots); !replaced.ok()) return replaced;
    return any ? leave_chunks(nodes, before->first_chunk, before->chunks) : Result<void>();
}

Result<void> Programs::set_directory(const abi::directory& directory) {
    return replace_single(skeleton_->maps.directory, directory);
}

Result<void> Programs::set_interface(uint32_t index, const std::array<uint8_t, 6>& mac) {
    abi::packet_interface answers{};
    std::memcpy(answers.mac, mac.data(), mac.size());
    return write(skeleton_->maps.interfaces, index, answers);
}

Result<void> Programs::set_vlans(const std::map<unsigned, abi::packet_vlan>& vlans) {
    const int map = bpf_map__fd(skeleton_->maps.vlans);
    uint32_t key = 0, next = 0;
    bool more = bpf_map_get_next_key(map, nullptr, &next) == 0;
    while (more) {
        key = next;
        more = bpf_map_get_next_key(map, &key, &next) == 0;  // before it is gone, or all would begin again
        if (!vlans.contains(key)) bpf_map_delete_elem(map, &key);
    }
    for (const auto& [index, vlan] : vlans) {
        if (bpf_map_update_elem(map, &index, &vlan, BPF_ANY) == 0) continue;
        if (errno != E2BIG) return failed(fmt::format("writing VLAN interface {}", index), errno);
        return Error{
            fmt::format("packet plane: there are {} VLAN interfaces, and room for {}; XDP sends nothing by the others",
                        vlans.size(), uint32_t{abi::vlan_devices})};
    }
    return {};
}

// No interface is named before its sockets are there.
Result<void> Programs::set_queues(const std::vector<QueueSockets::Place>& places) {
    const int first_of = bpf_map__fd(skeleton_->maps.queue_places);
    uint32_t key = 0;
    while (bpf_map_get_next_key(first_of, nullptr, &key) == 0 && bpf_map_delete_elem(first_of, &key) == 0) {
    }
    for (const QueueSockets::Place& place : places) {
        uint32_t at = place.first;
        for (const int socket : place.sockets) {
            if (at >= abi::queue_sockets_most)
                return Error{fmt::format("packet plane: the interfaces have more than {} queues",
                                         uint32_t{abi::queue_sockets_most})};
            if (auto written = write(skeleton_->maps.queue_sockets, at++, socket); !written.ok()) return written;
        }
        if (auto written = write(skeleton_->maps.queue_places, place.interface, place.first); !written.ok())
            return written;
    }
    return {};
}

void Programs::bounce_by_redirect() {
    skeleton_->bss->bounce_by_redirect = 1;
}

void Programs::routes_changed() {
    skeleton_->bss->routes_generation = skeleton_->bss->routes_generation + 1;
}

int Programs::xdp() const {
    return bpf_program__fd(skeleton_->progs.packet_xdp);
}
int Programs::tc() const {
    return bpf_program__fd(skeleton_->progs.packet_tc);
}

int Programs::map(const char* name) const {
    return bpf_object__find_map_fd_by_name(skeleton_->obj, name);
}

Result<abi::packet_counters> Programs::service_counters(uint32_t index) const {
    return sum<abi::packet_counters>(skeleton_->maps.service_counts, index);
}
Result<abi::endpoint_counters> Programs::endpoint_counters(uint32_t index) const {
    return sum<abi::endpoint_counters>(skeleton_->maps.endpoint_counts, index);
}

Result<abi::qos_counters> Programs::qos_counters(uint32_t service) const {
    return sum<abi::qos_counters>(skeleton_->maps.qos_counts, service);
}
Result<void> Programs::clear_service(uint32_t index) {
    forget_sources(index);
    if (auto written = write(skeleton_->maps.admissions, index, abi::admission{}); !written.ok()) return written;
    if (auto cleared = clear<abi::qos_counters>(skeleton_->maps.qos_counts, index); !cleared.ok()) return cleared;
    return clear<abi::packet_counters>(skeleton_->maps.service_counts, index);
}
Result<void> Programs::clear_endpoint(uint32_t index) {
    return clear<abi::endpoint_counters>(skeleton_->maps.endpoint_counts, index);
}

Result<abi::sweep> Programs::sweep(uint32_t first, uint32_t buckets, uint32_t list_service, uint32_t list_limit) {
    abi::sweep request{
        .first_bucket = first, .buckets = buckets, .list_service = list_service, .list_limit = list_limit};
    LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = &request, .ctx_size_in = sizeof request);
    if (bpf_prog_test_run_opts(bpf_program__fd(skeleton_->progs.sweep), &options) == 0) return request;
    return failed(fmt::format("sweeping buckets {} to {} of the flow table", first, uint64_t{first} + buckets), errno);
}

Result<size_t> Programs::take_reports(const std::function<void(const abi::flow_report&)>& take) {
    return reports_.take([&](const void* record) { take(*static_cast<const abi::flow_report*>(record)); });
}
Result<size_t> Programs::take_neighbours(const std::function<void(const abi::neighbour_report&)>& take) {
    return neighbours_.take([&](const void* record) { take(*static_cast<const abi::neighbour_report*>(record)); });
}

}  // namespace marchproxy::packet
