// Memory for large arrays that are walked in no order: asked of the kernel in huge pages, so that finding where a line
// lies costs less than fetching it. Where the kernel has none, they are ordinary pages.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <vector>

namespace marchproxy::qos {

template <class T>
struct HugePages {
    using value_type = T;
    static constexpr size_t page = size_t{2} << 20;

    HugePages() = default;
    template <class Other>
    HugePages(const HugePages<Other>&) {}  // NOLINT(google-explicit-constructor): containers convert allocators

    T* allocate(size_t count) {
        const size_t bytes = count * sizeof(T);
        void* memory = ::operator new(bytes, alignment(bytes));
        if (bytes >= page) madvise(memory, bytes, MADV_HUGEPAGE);
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, size_t count) { ::operator delete(memory, alignment(count * sizeof(T))); }
    bool operator==(const HugePages&) const = default;

  private:
    static std::align_val_t alignment(size_t bytes) { return std::align_val_t{bytes >= page ? page : alignof(T)}; }
};

template <class T>
using LargeArray = std::vector<T, HugePages<T>>;

}  // namespace marchproxy::qos
