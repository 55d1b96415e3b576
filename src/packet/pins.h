// What the packet plane leaves in the BPF file system, so that it outlives the process: one entry for each interface it
// is attached to, `<directory>/links/<interface>:<way>`. For the ways that the kernel knows as a link the entry is the
// link, and the attachment lives as long as it does; for the others it is the program, and says which one is ours.
// Thread: the control thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/descriptor.h"
#include "model/result.h"
#include "packet/way.h"

namespace marchproxy::packet {

// Makes sure that `directory` exists and lies on a BPF file system (bpffs); mounts one at /sys/fs/bpf when the
// directory is below it, nothing is mounted there and rights allow.
Result<void> ensure_on_bpffs(const std::string& directory);

struct Pin {
    std::string interface;  // as it was called when it was pinned
    Way way = Way::native;
    std::string path;
};

// A name that the BPF file system takes: dots, as of VLAN interfaces, are refused there. And back; nothing where the
// file is none of ours.
std::string pin_file_name(std::string_view interface, Way way);
std::optional<Pin> parse_pin_file_name(std::string_view file_name);

class Pins {
  public:
    // `directory`: the packet plane's, on a BPF file system; see ensure_on_bpffs.
    static Result<Pins> open(const std::string& directory);
    static Pins look(const std::string& directory) { return Pins(links_in(directory)); }  // to list; makes nothing

    std::vector<Pin> list() const;
    // Pins a link or a program, in the place of what is there.
    Result<Pin> put(std::string_view interface, Way way, int descriptor) const;
    static Descriptor get(const Pin& pin);  // none: it is gone
    static void remove(const Pin& pin);

  private:
    static std::string links_in(const std::string& directory) { return directory + "/links"; }
    explicit Pins(std::string links) : links_(std::move(links)) {}

    std::string links_;  // <directory>/links
};

}  // namespace marchproxy::packet
