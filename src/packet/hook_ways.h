// The single ways behind hook.h, one source each; nobody else includes this.
#pragma once

#include "packet/hook.h"

namespace marchproxy::packet::xdp {  // hook_xdp.cc: native and generic, as a link
Result<Descriptor> put(Way way, const Interface& interface, int program);
}

namespace marchproxy::packet::tc {  // hook_tc.cc: tcx as a link, clsact as a filter
Result<Descriptor> put_link(const Interface& interface, int program);
Result<Descriptor> put_filter(const Interface& interface, int program);
Result<Descriptor> put_filter_instead(const Interface& interface, const Descriptor& pinned, int program);
uint32_t filter_there(const Interface& interface, const Descriptor& pinned);
void take_filter_away(const Interface& interface, const Descriptor& pinned);
}  // namespace marchproxy::packet::tc

namespace marchproxy::packet::dispatcher {  // hook_dispatcher.cc: through libxdp
Result<Descriptor> put(const Interface& interface, const Attachable& programs);
Result<Descriptor> put_instead(const Interface& interface, const Descriptor& pinned, const Attachable& programs);
uint32_t program_there(const Interface& interface, const Descriptor& pinned);
void take_away(const Interface& interface, const Descriptor& pinned);
}  // namespace marchproxy::packet::dispatcher
