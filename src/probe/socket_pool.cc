#include "probe/socket_pool.h"

#include <sys/epoll.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace marchproxy::probe {

ProbeSocket::Opened SocketPool::take(const Target& target) {
    if (auto& waiting = at_rest_[use_of(target)]; !waiting.empty()) {
        ProbeSocket::Opened taken{std::move(waiting.back()), {}};
        waiting.pop_back();
        return taken;
    }
    ProbeSocket::Opened opened = ProbeSocket::open(target);
    if (!opened.socket) return opened;
    epoll_event event{.events = opened.socket->events() | EPOLLET, .data = {.ptr = opened.socket.get()}};
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, opened.socket->descriptor(), &event) != 0)
        return {nullptr, Outcome::unable(std::string("epoll_ctl: ") + strerror(errno))};
    return opened;
}

void SocketPool::put_back(const Target& target, std::unique_ptr<ProbeSocket> socket) {
    socket->user = nullptr;
    if (!socket->rest()) return leave(std::move(socket));
    at_rest_[use_of(target)].push_back(std::move(socket));
}

// Out of epoll first: closing does not do that while a child that was just forked has the descriptor too (epoll(7)),
// and an event must not come for what is gone.
void SocketPool::leave(std::unique_ptr<ProbeSocket> socket) {
    epoll_ctl(epoll_, EPOLL_CTL_DEL, socket->descriptor(), nullptr);
}

void SocketPool::clear() {
    for (auto& [use, waiting] : at_rest_)
        for (auto& socket : waiting)
            leave(std::move(socket));
    at_rest_.clear();
}

}  // namespace marchproxy::probe
