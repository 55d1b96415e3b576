// Whose a flow is, from the numbers it carries: what the kernel half reports becomes a flow record. Kept for as long as
// flows may carry a number, beyond the configuration that gave it. One thread at a time.
#pragma once

#include <map>
#include <memory>
#include <utility>

#include "abi/packet.h"
#include "flow/record.h"
#include "packet/indexes.h"

namespace marchproxy::packet {

class Origins {
  public:
    using Pointer = std::shared_ptr<const flow::Origin>;

    // `endpoint` 0: of the service, where nothing better is known.
    void set(uint32_t service, uint32_t endpoint, flow::Origin origin);
    void keep_only(const Indexes& indexes);

    Pointer find(uint32_t service, uint32_t endpoint) const;          // never null
    Pointer find_exactly(uint32_t service, uint32_t endpoint) const;  // null: the service has not had that endpoint

    std::map<uint32_t, std::string> paths_of(uint32_t service) const;  // by number of the endpoint

    // `book` says where an endpoint is. `now`: when the kernel made the report, or little later.
    flow::Record record_of(const abi::flow_report& report, const Indexes& book, WallTime now) const;

  private:
    std::map<std::pair<uint32_t, uint32_t>, Pointer> known_;
    Pointer unknown_ = std::make_shared<const flow::Origin>(flow::Origin{.plane = "packet"});
};

}  // namespace marchproxy::packet
