// The question behind docs/decisions/0003-event-loop.md: what does a small message cost a relay whose loop is epoll,
// and one whose loop is io_uring? The smallest relay of each kind, nothing else: no services, limits, timers or
// counters.
//
//   event_loop epoll|io_uring LISTEN_PORT ENDPOINT_PORT      then: bench/load's loadgen against LISTEN_PORT
//
// io_uring as kernel 6.1, our floor, has it: multishot accept and receive, a ring of provided buffers, one enter a turn
// (IORING_SETUP_DEFER_TASKRUN).
#include <arpa/inet.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int tcp_socket(int flags = 0) {
    const int descriptor = socket(AF_INET, SOCK_STREAM | flags | SOCK_CLOEXEC, 0);
    const int one = 1;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return descriptor;
}

int listen_on(int port) {
    const int descriptor = tcp_socket(SOCK_NONBLOCK);
    const int one = 1;
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    const sockaddr_in address = loopback(port);
    if (bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        listen(descriptor, 4096) != 0) {
        perror("listen");
        exit(1);
    }
    return descriptor;
}

// Two legs; `peer` is the other one.
struct Leg {
    int descriptor = -1;
    Leg* peer = nullptr;
    bool closed = false;
};

// --- epoll ---------------------------------------------------------------------------------------------------------

void run_epoll(int listen_port, int endpoint_port) {
    const int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_on(listen_port);
    const sockaddr_in endpoint = loopback(endpoint_port);
    epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.ptr = nullptr}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    std::vector<epoll_event> events(256);
    std::vector<char> buffer(1 << 20);
    std::vector<Leg*> ended;
    const auto watch = [&](Leg* leg) {
        epoll_event edge{.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data = {.ptr = leg}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, leg->descriptor, &edge);
    };
    for (;;) {
        const int count = epoll_wait(epoll, events.data(), 256, -1);
        for (int i = 0; i < count; ++i) {
            Leg* leg = static_cast<Leg*>(events[static_cast<size_t>(i)].data.ptr);
            if (!leg) {
                for (int client; (client = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK)) >= 0;) {
                    Leg *near = new Leg{client}, *far = new Leg{tcp_socket(SOCK_NONBLOCK), near};
                    near->peer = far;
                    connect(far->descriptor, reinterpret_cast<const sockaddr*>(&endpoint), sizeof endpoint);
                    watch(far);
                    watch(near);
                }
                continue;
            }
            if (leg->closed || !(events[static_cast<size_t>(i)].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP))) continue;
            const ssize_t got = recv(leg->descriptor, buffer.data(), buffer.size(), MSG_DONTWAIT);
            if (got > 0) {
                // Small messages on loopback always fit; a connect still under way is met by polling for it.
                while (send(leg->peer->descriptor, buffer.data(), static_cast<size_t>(got), MSG_NOSIGNAL) < 0 &&
                       errno == EAGAIN)
                    continue;
            }
            if (got == 0 || (got < 0 && errno != EAGAIN)) {
                for (Leg* one : {leg, leg->peer}) {
                    close(one->descriptor);
                    one->closed = true;
                    ended.push_back(one);
                }
            }
        }
        for (Leg* leg : ended)
            delete leg;
        ended.clear();
    }
}

// --- io_uring ------------------------------------------------------------------------------------------------------

constexpr unsigned buffer_count = 1024, buffer_size = 4096;
constexpr uint64_t op_receive = 1, op_send = 2, op_connect = 3,
                   op_close = 4;  // in the low bits of user_data; 0: accept

struct Ring {
    io_uring ring{};
    io_uring_buf_ring* buffers = nullptr;
    std::vector<char> memory = std::vector<char>(size_t{buffer_count} * buffer_size);

    Ring() {
        io_uring_params parameters{};
        parameters.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE;
        parameters.cq_entries = 16384;
        if (const int error = io_uring_queue_init_params(4096, &ring, &parameters)) {
            fprintf(stderr, "io_uring: %s\n", strerror(-error));
            exit(1);
        }
        void* pages = nullptr;
        if (posix_memalign(&pages, 4096, buffer_count * sizeof(io_uring_buf)) != 0) abort();
        buffers = static_cast<io_uring_buf_ring*>(pages);
        io_uring_buf_reg registration{};
        registration.ring_addr = reinterpret_cast<uint64_t>(buffers);
        registration.ring_entries = buffer_count;
        if (io_uring_register_buf_ring(&ring, &registration, 0) != 0) abort();
        io_uring_buf_ring_init(buffers);
        for (unsigned i = 0; i < buffer_count; ++i)
            give_back(i);
    }
    char* buffer(unsigned id) { return memory.data() + size_t{id} * buffer_size; }
    void give_back(unsigned id) {
        io_uring_buf_ring_add(buffers, buffer(id), buffer_size, static_cast<unsigned short>(id),
                              io_uring_buf_ring_mask(buffer_count), 0);
        io_uring_buf_ring_advance(buffers, 1);
    }
    io_uring_sqe* next() {
        io_uring_sqe* entry = io_uring_get_sqe(&ring);
        while (!entry) {
            io_uring_submit(&ring);
            entry = io_uring_get_sqe(&ring);
        }
        return entry;
    }
    void receive(Leg* leg) {
        io_uring_sqe* entry = next();
        io_uring_prep_recv_multishot(entry, leg->descriptor, nullptr, 0, 0);
        entry->flags |= IOSQE_BUFFER_SELECT;
        entry->buf_group = 0;
        entry->user_data = reinterpret_cast<uint64_t>(leg) | op_receive;
    }
};

void run_io_uring(int listen_port, int endpoint_port) {
    const int listener = listen_on(listen_port);
    const sockaddr_in endpoint = loopback(endpoint_port);
    Ring ring;
    const auto accept = [&] {
        io_uring_sqe* entry = ring.next();
        io_uring_prep_multishot_accept(entry, listener, nullptr, nullptr, 0);
        entry->user_data = 0;
    };
    accept();
    for (;;) {
        io_uring_submit_and_wait(&ring.ring, 1);
        io_uring_cqe* completion;
        unsigned head, seen = 0;
        io_uring_for_each_cqe(&ring.ring, head, completion) {
            ++seen;
            const uint64_t data = completion->user_data;
            Leg* leg = reinterpret_cast<Leg*>(data & ~uint64_t{7});
            if (data == 0) {
                if (completion->res >= 0) {
                    Leg *near = new Leg{completion->res}, *far = new Leg{tcp_socket(), near};
                    near->peer = far;
                    io_uring_sqe* entry = ring.next();
                    io_uring_prep_connect(entry, far->descriptor, reinterpret_cast<const sockaddr*>(&endpoint),
                                          sizeof endpoint);
                    entry->user_data = reinterpret_cast<uint64_t>(far) | op_connect;
                }
                if (!(completion->flags & IORING_CQE_F_MORE)) accept();
            } else if ((data & 7) == op_connect) {
                ring.receive(leg);
                ring.receive(leg->peer);
            } else if ((data & 7) == op_receive && completion->res > 0) {
                const unsigned id = completion->flags >> IORING_CQE_BUFFER_SHIFT;
                io_uring_sqe* entry = ring.next();
                io_uring_prep_send(entry, leg->peer->descriptor, ring.buffer(id), static_cast<size_t>(completion->res),
                                   MSG_NOSIGNAL);
                entry->user_data = (uint64_t{id} << 3) | op_send;
                if (!(completion->flags & IORING_CQE_F_MORE)) ring.receive(leg);
            } else if ((data & 7) == op_receive && !leg->closed) {
                for (Leg* one : {leg, leg->peer}) {  // the legs leak: a multishot receive may still complete
                    shutdown(one->descriptor, SHUT_RDWR);
                    one->closed = true;
                    io_uring_sqe* entry = ring.next();
                    io_uring_prep_close(entry, one->descriptor);
                    entry->user_data = op_close;
                }
            } else if ((data & 7) == op_send) {
                ring.give_back(static_cast<unsigned>(data >> 3));
            }
        }
        io_uring_cq_advance(&ring.ring, seen);
    }
}

}  // namespace

int main(int count, char** words) {
    if (count != 4) {
        fprintf(stderr, "usage: %s epoll|io_uring LISTEN_PORT ENDPOINT_PORT\n", words[0]);
        return 2;
    }
    const std::string kind = words[1];
    if (kind == "epoll") run_epoll(atoi(words[2]), atoi(words[3]));
    if (kind == "io_uring") run_io_uring(atoi(words[2]), atoi(words[3]));
    fprintf(stderr, "neither epoll nor io_uring: %s\n", words[1]);
    return 2;
}
