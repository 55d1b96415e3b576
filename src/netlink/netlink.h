// The kernel's routing socket (rtnetlink(7)) in the little that the proxy needs: requests are appended, replies are
// read with cursors that check every length, so that a short or hostile message ends the reading and nothing else.
#pragma once

#include <linux/netlink.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "model/descriptor.h"
#include "model/result.h"

namespace marchproxy::netlink {

using Bytes = std::span<const std::byte>;

// Copies a T from the front: messages are aligned to 4 bytes only. Nothing: too short.
template <class T>
std::optional<T> front(Bytes bytes) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (bytes.size() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
}

// What follows the first `count` bytes with the padding after them; empty when there is no more.
inline Bytes after(Bytes bytes, size_t count) {
    const size_t padded = (count + NLMSG_ALIGNTO - 1) / NLMSG_ALIGNTO * NLMSG_ALIGNTO;
    return padded < bytes.size() ? bytes.subspan(padded) : Bytes{};
}

struct Message {
    uint16_t type = 0, flags = 0;
    Bytes payload;
};

// Walks the messages of one datagram: next() until it returns nothing, at the end or at the first broken length.
class Messages {
  public:
    explicit Messages(Bytes bytes) : rest_(bytes) {}
    std::optional<Message> next();

  private:
    Bytes rest_;
};

struct Attribute {
    uint16_t type = 0;  // without the flags for nesting and byte order
    Bytes payload;
};

class Attributes {
  public:
    explicit Attributes(Bytes bytes) : rest_(bytes) {}
    std::optional<Attribute> next();

  private:
    Bytes rest_;
};

// An attribute's text up to its first zero byte.
std::string text_of(Bytes payload);

class Request {
  public:
    // NLM_F_REQUEST is always set, NLM_F_ACK where no dump is asked for.
    explicit Request(uint16_t type, uint16_t flags = 0);

    template <class T>
    Request& append(const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        return append(std::as_bytes(std::span(&value, 1)));
    }
    template <class T>
    Request& attribute(uint16_t type, const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        return attribute(type, std::as_bytes(std::span(&value, 1)));
    }
    Request& append(Bytes bytes);
    Request& attribute(uint16_t type, Bytes payload);
    // Attributes appended between the two calls are inside the attribute `type`.
    size_t open_nested(uint16_t type);
    void close_nested(size_t start);

    Bytes bytes();  // with the length filled in

  private:
    std::vector<std::byte> bytes_;
};

struct Answer {
    int error = 0;        // an errno; 0: done
    std::string message;  // the kernel's own words about the error, where it has any
    std::vector<std::byte> replies;
};

// Sends and waits, at most two seconds, for all of the answer, on a socket of its own in the calling thread's network
// namespace. Blocks; for the control side only. Errors that the kernel answers are in Answer, ETIMEDOUT is for none.
Answer ask(Request& request);

// Joined to `groups` (RTNLGRP_*), non-blocking. Error: the kernel grants no such socket.
Result<Descriptor> subscribe(std::span<const unsigned> groups);

}  // namespace marchproxy::netlink
