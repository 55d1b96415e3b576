// Maps of one element, as they lie in the arrays of maps that bpf/lib/maps.h calls singles.
#pragma once

#include <bpf/bpf.h>

#include <cstdint>

#include "model/descriptor.h"

namespace marchproxy::packet {

// One that holds this; none: errno says why not.
template <class T>
Descriptor make_single(const char* name, const T& value) {
    const uint32_t zero = 0;
    Descriptor single(bpf_map_create(BPF_MAP_TYPE_ARRAY, name, sizeof zero, sizeof value, 1, nullptr));
    if (single && bpf_map_update_elem(single.get(), &zero, &value, BPF_ANY) != 0) single.reset();
    return single;
}

// The one at an index of an array of them. False: errno says why not, ENOENT that there is none.
template <class T>
bool read_single(int outer, uint32_t index, T& value) {
    const uint32_t zero = 0;
    uint32_t id = 0;
    if (bpf_map_lookup_elem(outer, &index, &id) != 0) return false;
    const Descriptor single(bpf_map_get_fd_by_id(id));
    return single && bpf_map_lookup_elem(single.get(), &zero, &value) == 0;
}

}  // namespace marchproxy::packet
