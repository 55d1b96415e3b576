#include "packet/programs.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>

#include <optional>

#include "packet/libbpf_messages.h"
#include "packet/maps.h"
#include "packet/plan_cases.h"
#include "packet/read_back.h"
#include "packet/reconcile.h"
#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::HasSubstr;

uint32_t id_of_map(int map) {
    bpf_map_info info{};
    uint32_t size = sizeof info;
    return bpf_obj_get_info_by_fd(map, &info, &size) == 0 ? info.id : 0;
}

// Maps that outlive the process, as far as one test can tell: what the first one destroyed, the second one finds.
class Reload : public testing::Namespace {
  protected:
    void SetUp() override {
        Namespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        if (!testing::load_xdp()) GTEST_SKIP() << "the kernel takes no BPF programs from this process";
        mount_bpffs();
        pins_.emplace(bpffs + "/marchproxy");
    }
    Programs load(const Capacity& capacity) const {
        auto loaded = Programs::load(capacity, &*pins_);
        EXPECT_TRUE(loaded.ok()) << (loaded.ok() ? "" : loaded.error());
        if (!loaded.ok()) std::abort();  // nothing below means anything
        return std::move(*loaded);
    }
    static Plan write(Programs& programs, World& world) {
        auto planned = make_plan(world.input(), world.indexes, {});
        EXPECT_TRUE(planned.ok()) << (planned.ok() ? "" : planned.error());
        Maps maps(programs);
        Plan held;
        const auto written = packet::apply(reconcile({}, planned->plan), maps, held);
        EXPECT_TRUE(written.ok()) << (written.ok() ? "" : written.error());
        return planned->plan;
    }
    // Of everything that a plan has.
    static void fill(World& world) {
        Service& web = world.add("web", "203.0.113.1:80", {"10.0.1.1:8080", "10.0.1.2:8080"});
        web.routing.policy = Policy::maglev;
        web.access = {.allow = {prefix("0.0.0.0/0")}, .deny = {prefix("198.51.100.0/24"), prefix("198.51.100.7")}};
        world.add("dns", "203.0.113.1:53", {"10.0.1.2:53", "10.0.1.3:53", "10.0.1.4:53"}).protocol = Protocol::udp;
        Service& web6 = world.add("web6", "[2001:db8:a::1]:443", {"[2001:db8:e::1]:8443", "[2001:db8:e::2]:8443"});
        web6.access = {.allow = {prefix("::/0")}, .deny = {prefix("2001:db8:bad::/48")}};
        Service& games = world.add("games", "203.0.113.2:7777", {"10.0.1.9:7777"});
        games.protocol = Protocol::udp;
        games.forwarding = Forwarding::dnat;
        Service& closed = world.add("closed", "203.0.113.3:80", {"10.0.1.5:80"});
        closed.access.deny = {prefix("0.0.0.0/0"), prefix("::/0")};
        closed.limits.connections = 7;
    }

    std::optional<PinnedMaps> pins_;
};

TEST_F(Reload, GoesOnWithTheMapsOfAnEarlierProcessAndReadsThemBack) {
    World world;
    fill(world);
    Plan written;
    uint32_t flows = 0, services = 0;
    {
        Programs first = load(world.capacity);
        EXPECT_FALSE(first.took_over());
        written = write(first, world);
        ASSERT_EQ(written.services.size(), 5u);
        ASSERT_GE(written.rings.size(), 5u);
        ASSERT_EQ(written.access.size(), 3u);
        flows = id_of_map(first.map("client_flows"));
        services = id_of_map(first.map("services"));
    }
    const Capacity other{.flows = 99'999, .services = 16, .endpoints = 32, .ring_slots = 64, .nat_port_first = 5000};
    const Programs second = load(other);
    EXPECT_TRUE(second.took_over());
    EXPECT_EQ(second.capacity(), world.capacity) << "as the maps were made, not as asked for";
    EXPECT_EQ(id_of_map(second.map("client_flows")), flows);
    EXPECT_EQ(id_of_map(second.map("services")), services);
    const auto read = read_back(second);
    ASSERT_TRUE(read.ok()) << read.error();
    EXPECT_EQ(read->services.size(), written.services.size());
    EXPECT_TRUE(same(read->access, written.access));
    EXPECT_EQ(read->rings, written.rings);
    EXPECT_EQ(read->directory.size(), written.directory.size());
    EXPECT_TRUE(*read == written);
    EXPECT_TRUE(reconcile(*read, written).empty()) << "there is nothing to write";
}

TEST_F(Reload, ReadsEmptyMapsAsAnEmptyPlan) {
    World world;
    { load(world.capacity); }
    const auto read = read_back(load(world.capacity));
    ASSERT_TRUE(read.ok()) << read.error();
    EXPECT_TRUE(*read == Plan{});
}

TEST_F(Reload, MakesHalfMadeMapsAnew) {
    World world;
    fill(world);
    uint32_t flows = 0;
    {
        Programs first = load(world.capacity);
        write(first, world);
        flows = id_of_map(first.map("client_flows"));
    }
    ASSERT_EQ(::unlink((bpffs + "/marchproxy/made").c_str()), 0);  // as if it had been killed before it wrote that
    Capacity other = world.capacity;
    other.services = 16;
    const Programs second = load(other);
    EXPECT_FALSE(second.took_over());
    EXPECT_EQ(second.capacity(), other);
    EXPECT_NE(id_of_map(second.map("client_flows")), flows);
    const auto read = read_back(second);
    ASSERT_TRUE(read.ok()) << read.error();
    EXPECT_TRUE(*read == Plan{});
    EXPECT_TRUE(pins_->read_made().has_value()) << "and now they are whole";
}

TEST_F(Reload, MakesRoomForIpv6ClientsOnceAndForAll) {
    World world;
    world.capacity.ipv6_clients = false;
    uint64_t before = 0;
    {
        Programs first = load(world.capacity);
        EXPECT_FALSE(first.capacity().ipv6_clients);
        before = first.table_bytes();
        const auto made = first.make_room_for_ipv6_clients(*pins_);
        ASSERT_TRUE(made.ok()) << made.error();
        EXPECT_TRUE(first.capacity().ipv6_clients);
        EXPECT_GT(first.table_bytes(), before);
        const uint32_t zero = 0;
        uint32_t inner = 0;
        EXPECT_EQ(bpf_map_lookup_elem(first.map("clients"), &zero, &inner), 0);
        ASSERT_TRUE(first.make_room_for_ipv6_clients(*pins_).ok());
        uint32_t again = 0;
        EXPECT_EQ(bpf_map_lookup_elem(first.map("clients"), &zero, &again), 0);
        EXPECT_EQ(again, inner) << "a second time nothing is thrown away";
    }
    EXPECT_TRUE(load(world.capacity).capacity().ipv6_clients);
}

TEST_F(Reload, OpensTheProgramAgainOverTheMapsThatAreLoaded) {
    World world;
    const Programs programs = load(world.capacity);
    const LibbpfMessages messages;
    bpf_object* object = programs.open_again();
    ASSERT_NE(object, nullptr);
    EXPECT_EQ(bpf_object__load(object), 0) << messages.last();
    size_t maps = 0;
    const bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object) {
        const int loaded = programs.map(bpf_map__name(map));
        if (loaded < 0) continue;
        EXPECT_EQ(id_of_map(bpf_map__fd(map)), id_of_map(loaded)) << bpf_map__name(map);
        ++maps;
    }
    EXPECT_GT(maps, 10u);
    bpf_object__close(object);
}

TEST_F(Reload, SaysWhereThePinsCannotBe) {
    const PinnedMaps elsewhere("/tmp/marchproxy-no-bpffs");
    const auto loaded = Programs::load(World().capacity, &elsewhere);
    ASSERT_FALSE(loaded.ok());
    EXPECT_THAT(loaded.error(), HasSubstr("mount -t bpf"));
    EXPECT_NE(::access("/tmp/marchproxy-no-bpffs", F_OK), 0);
}

}  // namespace
}  // namespace marchproxy::packet
