// What a service's qos is to the programs. Pure.
#pragma once

#include "abi/packet.h"
#include "model/snapshot.h"

namespace marchproxy::packet {

// `cpus`: that packets may come in on. All zero: qos is off.
abi::packet_qos packet_qos_of(const Service& service, const QosSettings& settings, unsigned cpus);

}  // namespace marchproxy::packet
