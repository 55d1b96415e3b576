#include "packet/read_back.h"

#include <bpf/bpf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "packet/directory.h"
#include "packet/singles.h"

namespace marchproxy::packet {

namespace {

struct Unreadable {
    std::string map;
    int error;
};

// `count` entries of an array map from `first`.
template <class T>
std::vector<T> read_array(const Programs& programs, const char* name, uint32_t first, uint32_t count) {
    constexpr uint32_t at_once = 4096;
    std::vector<T> values(count);
    std::vector<uint32_t> keys(at_once);
    const int map = programs.map(name);
    for (uint32_t done = 0; done < count;) {
        uint32_t before = first + done - 1, next = 0, taken = std::min(at_once, count - done);
        LIBBPF_OPTS(bpf_map_batch_opts, options);
        const int result = bpf_map_lookup_batch(map, first + done == 0 ? nullptr : &before, &next, keys.data(),
                                                &values[done], &taken, &options);
        if ((result != 0 && errno != ENOENT) || taken == 0) throw Unreadable{name, errno};
        done += taken;
    }
    return values;
}

template <class T>
std::map<uint32_t, T> records_of(const Programs& programs, const char* name, uint32_t count) {
    std::map<uint32_t, T> found;
    const std::vector<T> records = read_array<T>(programs, name, 0, count);
    for (uint32_t index = 0; index < count; ++index)
        if (!same_bytes(records[index], T{})) found[index] = records[index];
    return found;
}

void read_rings(const Programs& programs, Plan& plan) {
    for (const auto& [index, service] : plan.services) {
        const auto slots = static_cast<uint32_t>(service.ring), first = static_cast<uint32_t>(service.ring >> 32);
        if (slots > 0) plan.rings[first] = read_array<uint32_t>(programs, "maglev", first, slots);
    }
}

// One of an array of single maps. False: none was set.
template <class T>
bool read_one(const Programs& programs, const char* name, uint32_t index, T& value) {
    if (read_single(programs.map(name), index, value)) return true;
    if (errno == ENOENT) return false;
    throw Unreadable{name, errno};
}

void read_access(const Programs& programs, Plan& plan) {
    PackedAccess packed;
    packed.roots = std::make_unique<abi::access_roots>();
    if (!read_one(programs, "access_roots", 0, *packed.roots)) return;
    const uint32_t first = packed.roots->first_chunk, count = packed.roots->chunks;
    if (count > abi::access_half) throw Unreadable{"access_roots", EBADMSG};
    packed.chunks.resize(count);
    for (uint32_t chunk = 0; chunk < count; ++chunk)
        if (!read_one(programs, "access_nodes", first + chunk, packed.chunks[chunk]))
            throw Unreadable{"access_nodes", ENOENT};
    auto trees = unpack(packed);
    if (!trees) throw Unreadable{"access_nodes", EBADMSG};
    plan.access = std::move(*trees);
}

void read_directory(const Programs& programs, Plan& plan) {
    const auto table = std::make_unique<abi::directory>();
    if (!read_one(programs, "directory", 0, *table)) return;
    for (const abi::directory_entry& entry : table->entry)
        if (entry.kind != abi::directory_empty) plan.directory.push_back(entry);
    sort(plan.directory);
}

}  // namespace

Result<Plan> read_back(const Programs& programs) {
    const Capacity& capacity = programs.capacity();
    Plan plan;
    try {
        plan.services = records_of<abi::packet_service>(programs, "services", capacity.services);
        plan.limits = records_of<abi::packet_limits>(programs, "limits", capacity.services);
        plan.qos = records_of<abi::packet_qos>(programs, "qos", capacity.services);
        plan.endpoints = records_of<abi::packet_endpoint>(programs, "endpoints", capacity.endpoints);
        plan.sources = records_of<abi::address>(programs, "source_addresses", abi::max_source_addresses);
        read_rings(programs, plan);
        read_access(programs, plan);
        read_directory(programs, plan);
    } catch (const Unreadable& unreadable) {
        return Error{fmt::format(
            "packet plane: what an earlier process left in map {} cannot be read: {}; `marchproxy-l3l4 detach` removes "
            "it, and ends its flows",
            unreadable.map, std::strerror(unreadable.error))};
    }
    return plan;
}

}  // namespace marchproxy::packet
