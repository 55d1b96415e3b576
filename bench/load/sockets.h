// What the load tools share: IPv4 sockets, a clock, and errors that end the program with a sentence.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace marchproxy::bench {

inline constexpr size_t message_size = 64;  // request, reply and datagram

// Thrown for whatever makes a measurement worthless; main prints it and exits with 1.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Failure "what: strerror(errno)".
[[noreturn]] void fail(const std::string& what);

class Descriptor {
  public:
    explicit Descriptor(int value = -1) : value_(value) {}
    Descriptor(Descriptor&& other) noexcept : value_(other.release()) {}
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor() { reset(); }

    int get() const { return value_; }
    int release();
    void reset();  // closes it, when there is one

  private:
    int value_;
};

uint64_t now_nanoseconds();  // CLOCK_MONOTONIC

sockaddr_in parse_endpoint(const std::string& text);  // "127.0.0.1:8080"

// An established connection with TCP_NODELAY; its receive and send calls give up after 5 s.
Descriptor connect_blocking(const sockaddr_in& target);

// One request and its reply on a blocking connection.
void exchange(int descriptor);

void set_nonblocking(int descriptor);
void set_option(int descriptor, int level, int name, int value);

Descriptor make_epoll();
void watch(int epoll, int descriptor, uint32_t events, uint64_t data);

}  // namespace marchproxy::bench
