// A file descriptor that closes itself.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace marchproxy {

class Descriptor {
  public:
    Descriptor() = default;  // none
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        reset(other.release());
        return *this;
    }
    ~Descriptor() { reset(); }

    // For what a part cannot be without: throws std::system_error when the call that made `number` failed.
    static Descriptor required(int number, const char* call) {
        if (number < 0) throw std::system_error(errno, std::generic_category(), call);
        return Descriptor(number);
    }

    int get() const { return number_; }
    explicit operator bool() const { return number_ >= 0; }
    int release() { return std::exchange(number_, -1); }
    void reset(int number = -1) {
        if (number_ >= 0) ::close(number_);
        number_ = number;
    }

  private:
    int number_ = -1;
};

}  // namespace marchproxy
