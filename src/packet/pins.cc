#include "packet/pins.h"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

namespace marchproxy::packet {

namespace {

constexpr std::string_view usual_mount = "/sys/fs/bpf";
constexpr std::array all_ways = {Way::dispatcher, Way::native, Way::generic, Way::tcx, Way::clsact};

bool on_bpffs(const std::string& path) {
    struct statfs system {};
    return ::statfs(path.c_str(), &system) == 0 && system.f_type == BPF_FS_MAGIC;
}

// The nearest directory above or at `path` that exists.
std::filesystem::path existing_part(std::filesystem::path path) {
    std::error_code ignored;
    while (path.has_relative_path() && !std::filesystem::exists(path, ignored))
        path = path.parent_path();
    return path;
}

bool below_usual_mount(const std::filesystem::path& directory) {
    const std::string text = directory.string() + "/";
    return text.starts_with(std::string(usual_mount) + "/");
}

Error not_on_bpffs(const std::string& directory, int mount_error) {
    const std::string tried = mount_error == 0 ? ""
                                               : fmt::format(", and none could be mounted at {}: {}", usual_mount,
                                                             std::strerror(mount_error));
    return Error{
        fmt::format("packet.pin: {} lies on no BPF file system{}; mount one as root, `mount -t bpf bpf {}`, or give a "
                    "directory that "
                    "lies on one (in a container: -v {}:{})",
                    directory, tried, usual_mount, usual_mount, usual_mount)};
}

Error not_usable(const std::string& directory, const char* what) {
    return Error{fmt::format("packet.pin: {} cannot be {}: {}; it must belong to the user that runs the proxy",
                             directory, what, std::strerror(errno))};
}

// Directories of others on the same file system are not for everyone to read; neither is ours.
Result<void> make_directories(const std::filesystem::path& directory) {
    if (directory.has_relative_path() && ::access(directory.c_str(), F_OK) != 0) {
        if (auto made = make_directories(directory.parent_path()); !made) return made;
        if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return not_usable(directory.string(), "made");
    }
    return {};
}

}  // namespace

Result<void> ensure_on_bpffs(const std::string& directory) {
    const std::filesystem::path wanted = std::filesystem::path(directory).lexically_normal();
    if (!wanted.is_absolute()) return Error{fmt::format("packet.pin: {} is no absolute path", directory)};
    if (!on_bpffs(existing_part(wanted))) {
        if (!below_usual_mount(wanted) || on_bpffs(std::string(usual_mount))) return not_on_bpffs(directory, 0);
        if (::mount("bpf", usual_mount.data(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") != 0)
            return not_on_bpffs(directory, errno);
    }
    if (auto made = make_directories(wanted); !made) return made;
    if (::access(wanted.c_str(), W_OK | X_OK) != 0) return not_usable(directory, "written to");
    return {};
}

std::string pin_file_name(std::string_view interface, Way way) {
    std::string name;
    for (const char c : interface) {
        if (c == '.' || c == '%')
            name += fmt::format("%{:02x}", static_cast<unsigned char>(c));
        else
            name += c;
    }
    // An interface's name holds no colon: the kernel refuses it.
    return fmt::format("{}:{}", name, name_of(way));
}

std::optional<Pin> parse_pin_file_name(std::string_view file_name) {
    const size_t colon = file_name.rfind(':');
    if (colon == std::string_view::npos || colon == 0) return std::nullopt;
    for (const Way way : all_ways) {
        if (file_name.substr(colon + 1) != name_of(way)) continue;
        std::string interface;
        for (std::string_view rest = file_name.substr(0, colon); !rest.empty();) {
            const bool dot = rest.starts_with("%2e"), percent = rest.starts_with("%25");
            interface += dot ? '.' : rest[0];
            rest.remove_prefix(dot || percent ? 3 : 1);
        }
        return Pin{interface, way, {}};
    }
    return std::nullopt;
}

Result<Pins> Pins::open(const std::string& directory) {
    std::string links = links_in(directory);
    if (auto ensured = ensure_on_bpffs(links); !ensured) return Error{ensured.error()};
    return Pins(std::move(links));
}

std::vector<Pin> Pins::list() const {
    std::vector<Pin> pins;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(links_, error)) {
        auto pin = parse_pin_file_name(entry.path().filename().string());
        if (!pin) continue;
        pin->path = entry.path().string();
        pins.push_back(std::move(*pin));
    }
    return pins;
}

Result<Pin> Pins::put(std::string_view interface, Way way, int descriptor) const {
    Pin pin{std::string(interface), way, fmt::format("{}/{}", links_, pin_file_name(interface, way))};
    if (bpf_obj_pin(descriptor, pin.path.c_str()) == 0) return pin;
    const bool occupied = errno == EEXIST;
    // Beside what is there first and then over it, so that at every moment one of the two is found.
    const std::string beside = pin.path + "-new";
    if (occupied) ::unlink(beside.c_str());
    if (!occupied || bpf_obj_pin(descriptor, beside.c_str()) != 0 || ::rename(beside.c_str(), pin.path.c_str()) != 0)
        return Error{
            fmt::format("the attachment to {} cannot be kept in {}: {}; the directory must be writable for the "
                        "proxy and on a BPF file system",
                        interface, links_, std::strerror(errno))};
    return pin;
}

Descriptor Pins::get(const Pin& pin) {
    const int descriptor = bpf_obj_get(pin.path.c_str());
    return descriptor < 0 ? Descriptor() : Descriptor(descriptor);
}

void Pins::remove(const Pin& pin) {
    ::unlink(pin.path.c_str());
}

}  // namespace marchproxy::packet
