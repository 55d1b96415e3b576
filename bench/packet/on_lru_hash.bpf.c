#define FLOW_MAP_TYPE BPF_MAP_TYPE_LRU_HASH
#include "bpf/packet.bpf.c"
