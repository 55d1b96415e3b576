// What a service's qos is to the programs. Pure.
#pragma once

#include "abi/packet.h"
#include "model/snapshot.h"

namespace marchproxy::packet {

// `cpus`: that packets may come in on. All zero: qos is off.
abi::packet_qos packet_qos_of(const Service& service, const QosSettings& settings, unsigned cpus);

// Whether packets of the service have to wait for their turn: where services share a link, have a guarantee or marks of
// congestion, and where TCP has a rate, which comes nowhere near it when it is dropped above.
bool needs_queue(const Service& service, const QosSettings& settings);

}  // namespace marchproxy::packet
