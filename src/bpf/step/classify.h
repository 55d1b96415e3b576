// classify: which service is this, and in which direction.
#pragma once

#include "bpf/lib/directory.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/packet.h"

enum class_ {
    class_stranger,  // not ours
    class_client,    // from a client to a service
    class_endpoint,  // from an endpoint back, to one of our source addresses or (dnat) to a client
};

struct classified {
    enum class_ is;
    __u32 service;   // of a client's packet; of an endpoint's with dnat
    __u32 endpoint;  // of an endpoint's packet
    __u32 source;    // place of the source address it answers to; 0: dnat
};

inlined __u32 look_up(struct directory* d, const struct address* a, __u16 port_be, __u8 protocol, __u8* kind) {
    __u32 at = directory_place(a, port_be, protocol);
    for (int probe = 0; probe < directory_probes; ++probe, ++at) {
        at &= directory_slots - 1;
        const struct directory_entry* entry = &d->entry[at];
        if (entry->kind == directory_empty) return 0;
        if (entry->port_be == port_be && entry->protocol == protocol && same_address(&entry->address, a)) {
            *kind = entry->kind;
            return entry->index;
        }
    }
    return 0;
}

inlined struct classified classify(const struct packet* p) {
    struct classified c = {0};
    const __u32 zero = 0;
    void* inner = bpf_map_lookup_elem(&directory, &zero);
    if (!inner) return c;
    struct directory* d = bpf_map_lookup_elem(inner, &zero);
    if (!d) return c;

    __u8 kind = 0;
    c.service = look_up(d, &p->destination, p->destination_port_be, p->protocol, &kind);
    if (c.service && kind == directory_service) {
        c.is = class_client;
        return c;
    }
    c.endpoint = look_up(d, &p->source, p->source_port_be, p->protocol, &kind);
    if (!c.endpoint || kind != directory_endpoint) return c;
    c.source = look_up(d, &p->destination, 0, 0, &kind);
    if (kind != directory_source) c.source = 0;
    c.is = class_endpoint;
    return c;
}

// One of the services that listen at an address, whatever the port; 0: it is none of theirs, or the machine's own.
__noinline int service_at_host(const struct address* host) {
    const __u32 zero = 0;
    void* inner = bpf_map_lookup_elem(&directory, &zero);
    struct directory* d = inner ? bpf_map_lookup_elem(inner, &zero) : 0;
    __u8 kind = 0;
    const __u32 service = host && d ? look_up(d, host, 0, 0, &kind) : 0;
    return kind == directory_host ? service : 0;
}
