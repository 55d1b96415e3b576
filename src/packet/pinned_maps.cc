#include "packet/pinned_maps.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "packet/pinned_text.h"
#include "packet/pins.h"

namespace marchproxy::packet {

namespace {

using Json = nlohmann::json;

struct OutOfRange {};

// The library would wrap a number that does not fit.
template <class T>
void read(const Json& document, const char* name, T& value, uint64_t least = 0, uint64_t most = T(-1)) {
    const Json& number = document.at(name);
    if (!number.is_number_unsigned()) throw OutOfRange{};
    const auto wide = number.get<uint64_t>();
    if (wide < least || wide > most) throw OutOfRange{};
    value = static_cast<T>(wide);
}

}  // namespace

std::string MapsMade::to_text() const {
    return Json{{"revision", int{abi::packet_revision}}, {"flows", capacity.flows},
                {"services", capacity.services},         {"endpoints", capacity.endpoints},
                {"ring_slots", capacity.ring_slots},     {"report_bytes", capacity.report_bytes},
                {"ipv6_clients", capacity.ipv6_clients}, {"nat_port_first", capacity.nat_port_first},
                {"nat_ports", capacity.nat_ports},       {"key", {uint64_t{table.key[0]}, uint64_t{table.key[1]}}},
                {"chunks", uint32_t{table.chunks}},      {"alignment", uint32_t{table.alignment}}}
        .dump();
}

std::optional<MapsMade> MapsMade::from_text(std::string_view text) {
    MapsMade made;
    try {
        const Json json = Json::parse(text);
        if (json.at("revision") != int{abi::packet_revision}) return {};
        Capacity& capacity = made.capacity;
        read(json, "flows", capacity.flows, 1);
        read(json, "services", capacity.services, 1, abi::max_packet_services);
        read(json, "endpoints", capacity.endpoints, 1, abi::max_packet_endpoints);
        read(json, "ring_slots", capacity.ring_slots, 1, abi::maglev_slots);
        read(json, "report_bytes", capacity.report_bytes, 1);
        json.at("ipv6_clients").get_to(capacity.ipv6_clients);
        read(json, "nat_port_first", capacity.nat_port_first);
        read(json, "nat_ports", capacity.nat_ports, 1, 65'536u - capacity.nat_port_first);
        uint32_t chunks = 0, alignment = 0;
        read(json, "chunks", chunks, 1);
        read(json, "alignment", alignment, 0, 63);
        made.table.chunks = chunks;
        made.table.alignment = alignment;
        const Json& key = json.at("key");
        for (size_t word = 0; word < 2; ++word) {
            if (!key.at(word).is_number_unsigned()) return {};
            made.table.key[word] = key.at(word).get<uint64_t>();
        }
    } catch (const Json::exception&) {
        return {};
    } catch (const OutOfRange&) {
        return {};
    }
    return made;
}

Result<PinLock> PinLock::take(const std::string& directory) {
    Descriptor descriptor(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!descriptor) return Error{fmt::format("packet.pin: {}: {}", directory, std::strerror(errno))};
    if (::flock(descriptor.get(), LOCK_EX | LOCK_NB) == 0) return PinLock(std::move(descriptor));
    return Error{
        fmt::format("packet.pin: {} is another running process's; end that one first, or give each a directory "
                    "and interfaces of its own",
                    directory)};
}

std::string PinnedMaps::path_of(std::string_view map) const {
    return fmt::format("{}/maps/{}", directory_, map);
}

Result<void> PinnedMaps::make_directory() const {
    return ensure_on_bpffs(directory_ + "/maps");
}

std::optional<MapsMade> PinnedMaps::read_made() const {
    const auto text = read_pinned_text(directory_ + "/made");
    return text ? MapsMade::from_text(*text) : std::nullopt;
}

Result<void> PinnedMaps::write_made(const MapsMade& made) const {
    return write_pinned_text(directory_ + "/made", made.to_text());
}

std::optional<std::string> PinnedMaps::read_book() const {
    return read_pinned_text(directory_ + "/book");
}

Result<void> PinnedMaps::write_book(std::string_view text) const {
    return write_pinned_text(directory_ + "/book", text);
}

void PinnedMaps::remove() const {
    for (const char* text : {"/made", "/made-new", "/book", "/book-new"})
        ::unlink((directory_ + text).c_str());
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(directory_ + "/maps", ignored))
        ::unlink(entry.path().c_str());
    ::rmdir((directory_ + "/maps").c_str());
}

bool PinnedMaps::any() const {
    return ::access((directory_ + "/maps").c_str(), F_OK) == 0;
}

}  // namespace marchproxy::packet
