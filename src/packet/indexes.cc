#include "packet/indexes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace marchproxy::packet {
namespace {

using nlohmann::json;

constexpr std::array forwarding_words{"nat", "dnat", "dsr_ipip", "dsr_gue"};

struct Malformed {
    std::string what;
};

template <class T>
T must(Result<T> result) {
    if (!result) throw Malformed{result.error()};
    return *result;
}

Protocol protocol_of(const json& entry) {
    const auto protocol = from_name<Protocol>(entry.at("protocol").get<std::string>());
    if (!protocol) throw Malformed{"an unknown protocol"};
    return *protocol;
}

void add(json& entry, const ServiceKey& key) {
    entry["name"] = key.name;
    entry["protocol"] = name_of(key.protocol);
    entry["listen"] = to_string(key.listen);
    entry["forwarding"] = forwarding_words.at(key.forwarding);
}
void add(json& entry, const EndpointKey& key) {
    entry["address"] = to_string(key.address);
    entry["protocol"] = name_of(key.protocol);
}
void add(json& entry, const IpAddress& key) {
    entry["address"] = to_string(key);
}

void read(const json& entry, ServiceKey& key) {
    key.name = entry.at("name").get<std::string>();
    key.protocol = protocol_of(entry);
    key.listen = must(SocketAddress::parse(entry.at("listen").get<std::string>()));
    const auto word =
        std::find(forwarding_words.begin(), forwarding_words.end(), entry.at("forwarding").get<std::string>());
    if (word == forwarding_words.end()) throw Malformed{"an unknown forwarding"};
    key.forwarding = static_cast<abi::packet_forwarding>(word - forwarding_words.begin());
}
void read(const json& entry, EndpointKey& key) {
    key.address = must(SocketAddress::parse(entry.at("address").get<std::string>()));
    key.protocol = protocol_of(entry);
}
void read(const json& entry, IpAddress& key) {
    key = must(IpAddress::parse(entry.at("address").get<std::string>()));
}

template <class Key>
json to_json(const Book<Key>& book) {
    json list = json::array();
    for (const auto& [number, key] : book.owners()) {
        json entry{{"index", number}};
        add(entry, key);
        list.push_back(std::move(entry));
    }
    return list;
}

template <class Key>
void from_json(const json& list, const char* what, Book<Key>& book) {
    for (const json& entry : list) {
        Key key;
        read(entry, key);
        const auto number = entry.at("index").get<uint32_t>();
        if (!book.take_at(key, number))
            throw Malformed{fmt::format("{} {} is there twice or beyond the limit of {}", what, number, book.limit())};
    }
    book.rest_all();
}

}  // namespace

Indexes Indexes::within(uint32_t services, uint32_t endpoints) {
    return {.services = Book<ServiceKey>(std::min<uint32_t>(services, abi::max_packet_services)),
            .endpoints = Book<EndpointKey>(std::min<uint32_t>(endpoints, abi::max_packet_endpoints)),
            .sources = Book<IpAddress>(abi::max_source_addresses)};
}

std::string Indexes::to_text() const {
    return json{{"services", to_json(services)}, {"endpoints", to_json(endpoints)}, {"sources", to_json(sources)}}
        .dump();
}

Result<Indexes> Indexes::from_text(std::string_view text, uint32_t services, uint32_t endpoints) {
    Indexes indexes = within(services, endpoints);
    try {
        const json document = json::parse(text);
        from_json(document.at("services"), "service", indexes.services);
        from_json(document.at("endpoints"), "endpoint", indexes.endpoints);
        from_json(document.at("sources"), "source address", indexes.sources);
    } catch (const Malformed& malformed) {
        return Error{fmt::format("packet plane: the kept indexes: {}", malformed.what)};
    } catch (const json::exception& exception) {
        return Error{fmt::format("packet plane: the kept indexes are not readable: {}", exception.what())};
    }
    return indexes;
}

}  // namespace marchproxy::packet
