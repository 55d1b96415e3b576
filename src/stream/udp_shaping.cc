// Step 2, admit, for datagrams: where a service is shaped, they wait for their turn. What gets it at once is sent from
// where it was received; only what has to wait is copied.
#include <algorithm>

#include "stream/udp.h"

namespace marchproxy::stream {

namespace {
constexpr size_t kept_store = 2048;  // of a free parcel: what most datagrams need
}

void UdpProxy::shape(Session& session, bool up, qos::ShapedService& service, std::span<const Piece> pieces) {
    put_.clear();
    for (const Piece& piece : pieces) {
        // A run that is more than a turn's worth goes in several.
        const uint32_t most = piece.segment ? std::max(service.quantum() / piece.segment, 1U) * piece.segment : 1;
        uint32_t offset = 0;
        do {
            const uint32_t size = std::min(most, piece.size - offset);
            add_parcel(session, up, service,
                       {piece.bytes + offset, size, std::min(piece.segment, size), piece.traffic_class});
            offset += size;
        } while (offset < piece.size);
    }
    refused_ = put_;
    turns_.packets.clear();
    turns_.dropped.clear();
    context_.shapers.at(up).put(context_.worker, refused_, context_.now, turns_);
    drop_parcels(refused_, Verdict::queue_full);
    drop_parcels(turns_.dropped, Verdict::queue_delay);
    send_parcels(turns_.packets);
    for (qos::ShapedPacket* packet : put_) {
        auto& parcel = static_cast<Parcel&>(*packet);
        if (!parcel.waits) continue;
        parcel.store.assign(parcel.piece.bytes, parcel.piece.bytes + parcel.piece.size);
        parcel.piece.bytes = parcel.store.data();
    }
}

void UdpProxy::add_parcel(Session& session, bool up, qos::ShapedService& service, const Piece& piece) {
    const ServiceView& view = *session.service->view;
    Parcel& parcel = new_parcel();
    parcel.bytes = piece.size;
    parcel.of = &service.at(view.priority_of(piece.traffic_class));
    parcel.flow_hash = session.number;
    parcel.ecn = static_cast<qos::Ecn>(piece.traffic_class & 3);
    parcel.session = &session;
    parcel.up = up;
    parcel.waits = true;
    parcel.piece = piece;
    ++session.waiting;
    put_.push_back(&parcel);
}

Parcel& UdpProxy::new_parcel() {
    if (free_parcels_.empty()) {
        parcels_.push_back(std::make_unique<Parcel>());
        parcels_.back()->desk = context_.worker;
        return *parcels_.back();
    }
    Parcel& parcel = *free_parcels_.back();
    free_parcels_.pop_back();
    return parcel;
}

void UdpProxy::take_back(Parcel& parcel) {
    --parcel.session->waiting;
    parcel.waits = false;
    if (parcel.store.capacity() > kept_store) parcel.store = {};
    free_parcels_.push_back(&parcel);
}

void UdpProxy::take_turns(const qos::Turns& turns) {
    drop_parcels(turns.dropped, Verdict::queue_delay);
    send_parcels(turns.packets);
}

// Neighbours of one session and direction leave together.
void UdpProxy::send_parcels(std::span<qos::ShapedPacket* const> packets) {
    for (size_t first = 0, after; first < packets.size(); first = after) {
        const auto& head = static_cast<const Parcel&>(*packets[first]);
        out_.clear();
        for (after = first; after < packets.size(); ++after) {
            auto& parcel = static_cast<Parcel&>(*packets[after]);
            if (parcel.session != head.session || parcel.up != head.up) break;
            parcel.piece.traffic_class =
                static_cast<uint8_t>((parcel.piece.traffic_class & ~3) | static_cast<uint8_t>(parcel.ecn));
            out_.push_back(parcel.piece);
        }
        if (!head.session->ended)
            send(*head.session, head.up, out_);
        else
            for (size_t i = first; i < after; ++i)
                count_dropped(static_cast<Parcel&>(*packets[i]), head.session->end_reason);
        for (size_t i = first; i < after; ++i)
            take_back(static_cast<Parcel&>(*packets[i]));
    }
}

void UdpProxy::drop_parcels(std::span<qos::ShapedPacket* const> packets, Verdict reason) {
    for (qos::ShapedPacket* packet : packets) {
        auto& parcel = static_cast<Parcel&>(*packet);
        count_dropped(parcel, reason);
        take_back(parcel);
    }
}

// A session that has ended may outlive its service on this worker, but not the service's counters.
void UdpProxy::count_dropped(const Parcel& parcel, Verdict reason) {
    const Session& session = *parcel.session;
    if (session.ended)
        session.state->slots[context_.worker].dropped[static_cast<size_t>(reason)].add(parcel.piece.count());
    else
        account_drop(context_, *session.service, session.client, reason, {}, parcel.piece.count());
}

}  // namespace marchproxy::stream
