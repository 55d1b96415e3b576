#include "stream/datagrams.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "model/control_data.h"
#include "stream/sockets.h"

namespace marchproxy::stream {

namespace {

// The kernel takes at most 64 segments (UDP_MAX_SEGMENTS before 6.9) and 64 KiB of IP packet in one send.
constexpr uint32_t most_segments = 64;
constexpr uint32_t most_run_bytes = 65000;

bool is_refused_run(int error) {
    return error == EMSGSIZE || error == EINVAL || error == EIO || error == EOPNOTSUPP;
}

// To segments of `segment` bytes, from where the caller says, with what mark it says.
void write_control(msghdr& header, const Way& way, uint32_t segment, uint8_t traffic_class) {
    if (segment > 0) add_control(header, SOL_UDP, UDP_SEGMENT, static_cast<uint16_t>(segment));
    if (way.source) add_source(header, *way.source);
    if (way.marked && way.is_v4) add_control(header, IPPROTO_IP, IP_TOS, static_cast<int>(traffic_class));
    if (way.marked && !way.is_v4) add_control(header, IPPROTO_IPV6, IPV6_TCLASS, static_cast<int>(traffic_class));
    if (header.msg_controllen == 0) header.msg_control = nullptr;
}

void read_control(msghdr& header, Datagram& datagram) {
    for (cmsghdr* entry = CMSG_FIRSTHDR(&header); entry; entry = CMSG_NXTHDR(&header, entry)) {
        if (entry->cmsg_level == SOL_UDP && entry->cmsg_type == UDP_GRO) {
            int segment = 0;
            std::memcpy(&segment, CMSG_DATA(entry), sizeof segment);
            if (segment > 0 && static_cast<uint32_t>(segment) < datagram.size)
                datagram.segment = static_cast<uint32_t>(segment);
        } else if (entry->cmsg_level == IPPROTO_IP && entry->cmsg_type == IP_PKTINFO) {
            in_pktinfo info;
            std::memcpy(&info, CMSG_DATA(entry), sizeof info);
            datagram.to = IpAddress::v4(ntohl(info.ipi_addr.s_addr));
        } else if (entry->cmsg_level == IPPROTO_IPV6 && entry->cmsg_type == IPV6_PKTINFO) {
            in6_pktinfo info;
            std::memcpy(&info, CMSG_DATA(entry), sizeof info);
            std::memcpy(datagram.to.bytes.data(), &info.ipi6_addr, 16);
        } else if (entry->cmsg_level == IPPROTO_IP && entry->cmsg_type == IP_TOS) {
            std::memcpy(&datagram.traffic_class, CMSG_DATA(entry), 1);
        } else if (entry->cmsg_level == IPPROTO_IPV6 && entry->cmsg_type == IPV6_TCLASS) {
            int traffic_class = 0;
            std::memcpy(&traffic_class, CMSG_DATA(entry), sizeof traffic_class);
            datagram.traffic_class = static_cast<uint8_t>(traffic_class);
        }
    }
}

}  // namespace

DatagramBatch::DatagramBatch() {
    // Untouched pages cost nothing: with small datagrams only the first page of each buffer is ever backed.
    void* memory = mmap(nullptr, capacity * buffer_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<std::byte*>(memory);
    for (size_t i = 0; i < capacity; ++i)
        in_pieces_[i] = {memory_ + i * buffer_size, buffer_size};
}

DatagramBatch::~DatagramBatch() {
    munmap(memory_, capacity * buffer_size);
}

void DatagramBatch::enable_runs(int descriptor) {
    set_option(descriptor, SOL_UDP, UDP_GRO, 1);
}

void DatagramBatch::report_destination(int descriptor, bool is_v4) {
    if (is_v4)
        set_option(descriptor, IPPROTO_IP, IP_PKTINFO, 1);
    else
        set_option(descriptor, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
}

int DatagramBatch::receive(int descriptor) {
    for (size_t i = 0; i < capacity; ++i)
        in_[i].msg_hdr = {.msg_name = &in_names_[i],
                          .msg_namelen = sizeof in_names_[i],
                          .msg_iov = &in_pieces_[i],
                          .msg_iovlen = 1,
                          .msg_control = in_control_[i].bytes.data(),
                          .msg_controllen = in_control_[i].bytes.size(),
                          .msg_flags = 0};
    int got;
    do {
        got = recvmmsg(descriptor, in_.data(), capacity, MSG_DONTWAIT, nullptr);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return errno == EAGAIN ? 0 : -errno;
    for (size_t i = 0; i < static_cast<size_t>(got); ++i) {
        Datagram& datagram = datagrams_[i];
        datagram = {{.bytes = memory_ + i * buffer_size, .size = in_[i].msg_len, .segment = in_[i].msg_len}, {}, {}};
        if (in_[i].msg_hdr.msg_namelen > 0) datagram.from = SocketAddress::from(in_names_[i]);
        read_control(in_[i].msg_hdr, datagram);
    }
    return got;
}

void DatagramBatch::append(Chain& chain, int index) {
    if (chain.empty())
        chain.first = index;
    else
        (*this)[chain.last].next = index;
    chain.last = index;
}

std::span<const Piece> DatagramBatch::pieces(const Chain& chain) {
    chained_.clear();
    for (int index = chain.first; index >= 0; index = (*this)[index].next)
        chained_.push_back((*this)[index]);
    return chained_;
}

// --- sending -------------------------------------------------------------------------------------------------------

// Joins neighbours of equal size into runs. A shorter datagram may only close a run (udp(7)).
void DatagramSender::add_piece(const Piece& piece, const RunLimits& limits) {
    const uint32_t size = piece.size, segment = piece.segment, count = piece.count();
    if (!runs_.empty()) {
        Run& run = runs_.back();
        const bool is_open = run.size == run.segment * run.datagrams && run.traffic_class == piece.traffic_class;
        if (is_open && size > 0 && run.segment > 0 && segment <= run.segment &&
            (segment == run.segment || count == 1) && run.segment <= limits.largest_segment &&
            run.datagrams + count <= most_segments && run.size + size <= most_run_bytes) {
            run.pieces += 1;
            run.size += size;
            run.datagrams += count;
            pieces_.push_back({piece.bytes, size});
            return;
        }
    }
    runs_.push_back({.first_piece = pieces_.size(),
                     .pieces = 1,
                     .segment = segment,
                     .size = size,
                     .datagrams = count,
                     .traffic_class = piece.traffic_class});
    pieces_.push_back({piece.bytes, size});
}

void DatagramSender::plan(std::span<const Piece> pieces, const RunLimits& limits) {
    runs_.clear();
    pieces_.clear();
    for (const Piece& piece : pieces) {
        if (piece.size <= piece.segment || piece.segment <= limits.largest_segment) {
            add_piece(piece, limits);
            continue;
        }
        // A joined run that may not leave as one.
        for (uint32_t offset = 0; offset < piece.size; offset += piece.segment) {
            const uint32_t size = std::min(piece.segment, piece.size - offset);
            add_piece({piece.bytes + offset, size, size, piece.traffic_class}, limits);
        }
    }
}

void DatagramSender::prepare(size_t index, const Run& run, const Way& way, sockaddr_storage& to, socklen_t to_size) {
    msghdr& header = out_[index].msg_hdr;
    header = {.msg_name = way.to ? &to : nullptr,
              .msg_namelen = way.to ? to_size : 0,
              .msg_iov = &pieces_[run.first_piece],
              .msg_iovlen = run.pieces,
              .msg_control = out_control_[index].bytes.data(),
              .msg_controllen = 0,
              .msg_flags = 0};
    write_control(header, way, run.datagrams > 1 ? run.segment : 0, run.traffic_class);
}

SendResult DatagramSender::send(std::span<const Piece> pieces, const Way& way, RunLimits& limits) {
    plan(pieces, limits);
    sockaddr_storage to;
    const socklen_t to_size = way.to ? way.to->to(to) : 0;
    out_.resize(runs_.size());
    out_control_.resize(runs_.size());
    for (size_t i = 0; i < runs_.size(); ++i)
        prepare(i, runs_[i], way, to, to_size);

    SendResult result;
    bool retried = false;
    for (size_t at = 0; at < runs_.size();) {
        const int sent =
            sendmmsg(way.descriptor, &out_[at], static_cast<unsigned>(runs_.size() - at), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            for (size_t i = at; i < at + static_cast<size_t>(sent); ++i) {
                result.datagrams += runs_[i].datagrams;
                result.bytes += runs_[i].size;
            }
            at += static_cast<size_t>(sent);
            retried = false;
            continue;
        }
        const int error = errno;
        if (error == EINTR) continue;
        if (error == EAGAIN || error == ENOBUFS) {  // no room: neither for this one nor for those behind it
            for (; at < runs_.size(); ++at)
                result.unsent += runs_[at].datagrams;
            result.error = error;
            break;
        }
        const Run& run = runs_[at];
        // A connected socket reports what ICMP said of an earlier datagram in place of sending this one: once more.
        if (error == ECONNREFUSED && !retried) {
            result.error = error;
            retried = true;
            continue;
        }
        if (run.datagrams > 1 && is_refused_run(error)) {
            limits.largest_segment = std::min(limits.largest_segment, run.segment - 1);
            const SendResult singly = send_singly(run, way, to, to_size);
            result.datagrams += singly.datagrams;
            result.bytes += singly.bytes;
            result.unsent += singly.unsent;
            if (singly.error) result.error = singly.error;
        } else {
            result.unsent += run.datagrams;
            result.error = error;
        }
        ++at;
        retried = false;
    }
    return result;
}

SendResult DatagramSender::send_singly(const Run& run, const Way& way, sockaddr_storage& to, socklen_t to_size) {
    SendResult result;
    DatagramControl control;
    for (size_t piece = run.first_piece; piece < run.first_piece + run.pieces; ++piece) {
        for (size_t offset = 0; offset < pieces_[piece].iov_len; offset += run.segment) {
            iovec part{static_cast<std::byte*>(pieces_[piece].iov_base) + offset,
                       std::min<size_t>(run.segment, pieces_[piece].iov_len - offset)};
            msghdr header{.msg_name = way.to ? &to : nullptr,
                          .msg_namelen = to_size,
                          .msg_iov = &part,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes.data(),
                          .msg_controllen = 0,
                          .msg_flags = 0};
            write_control(header, way, 0, run.traffic_class);
            if (sendmsg(way.descriptor, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
                ++result.datagrams;
                result.bytes += part.iov_len;
            } else {
                ++result.unsent;
                result.error = errno;
            }
        }
    }
    return result;
}

}  // namespace marchproxy::stream
