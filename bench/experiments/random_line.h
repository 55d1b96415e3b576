// What both halves of random_line share.
#pragma once

#include <linux/types.h>

struct line {
    __u64 word[8];
};

// With its map's header a piece stays within 32 KiB; 56 bytes of it are for the first line's alignment.
enum { piece_lines = 503, piece_bytes = piece_lines * sizeof(struct line) + 56 };
