// The question behind docs/decisions/0006-flow-table.md: what does one random 64-byte line of kernel memory cost a
// packet, in an array map as one, which is vmalloc'ed, and in pieces of 32 KiB, which are directly mapped?
//
//   random_line random_line.bpf.o [MEGABYTES…]      as root; both kinds at once take twice the memory
//
// Nanoseconds a packet by BPF_PROG_TEST_RUN, medians of five rounds in turn, with the empty program's in them.
#include "bench/experiments/random_line.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace {

constexpr std::array programs{"empty", "hash_only", "in_whole", "in_whole_unhashed", "in_pieces"};
constexpr int rounds = 5;

// As the constants of random_line.bpf.c lie.
struct Constants {
    uint32_t line_count, piece_count, alignment;
};

[[noreturn]] void fail(const char* what) {
    std::perror(what);
    std::exit(1);
}

// How far into a map's value its first cache line begins, as in packet/programs.cc.
uint32_t alignment_of_values() {
    btf* kernel = btf__load_vmlinux_btf();
    if (!kernel) fail("the kernel's BTF");
    const int id = btf__find_by_name_kind(kernel, "bpf_array", BTF_KIND_STRUCT);
    const btf_type* type = btf__type_by_id(kernel, static_cast<uint32_t>(id));
    const uint32_t offset = btf_member_bit_offset(type, btf_vlen(type) - 1) / 8;
    btf__free(kernel);
    return (64 - offset % 64) % 64;
}

// In batches: each costs the kernel a grace period.
void make_pieces(int outer, uint32_t count) {
    std::vector<int> inner;
    std::vector<uint32_t> keys;
    for (uint32_t piece = 0; piece < count; ++piece) {
        inner.push_back(bpf_map_create(BPF_MAP_TYPE_ARRAY, "piece", sizeof(uint32_t), piece_bytes, 1, nullptr));
        if (inner.back() < 0) fail("making a piece");
        keys.push_back(piece);
        if (inner.size() < 512 && piece + 1 < count) continue;
        auto batch = static_cast<uint32_t>(inner.size());
        if (bpf_map_update_batch(outer, keys.data(), inner.data(), &batch, nullptr) != 0) fail("keeping pieces");
        for (const int descriptor : inner)
            close(descriptor);
        inner.clear();
        keys.clear();
    }
}

uint32_t nanoseconds(const bpf_object* object, const char* program) {
    std::array<char, 64> frame{};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_size_in = frame.size(), .repeat = 2'000'000);
    if (bpf_prog_test_run_opts(bpf_program__fd(bpf_object__find_program_by_name(object, program)), &options) != 0)
        fail(program);
    return options.duration;
}

void measure(const char* path, uint32_t megabytes) {
    const std::unique_ptr<bpf_object, void (*)(bpf_object*)> object(bpf_object__open(path), bpf_object__close);
    if (!object) fail(path);
    const auto map = [&](const char* name) { return bpf_object__find_map_by_name(object.get(), name); };
    const Constants constants{.line_count = megabytes * (1 << 20) / static_cast<uint32_t>(sizeof(line)),
                              .piece_count = megabytes * 32,
                              .alignment = alignment_of_values()};
    bpf_map__set_max_entries(map("whole"), constants.line_count);
    bpf_map__set_max_entries(map("pieces"), constants.piece_count);
    if (bpf_map__set_initial_value(map(".rodata"), &constants, sizeof constants) != 0) fail("the program's constants");
    if (bpf_object__load(object.get()) != 0) fail("loading");

    const auto begin = std::chrono::steady_clock::now();
    make_pieces(bpf_map__fd(map("pieces")), constants.piece_count);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    std::printf("%u MB, %u pieces made in %.2f s\n", megabytes, constants.piece_count, took.count());

    std::array<std::vector<uint32_t>, programs.size()> values;
    for (int round = 0; round < rounds; ++round)
        for (size_t i = 0; i < programs.size(); ++i)
            values[i].push_back(nanoseconds(object.get(), programs[i]));
    for (size_t i = 0; i < programs.size(); ++i) {
        std::ranges::sort(values[i]);
        std::printf("  %-18s %4u ns (%u-%u)\n", programs[i], values[i][rounds / 2], values[i].front(),
                    values[i].back());
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fputs("random_line random_line.bpf.o [MEGABYTES...]\n", stderr);
        return 2;
    }
    const rlimit descriptors{4096, 4096};
    setrlimit(RLIMIT_NOFILE, &descriptors);
    std::vector<uint32_t> sizes;
    for (int i = 2; i < argc; ++i)
        sizes.push_back(static_cast<uint32_t>(std::strtoul(argv[i], nullptr, 10)));
    if (sizes.empty()) sizes = {200, 400, 800, 1600};
    for (const uint32_t megabytes : sizes)
        measure(argv[1], megabytes);
}
