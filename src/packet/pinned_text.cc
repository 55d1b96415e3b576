#include "packet/pinned_text.h"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "model/descriptor.h"

namespace marchproxy::packet {

Result<void> write_pinned_text(const std::string& path, std::string_view text) {
    const std::string value(text.empty() ? std::string_view("\0", 1) : text);
    const auto failed = [&] {
        return Error{fmt::format("packet plane: {} cannot be written: {}", path, std::strerror(errno))};
    };
    const Descriptor map(
        bpf_map_create(BPF_MAP_TYPE_ARRAY, "text", sizeof(uint32_t), static_cast<uint32_t>(value.size()), 1, nullptr));
    const uint32_t zero = 0;
    if (!map || bpf_map_update_elem(map.get(), &zero, value.data(), BPF_ANY) != 0) return failed();
    const std::string beside = path + "-new";
    ::unlink(beside.c_str());
    if (bpf_obj_pin(map.get(), beside.c_str()) != 0 || ::rename(beside.c_str(), path.c_str()) != 0) return failed();
    return {};
}

std::optional<std::string> read_pinned_text(const std::string& path) {
    const Descriptor map(bpf_obj_get(path.c_str()));
    if (!map) return {};
    bpf_map_info info{};
    uint32_t size = sizeof info;
    if (bpf_obj_get_info_by_fd(map.get(), &info, &size) != 0) return {};
    // The kernel hands out values in multiples of 8 bytes.
    std::string text((size_t{info.value_size} + 7) / 8 * 8, '\0');
    const uint32_t zero = 0;
    if (bpf_map_lookup_elem(map.get(), &zero, text.data()) != 0) return {};
    text.resize(info.value_size);
    return text == std::string_view("\0", 1) ? std::string() : text;
}

}  // namespace marchproxy::packet
