#include "packet/interfaces.h"

#include <bpf/bpf.h>
#include <gmock/gmock.h>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Generic where it does not matter: libxdp's dispatcher would be tried first, which takes as long as loading.
class InterfacesTest : public testing::Namespace {
  protected:
    static void TearDownTestSuite() { programs.reset(); }
    void SetUp() override {
        Namespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        if (!testing::load_xdp()) GTEST_SKIP() << "the kernel takes no BPF programs from this process";
        if (!programs) {  // verification takes a second or two
            auto loaded =
                Programs::load({.flows = 1, .services = 8, .endpoints = 8, .ring_slots = 64, .report_bytes = 1 << 14});
            ASSERT_TRUE(loaded.ok()) << loaded.error();
            programs.emplace(std::move(*loaded));
        }
        mount_bpffs();
        auto opened = Attacher::open(bpffs + "/marchproxy");
        ASSERT_TRUE(opened.ok()) << opened.error();
        attacher.emplace(std::move(*opened));
    }
    void TearDown() override {
        if (attacher) attacher->detach_all();
        Namespace::TearDown();
    }
    std::vector<std::string> attached() const {
        std::vector<std::string> names;
        for (const Attachment& attachment : attacher->attachments())
            names.push_back(attachment.interface);
        std::sort(names.begin(), names.end());
        return names;
    }
    // By which the packet plane answers on the interface.
    static std::string mac_told(const char* interface) {
        const uint32_t index = ::if_nametoindex(interface);
        abi::packet_interface told{};
        if (bpf_map_lookup_elem(programs->map("interfaces"), &index, &told) != 0) return "none";
        std::array<char, 18> text{};
        std::snprintf(text.data(), text.size(), "%02x:%02x:%02x:%02x:%02x:%02x", told.mac[0], told.mac[1], told.mac[2],
                      told.mac[3], told.mac[4], told.mac[5]);
        return text.data();
    }

    static inline std::optional<Programs> programs;
    std::optional<Attacher> attacher;
    std::vector<std::string> lines;
    telemetry::Log log{LogLevel::info, LogFormat::text, [this](std::string_view line) { lines.emplace_back(line); }};
};

TEST_F(InterfacesTest, AreAttachedWhereTheyAreThereAndSayWhyNotWhereNot) {
    Interfaces interfaces(log, {"near", "later"}, PacketMode::automatic);
    for (const InterfaceStatus& status : interfaces.status())
        EXPECT_EQ(status.problem, "not attached yet") << status.name;
    interfaces.attach(*attacher, *programs);
    const auto status = interfaces.status();
    ASSERT_THAT(status, SizeIs(2));
    EXPECT_EQ(status[0].name, "near");
    EXPECT_NE(status[0].way, "");
    EXPECT_EQ(status[0].problem, "");
    EXPECT_NE(status[0].program_id, 0u);
    EXPECT_FALSE(status[0].adopted);
    EXPECT_EQ(status[1].name, "later");
    EXPECT_EQ(status[1].way, "");
    EXPECT_THAT(status[1].problem, HasSubstr("no interface later"));
    EXPECT_FALSE(interfaces.complete(*attacher));
    EXPECT_THAT(attached(), ElementsAre("near"));
    EXPECT_TRUE(frame_passes()) << "what is no service's goes on to the stack";
}

TEST_F(InterfacesTest, AreAttachedWhenTheyComeAndAgainWhenTheyComeBack) {
    Interfaces interfaces(log, {"near", "later"}, PacketMode::generic);
    interfaces.attach(*attacher, *programs);
    const uint32_t first = interfaces.status()[0].program_id;
    ASSERT_TRUE(testing::run("ip link add later type veth peer name later_far && ip link set later up"));
    interfaces.attach(*attacher, *programs);
    EXPECT_NE(interfaces.status()[1].way, "");
    EXPECT_EQ(interfaces.status()[1].problem, "");
    EXPECT_EQ(interfaces.status()[0].program_id, first);
    EXPECT_TRUE(interfaces.complete(*attacher));
    EXPECT_THAT(attached(), ElementsAre("later", "near"));

    ASSERT_TRUE(testing::run("ip link del later"));
    EXPECT_FALSE(interfaces.complete(*attacher));
    interfaces.attach(*attacher, *programs);
    EXPECT_EQ(interfaces.status()[1].way, "");
    EXPECT_THAT(interfaces.status()[1].problem, HasSubstr("no interface later"));
    ASSERT_TRUE(testing::run("ip link add later type veth peer name later_far && ip link set later up"));
    interfaces.attach(*attacher, *programs);
    EXPECT_TRUE(interfaces.complete(*attacher));
}

TEST_F(InterfacesTest, SayOnlyOnceThatOneIsMissing) {
    Interfaces interfaces(log, {"later"}, PacketMode::generic);
    for (int time = 0; time < 5; ++time)
        interfaces.attach(*attacher, *programs);
    EXPECT_THAT(lines, ElementsAre(HasSubstr("no interface later")));
}

TEST_F(InterfacesTest, TellTheProgramsByWhichHardwareAddressToAnswer) {
    ASSERT_TRUE(testing::run("ip link set near address 02:00:00:00:00:0a"));
    EXPECT_EQ(mac_told("far"), "none");
    Interfaces(log, {"near"}, PacketMode::generic).attach(*attacher, *programs);
    EXPECT_EQ(mac_told("near"), "02:00:00:00:00:0a");
}

TEST_F(InterfacesTest, ThatAreNotNamedAnyMoreAreLeftAndTheOthersAdopted) {
    ASSERT_TRUE(testing::run("ip link add other type veth peer name other_far && ip link set other up"));
    Interfaces(log, {"near", "other"}, PacketMode::generic).attach(*attacher, *programs);
    EXPECT_THAT(attached(), ElementsAre("near", "other"));
    Interfaces fewer(log, {"other"}, PacketMode::generic);
    fewer.attach(*attacher, *programs);
    EXPECT_THAT(attached(), ElementsAre("other"));
    EXPECT_TRUE(fewer.complete(*attacher));
    ASSERT_THAT(fewer.status(), SizeIs(1));
    EXPECT_TRUE(fewer.status()[0].adopted) << "it was attached already, by an earlier process as it were";
    EXPECT_THAT(lines, Contains(HasSubstr("detached from an interface that is not configured any more")));
}

TEST_F(InterfacesTest, NoticeThatSomebodyTookAProgramAway) {
    Interfaces interfaces(log, {"near"}, PacketMode::generic);
    interfaces.attach(*attacher, *programs);
    ASSERT_TRUE(interfaces.complete(*attacher));
    attacher->detach("near");
    EXPECT_FALSE(interfaces.complete(*attacher));
    interfaces.attach(*attacher, *programs);
    EXPECT_TRUE(interfaces.complete(*attacher));
}

TEST_F(InterfacesTest, SayWhichVlansXdpCannotSendBy) {
    Vlans vlans{{100, {.name = "near.7", .below = ::if_nametoindex("near"), .tag = 1}}};
    Interfaces at_xdp(log, {"near"}, PacketMode::generic);
    at_xdp.attach(*attacher, *programs);
    EXPECT_THAT(at_xdp.notes_on(vlans), IsEmpty()) << "a veth pair has no card that takes tags off";
    vlans[101] = {.name = "near.7.8", .below = 100, .tag = 2};
    EXPECT_THAT(at_xdp.notes_on(vlans), ElementsAre(HasSubstr("near.7.8")));
    attacher->detach_all();
    Interfaces at_tc(log, {"near"}, PacketMode::tc);
    at_tc.attach(*attacher, *programs);
    EXPECT_THAT(at_tc.notes_on(vlans), IsEmpty()) << "the kernel puts both tags in";
}

TEST_F(InterfacesTest, NoneIsComplete) {
    Interfaces none(log, {}, PacketMode::generic);
    none.attach(*attacher, *programs);
    EXPECT_TRUE(none.complete(*attacher));
    EXPECT_THAT(attached(), IsEmpty());
}

}  // namespace
}  // namespace marchproxy::packet
