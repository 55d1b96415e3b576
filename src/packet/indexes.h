// The numbers by which packets and flows name services, endpoints and our own addresses. An owner keeps its number for
// as long as it exists, over reloads and restarts; when it is gone the number rests until no flow carries it any more,
// so that nobody inherits flows. Values: the control thread keeps one book and replaces it with each plan.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "abi/packet.h"
#include "model/address.h"
#include "model/names.h"
#include "model/result.h"

namespace marchproxy::packet {

// What a flow takes for granted of its service. A service that changes any of it is another one.
struct ServiceKey {
    std::string name;
    Protocol protocol = Protocol::tcp;
    SocketAddress listen;
    abi::packet_forwarding forwarding = abi::forwarding_nat;
    auto operator<=>(const ServiceKey&) const = default;
};

// Services share endpoints: a packet that comes back shows no more than this of whose it is.
struct EndpointKey {
    SocketAddress address;
    Protocol protocol = Protocol::tcp;
    auto operator<=>(const EndpointKey&) const = default;
};

template <class Key>
class Book {
  public:
    // Numbers from 1 and below `limit` are given out.
    explicit Book(uint32_t limit = 1) : used_(limit) {}

    // The owner's number: the one it has, or the lowest that is free. None: all are taken.
    std::optional<uint32_t> take(const Key& key) {
        if (const auto known = numbers_.find(key); known != numbers_.end()) {
            known->second.resting = false;
            return known->second.number;
        }
        for (; hint_ < used_.size(); ++hint_)
            if (!used_[hint_]) break;
        for (uint32_t number = hint_; number < used_.size(); ++number)
            if (free(number)) return take_at(key, number) ? std::optional(number) : std::nullopt;
        return std::nullopt;
    }

    // Gives a newcomer this number, where nobody has it.
    bool take_at(const Key& key, uint32_t number) {
        if (number == 0 || number >= used_.size() || used_[number] ||
            !numbers_.try_emplace(key, Entry{number, false}).second)
            return false;
        used_[number] = true;
        owners_[number] = key;
        return true;
    }

    bool free(uint32_t number) const {
        return number > 0 && number < used_.size() && !used_[number] && !kept_back_.contains(number);
    }
    bool knows(const Key& key) const { return numbers_.contains(key); }
    std::optional<uint32_t> find(const Key& key) const {
        const auto known = numbers_.find(key);
        return known == numbers_.end() ? std::nullopt : std::optional(known->second.number);
    }
    uint32_t limit() const { return static_cast<uint32_t>(used_.size()); }

    // From here on everybody is gone who does not take its number again.
    void rest_all() {
        for (auto& [key, entry] : numbers_)
            entry.resting = true;
    }

    // Numbers that newcomers do not get by themselves.
    void keep_back(std::set<uint32_t> numbers) { kept_back_ = std::move(numbers); }

    // To be told for a number that no flow carries, by a look at the flows that began after the plan in which its owner
    // was gone had been applied. False: its owner is there, or it has none.
    bool release(uint32_t number) {
        const auto owner = owners_.find(number);
        if (owner == owners_.end() || !numbers_.at(owner->second).resting) return false;
        numbers_.erase(owner->second);
        owners_.erase(owner);
        used_[number] = false;
        hint_ = std::min(hint_, number);
        return true;
    }

    // By number.
    const std::map<uint32_t, Key>& owners() const { return owners_; }
    std::map<uint32_t, Key> resting() const {
        std::map<uint32_t, Key> found;
        for (const auto& [number, key] : owners_)
            if (numbers_.at(key).resting) found.emplace(number, key);
        return found;
    }

  private:
    struct Entry {
        uint32_t number;
        bool resting;
    };
    std::map<Key, Entry> numbers_;
    std::map<uint32_t, Key> owners_;
    std::vector<bool> used_;
    std::set<uint32_t> kept_back_;
    uint32_t hint_ = 1;  // nothing below is free
};

struct Indexes {
    Book<ServiceKey> services;
    Book<EndpointKey> endpoints;
    Book<IpAddress> sources;

    // Within the limits of identities as well.
    static Indexes within(uint32_t services, uint32_t endpoints);

    // JSON, to lie on disk for the next process. There everybody rests until the first plan: what it does not name was
    // removed while no process ran. What does not fit into the limits is refused, as flows may carry it.
    std::string to_text() const;
    static Result<Indexes> from_text(std::string_view text, uint32_t services, uint32_t endpoints);
};

}  // namespace marchproxy::packet
