// Small helpers around socket options that both protocols use.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>

#include "model/snapshot.h"
#include "model/socket_name.h"

namespace marchproxy::stream {

inline bool set_option(int descriptor, int level, int name, int value) {
    return setsockopt(descriptor, level, name, &value, sizeof value) == 0;
}

// Small writes leave at once. A listener's accepted sockets inherit it.
inline void send_at_once(int descriptor) {
    set_option(descriptor, IPPROTO_TCP, TCP_NODELAY, 1);
}

// `mss`: what the peer is told, and what is sent; a listener's accepted sockets inherit it. 0 takes a limit back.
inline void limit_segments(int descriptor, const Service& service) {
    set_option(descriptor, IPPROTO_TCP, TCP_MAXSEG, service.mss.value_or(0));
}

// The peer runs on this host: both ends of the connection have one address.
inline bool is_from_this_host(int descriptor) {
    const auto own = address_of(descriptor, getsockname), peer = address_of(descriptor, getpeername);
    return own && peer && own->ip == peer->ip;
}

// A peer that vanished without a word is found.
inline void probe_when_idle(int descriptor, const StreamSettings& settings) {
    const auto idle = std::chrono::duration_cast<std::chrono::seconds>(settings.keepalive).count();
    if (idle <= 0) return;
    set_option(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(std::min<long>(idle, 32767)));
    set_option(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, static_cast<int>(std::clamp<long>(idle / 4, 1, 75)));
}

// Closing sends a reset in place of an orderly end: the peer must not take a broken connection for a whole one.
inline void reset_on_close(int descriptor) {
    const linger now{.l_onoff = 1, .l_linger = 0};
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace marchproxy::stream
