// Reading a packet: a cursor that checks bounds and advances, so that no caller adds offsets.
#pragma once

#include "bpf/lib/bpf.h"

struct cursor {
    void *at, *end;
};

// The next `size` bytes, or null where the packet ends before them.
inlined void* take(struct cursor* c, __u64 size) {
    void* at = c->at;
    if (at + size > c->end) return 0;
    c->at = at + size;
    return at;
}
#define TAKE(cursor, type) ((type*)take(cursor, sizeof(type)))

// The header of `size` bytes at an offset that was found when the packet was parsed; bounded again, for the verifier.
enum { farthest_header = 0x3fff };
inlined void* header_at(struct cursor frame, __u64 offset, __u64 size) {
    offset &= farthest_header;
    frame.at += offset;
    return take(&frame, size);
}
