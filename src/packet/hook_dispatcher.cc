#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xdp/libxdp.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>

#include "packet/hook_ways.h"

namespace marchproxy::packet::dispatcher {

namespace {

struct Closer {
    void operator()(bpf_object* object) const { bpf_object__close(object); }
    void operator()(xdp_program* program) const { xdp_program__close(program); }
    void operator()(xdp_multiprog* all) const { xdp_multiprog__close(all); }
};
using Object = std::unique_ptr<bpf_object, Closer>;
using Program = std::unique_ptr<xdp_program, Closer>;
using All = std::unique_ptr<xdp_multiprog, Closer>;

// libxdp returns an error as a pointer.
template <class Owner>
Owner owned(typename Owner::pointer pointer) {
    return Owner(libxdp_get_error(pointer) == 0 ? pointer : nullptr);
}

All all_on(const Interface& interface) {
    return owned<All>(xdp_multiprog__get_from_ifindex(static_cast<int>(interface.index)));
}

// While it lives, what libxdp and libbpf would print is kept: the last line with an error says more than the errno.
class Listener {
  public:
    Listener() : xdp_printer_(libxdp_set_print(keep)), bpf_printer_(libbpf_set_print(nullptr)) { last_line.clear(); }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;
    ~Listener() {
        libxdp_set_print(xdp_printer_);
        libbpf_set_print(bpf_printer_);
    }
    static const std::string& last() { return last_line; }

  private:
    static int keep(libxdp_print_level level, const char* format, va_list arguments) {
        if (level != LIBXDP_WARN) return 0;
        char line[256];
        const int length = std::vsnprintf(line, sizeof line, format, arguments);
        last_line = line;
        while (!last_line.empty() && last_line.back() == '\n')
            last_line.pop_back();
        constexpr std::string_view prefix = "libxdp: ";
        if (last_line.starts_with(prefix)) last_line.erase(0, prefix.size());
        return length;
    }

    static thread_local std::string last_line;
    libxdp_print_fn_t xdp_printer_;
    libbpf_print_fn_t bpf_printer_;
};
thread_local std::string Listener::last_line;

std::string because(const std::string& words) {
    return words.empty() ? "" : fmt::format(" (libxdp: {})", words);
}

// Each program with the id `id` leaves the interface; the others go on.
void remove_by_id(const Interface& interface, uint32_t id) {
    const Program program = owned<Program>(xdp_program__from_id(id));
    if (program) xdp_program__detach(program.get(), static_cast<int>(interface.index), XDP_MODE_NATIVE, 0);
}

bool holds(const xdp_multiprog* all, uint32_t id) {
    for (xdp_program* program = xdp_multiprog__next_prog(nullptr, all); program != nullptr;
         program = xdp_multiprog__next_prog(program, all))
        if (xdp_program__id(program) == id) return true;
    return false;
}

Result<void> attach(const Interface& interface, xdp_program* program) {
    const int error = xdp_program__attach(program, static_cast<int>(interface.index), XDP_MODE_NATIVE, 0);
    if (error != 0)
        return Error{
            fmt::format("{}{}", explain(look_into(Way::dispatcher, interface, -error, {})), because(Listener::last()))};
    const All all = all_on(interface);
    if (all && !xdp_multiprog__is_legacy(all.get())) return {};
    // libxdp fell back to a single program without a word; a link does that better, and it is the next way.
    xdp_program__detach(program, static_cast<int>(interface.index), XDP_MODE_NATIVE, 0);
    return Error{fmt::format("the kernel refuses libxdp's dispatcher{}: other XDP programs cannot share the interface",
                             because(Listener::last()))};
}

}  // namespace

Result<Descriptor> put(const Interface& interface, const Attachable& programs) {
    const char* skip = ::secure_getenv("LIBXDP_SKIP_DISPATCHER");
    if (skip != nullptr && std::string_view(skip) == "1") return Error{"LIBXDP_SKIP_DISPATCHER is set"};
    const Listener listener;
    const Object object(programs.open_again ? programs.open_again() : nullptr);
    if (!object) return Error{"the program was not given in the form that libxdp's dispatcher needs"};
    const Program program = owned<Program>(xdp_program__from_bpf_obj(object.get(), programs.xdp_section.c_str()));
    if (!program) return Error{fmt::format("the object has no XDP program in its section '{}'", programs.xdp_section)};
    if (auto attached = attach(interface, program.get()); !attached) return Error{attached.error()};
    return Descriptor(::dup(xdp_program__fd(program.get())));
}

// The new one joins before the old one leaves: for a moment both see the packets that the first passes on, but no
// packet passes unseen.
Result<Descriptor> put_instead(const Interface& interface, const Descriptor& pinned, const Attachable& programs) {
    auto put_beside = put(interface, programs);
    if (put_beside) remove_by_id(interface, id_of_program(pinned.get()));
    return put_beside;
}

uint32_t program_there(const Interface& interface, const Descriptor& pinned) {
    const Listener listener;
    const uint32_t id = id_of_program(pinned.get());
    const All all = all_on(interface);
    return id != 0 && all && holds(all.get(), id) ? id : 0;
}

void take_away(const Interface& interface, const Descriptor& pinned) {
    const Listener listener;
    if (program_there(interface, pinned) != 0) remove_by_id(interface, id_of_program(pinned.get()));
}

}  // namespace marchproxy::packet::dispatcher
