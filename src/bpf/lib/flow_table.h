// The flow table: cells found by a keyed hash, without locks, by any number of CPUs.
//
// A cell may lie in any of flow_choices buckets of one chunk, all named by the hash of its identity; an insertion takes
// the first free cell in their order. Each bucket has a count of the cells that passed it by because it was full; a
// lookup ends where that is 0, which is mostly with the first bucket, whether it finds or not. Cells never move, so
// that a reader needs no lock:
//
//   insert   raises the count of each full bucket that it passes; claims a free cell by compare-and-swap of its
//   identity,
//            marked tentative, which readers do not take for theirs; writes the rest; looks for the same identity in
//            other cells, and withdraws if there is one. Both sides of a race leave their marks before they look, so at
//            least one of them sees the other, and no identity is ever in the table twice. Both may withdraw. Then the
//            mark is removed.
//   find     compares identities, reads the target, and looks at the identity again: if the cell was given away in
//            between, it was not found. The target's address depends on the comparison, so that no machine reads it
//            early.
//   remove   identity back to 0, then the counts of the buckets before it down.
//
// Everything here is compiled for BPF and, with chunks in ordinary memory, by the C++ tests that run it on threads.
#pragma once

#include "abi/packet.h"
#include "bpf/lib/words.h"

#ifdef __cplusplus
namespace marchproxy::abi {
#endif

#define flow_inlined static inline __attribute__((always_inline))
#ifdef __clang__
#define flow_unrolled _Pragma("unroll")
#else
#define flow_unrolled _Pragma("GCC unroll 8")
#endif

// Where a cell may lie: the hash taken apart.
struct flow_place {
    __u32 chunk;
    __u32 bucket;  // the first choice
    __u32 step;    // to the next, modulo flow_buckets
};

// A cell as it lies in its bucket: one word of each of the three lines.
struct flow_cell {
    __u64 identity, others[flow_cells - 1];
    __u64 target, other_targets[flow_cells - 1];
    __u64 traffic;
};

enum flow_insertion { flow_exists = 1, flow_full };  // why not

// Where an identity lies is a permutation of it under a secret key, so that nobody can choose packets whose flows crowd
// in one place. Two rounds of multiplying and folding take 3 ns, SipHash 10. It is not proven against who learns
// hashes, but nobody is shown one; and who did crowd a piece of the table would keep new flows out of that piece alone,
// one in thousands (docs/decisions/0006-flow-table.md).
flow_inlined __u64 flow_hash(__u64 identity, const volatile struct flow_table_settings* settings) {
    __u64 x = (identity ^ settings->key[0]) * (settings->key[1] | 1);
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93ULL;
    return x ^ x >> 32;
}

flow_inlined struct flow_place flow_place_of(__u64 identity, const volatile struct flow_table_settings* settings) {
    const __u64 hash = flow_hash(identity, settings);
    const __u32 low = (__u32)hash, high = (__u32)(hash >> 32);
    struct flow_place place;
    place.chunk = (__u32)(((__u64)low * settings->chunks) >> 32);
    place.bucket = (__u32)(((__u64)high * flow_buckets) >> 32);
    // What the multiplication above left over of `high` is as good as new bits.
    place.step = 1 + (__u32)(((__u64)(__u32)(high * flow_buckets) * (flow_buckets - 1)) >> 32);
    return place;
}

// Without a branch, or the verifier follows both ways of it, in every turn of every loop over the choices: of a million
// instructions that it looks at, that took half.
flow_inlined __u32 flow_next_bucket(__u32 bucket, __u32 step) {
    const __u64 beyond = (__u64)bucket + step - flow_buckets;
    __u64 negative = beyond >> 63;
    asm("" : "+r"(negative));  // or the compiler writes the branch
    return (__u32)(beyond + negative * flow_buckets);
}

// The chunk's buckets; null for a bucket that is none, which the verifier has to be shown.
flow_inlined struct flow_bucket* flow_bucket_at(struct flow_chunk* chunk, __u32 bucket, __u32 alignment) {
    __u64 offset = (__u64)bucket * sizeof(struct flow_bucket) + alignment;
    asm volatile("" : "+r"(offset));
    if (offset > sizeof(struct flow_chunk) - sizeof(struct flow_bucket)) return 0;
    return (struct flow_bucket*)((__u8*)chunk + offset);
}

// 1 where the words differ, else 0, without a branch.
flow_inlined __u64 flow_differ(__u64 a, __u64 b) {
    const __u64 difference = a ^ b;
    __u64 negative = -difference;
    asm("" : "+r"(negative));  // or the compiler knows what this is, and writes the branch
    return (difference | negative) >> 63;
}

// How many cells passed a bucket by.
flow_inlined __u32 flow_passed(const struct flow_chunk* chunk, __u32 bucket) {
    __u64 word = bucket / 4;
    asm volatile("" : "+r"(word));
    if (word >= sizeof(chunk->passed) / sizeof(chunk->passed[0])) return 0;
    return word_read(chunk->passed[word]) >> bucket % 4 * 8 & 0xff;
}
flow_inlined void flow_add_passed(struct flow_chunk* chunk, __u32 bucket, __s32 by) {
    __u64 word = bucket / 4;
    asm volatile("" : "+r"(word));
    if (word >= sizeof(chunk->passed) / sizeof(chunk->passed[0])) return;
    __sync_fetch_and_add(&chunk->passed[word], (__u32)by << bucket % 4 * 8);
}

// The slot of `identity`, which lies in one at most, or flow_cells. Without branches: which slot matches cannot be
// predicted, and a wrong guess would keep the processor from going on past the cache miss. By sums rather than masks,
// as the verifier follows both values of a mask, eight times over.
flow_inlined __u32 flow_slot_of(const struct flow_bucket* bucket, __u64 identity) {
    __u64 slot = 0 + 1 + 2 + 3 + 4 + 5 + 6 + 7, others = 0;
    flow_unrolled for (int i = 0; i < flow_cells; ++i) {
        const __u64 differ = flow_differ(word_read(bucket->identity[i]), identity);
        slot -= differ * i;
        others += differ;
    }
    return others == flow_cells ? (__u32)flow_cells : (__u32)slot;
}

// The first free slot, or flow_cells.
flow_inlined __u32 flow_free_slot(const struct flow_bucket* bucket) {
    __u64 slot = flow_cells;
    flow_unrolled for (int i = flow_cells - 1; i >= 0; --i) slot =
        i + (slot - i) * flow_differ(word_read(bucket->identity[i]), 0);
    return slot < flow_cells ? (__u32)slot : (__u32)flow_cells;
}

flow_inlined struct flow_cell* flow_cell_at(struct flow_bucket* bucket, __u32 slot) {
    return (struct flow_cell*)&bucket->identity[slot];
}

// Its number among all cells of the table, whence user space and the other direction find it.
flow_inlined __u32 flow_cell_index(struct flow_place place, const struct flow_chunk* chunk,
                                   const struct flow_cell* cell, __u32 alignment) {
    const __u64 offset = (__u64)((const __u8*)cell - (const __u8*)chunk) - alignment;
    const __u32 bucket = (__u32)(offset / sizeof(struct flow_bucket));
    return place.chunk * flow_chunk_cells + bucket * flow_cells + (__u32)(offset % sizeof(struct flow_bucket)) / 8;
}

// Asks for a bucket's other two lines while the first, which says which of their words are wanted, is still on its way:
// otherwise they would be a second wait for memory. What it reads is not used, so it may be anything by then.
flow_inlined void flow_fetch(const struct flow_bucket* bucket) {
    (void)word_read(bucket->target[0]);
    (void)word_read(bucket->traffic[0]);
}

// The cell of `identity` and its target; null: none.
flow_inlined struct flow_cell* flow_find_in(struct flow_chunk* chunk, __u64 identity, struct flow_place place,
                                            __u32 alignment, __u64* target) {
    __u32 at = place.bucket;
    for (int choice = 0; choice < flow_choices; ++choice) {
        struct flow_bucket* bucket = flow_bucket_at(chunk, at, alignment);
        if (!bucket) return 0;
        flow_fetch(bucket);
        const __u32 slot = flow_slot_of(bucket, identity);
        if (slot < flow_cells) {
            struct flow_cell* cell = flow_cell_at(bucket, slot);
            *target = word_read(cell->target);
            return word_read(cell->identity) == identity ? cell : 0;
        }
        if (!flow_passed(chunk, at)) return 0;
        at = flow_next_bucket(at, place.step);
    }
    return 0;
}

// In how many cells the identity lies, tentative or not.
flow_inlined __u32 flow_count_of(struct flow_chunk* chunk, __u64 identity, struct flow_place place, __u32 alignment) {
    __u64 count = 0;
    __u32 at = place.bucket;
    for (int choice = 0; choice < flow_choices; ++choice) {
        struct flow_bucket* bucket = flow_bucket_at(chunk, at, alignment);
        if (!bucket) break;
        flow_unrolled for (int i = 0; i < flow_cells; ++i) count +=
            1 - flow_differ(word_read(bucket->identity[i]) & ~flow_identity_tentative, identity);
        if (!flow_passed(chunk, at)) break;
        at = flow_next_bucket(at, place.step);
    }
    return (__u32)count;
}

// Whether there is no room for an identity: all its choices are full.
flow_inlined __u32 flow_is_full(struct flow_chunk* chunk, struct flow_place place, __u32 alignment) {
    __u32 at = place.bucket;
    for (int choice = 0; choice < flow_choices; ++choice) {
        const struct flow_bucket* bucket = flow_bucket_at(chunk, at, alignment);
        if (!bucket || flow_free_slot(bucket) < flow_cells) return 0;
        at = flow_next_bucket(at, place.step);
    }
    return 1;
}

// Takes back what an insertion or a cell left in the counts of the first `choices` buckets of its place.
flow_inlined void flow_unpass(struct flow_chunk* chunk, struct flow_place place, __u32 choices) {
    __u32 at = place.bucket;
    for (__u32 choice = 0; choice < flow_choices && choice < choices; ++choice) {
        flow_add_passed(chunk, at, -1);
        at = flow_next_bucket(at, place.step);
    }
}

// Claims a cell and leaves it tentative: flow_count_of is to be 1 then, and flow_publish or flow_remove to follow.
// Null: all choices are full.
flow_inlined struct flow_cell* flow_claim(struct flow_chunk* chunk, __u64 identity, struct flow_place place,
                                          __u32 alignment, __u64 target, __u64 traffic) {
    __u32 at = place.bucket;
    for (__u32 passed = 0; passed < flow_choices; ++passed) {
        struct flow_bucket* bucket = flow_bucket_at(chunk, at, alignment);
        if (!bucket) return 0;
        const __u32 slot = flow_free_slot(bucket);
        if (slot < flow_cells) {
            struct flow_cell* cell = flow_cell_at(bucket, slot);
            // Whoever takes this one in between leaves us the next bucket.
            if (__sync_val_compare_and_swap(&cell->identity, 0, identity | flow_identity_tentative) == 0) {
                word_write(cell->target, target);
                word_write(cell->traffic, traffic);
                return cell;
            }
        }
        flow_add_passed(chunk, at, 1);
        at = flow_next_bucket(at, place.step);
    }
    flow_unpass(chunk, place, flow_choices);
    return 0;
}

// Shows a claimed cell to readers: a full barrier, so that every CPU sees its target before its identity.
flow_inlined void flow_publish(struct flow_cell* cell, __u64 identity) {
    word_exchange(cell->identity, identity);
}

// Removes a cell, published or not.
flow_inlined void flow_remove(struct flow_chunk* chunk, struct flow_place place, struct flow_cell* cell,
                              __u32 alignment) {
    word_exchange(cell->identity, 0);
    __u32 at = place.bucket, passed = 0;
    for (; passed < flow_choices; ++passed) {
        struct flow_bucket* bucket = flow_bucket_at(chunk, at, alignment);
        if (!bucket || (cell >= flow_cell_at(bucket, 0) && cell <= flow_cell_at(bucket, flow_cells - 1))) break;
        at = flow_next_bucket(at, place.step);
    }
    flow_unpass(chunk, place, passed);
}

#ifdef __cplusplus
}  // namespace marchproxy::abi
#endif
