#include "model/resolution.h"

#include <gmock/gmock.h>

namespace marchproxy {
namespace {

Endpoint endpoint_at(const char* address) {
    return {.address = *HostPort::parse(address), .path = {}, .weight = 100};
}

const Resolution resolution = {
    {*HostPort::parse("db.example:5432"),
     {*SocketAddress::parse("10.0.0.2:5432"), *SocketAddress::parse("10.0.0.1:5432")}},
    {*HostPort::parse("db2.example:5432"), {*SocketAddress::parse("10.0.0.1:5432")}},
    {*HostPort::parse("none.example:5432"), {}},
};

TEST(Resolution, LiteralsNeedNoEntryAndNamesHaveTheirs) {
    const auto of = [](const char* address) {
        std::vector<std::string> found;
        for (const SocketAddress& one : addresses_of(endpoint_at(address), resolution))
            found.push_back(to_string(one));
        return found;
    };
    EXPECT_THAT(of("[::1]:80"), testing::ElementsAre("[::1]:80"));
    EXPECT_THAT(of("db.example:5432"), testing::ElementsAre("10.0.0.2:5432", "10.0.0.1:5432"));
    EXPECT_THAT(of("none.example:5432"), testing::IsEmpty());
    EXPECT_THAT(of("unknown.example:5432"), testing::IsEmpty());
    EXPECT_THAT(of("db.example:80"), testing::IsEmpty()) << "a name is looked up with its port";
}

TEST(Resolution, AnAddressIsOneEndpointTheFirstThatLeadsThere) {
    Service service;
    for (const char* address : {"db2.example:5432", "db.example:5432", "10.0.0.3:80", "10.0.0.2:5432"})
        service.endpoints.push_back(endpoint_at(address));
    std::vector<std::pair<const Endpoint*, std::string>> found;
    for (const auto& [endpoint, address, path] : resolved_endpoints(service, resolution, {}))
        found.emplace_back(endpoint, to_string(address));
    EXPECT_THAT(found, testing::ElementsAre(testing::Pair(&service.endpoints[0], "10.0.0.1:5432"),
                                            testing::Pair(&service.endpoints[1], "10.0.0.2:5432"),
                                            testing::Pair(&service.endpoints[2], "10.0.0.3:80")));
}

TEST(IdleTimeout, IsTheServicesOwnOrItsProtocols) {
    const StreamSettings stream{.idle_timeout = std::chrono::hours(2), .udp_idle_timeout = std::chrono::seconds(7)};
    Service service;
    EXPECT_EQ(idle_timeout_of(service, stream), std::chrono::hours(2));
    service.protocol = Protocol::udp;
    EXPECT_EQ(idle_timeout_of(service, stream), std::chrono::seconds(7));
    service.idle_timeout = std::chrono::seconds(3);
    EXPECT_EQ(idle_timeout_of(service, stream), std::chrono::seconds(3));
}

}  // namespace
}  // namespace marchproxy
