// What an epoll event is about: a pointer whose low bits say what it points to.
#pragma once

#include <cstdint>

namespace marchproxy::stream {

enum class Tag : uintptr_t { mailbox, listener, client_leg, endpoint_leg, session };
inline constexpr uintptr_t tag_bits = 7;

template <class T>
void* tagged(T* object, Tag tag) {
    static_assert(alignof(T) > tag_bits);
    return reinterpret_cast<char*>(object) + static_cast<uintptr_t>(tag);
}

inline Tag tag_of(const void* pointer) {
    return static_cast<Tag>(reinterpret_cast<uintptr_t>(pointer) & tag_bits);
}

template <class T>
T& untagged(void* pointer) {
    return *reinterpret_cast<T*>(static_cast<char*>(pointer) - static_cast<uintptr_t>(tag_of(pointer)));
}

}  // namespace marchproxy::stream
