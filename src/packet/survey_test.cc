#include "packet/survey.h"

#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <linux/if_link.h>
#include <sys/wait.h>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(SurveyExpects, WhatIsLeftOfTheWays) {
    struct Row {
        const char* name;
        PacketMode mode;
        const char* driver;
        unsigned mtu;
        XdpProgram other;
        std::optional<Way> expected;
        const char* why;  // not a better one; empty: there is none
    };
    const Row rows[] = {
        {"a card", PacketMode::automatic, "virtio_net", 1500, {}, Way::dispatcher, ""},
        {"a large MTU", PacketMode::automatic, "virtio_net", 9000, {}, Way::generic, "MTU is 9000"},
        {"a large MTU, native", PacketMode::native, "virtio_net", 9000, {}, std::nullopt, "mtu 1500"},
        {"a large MTU, generic", PacketMode::generic, "virtio_net", 9000, {}, Way::generic, ""},
        {"a large MTU, TC", PacketMode::tc, "virtio_net", 9000, {}, Way::tcx, ""},
        {"another's", PacketMode::automatic, "virtio_net", 1500, {7, "other"}, Way::tcx, "id 7 'other'"},
        {"another's, native", PacketMode::native, "virtio_net", 1500, {7, ""}, std::nullopt, "packet.mode: tc"},
        {"libxdp's", PacketMode::automatic, "virtio_net", 1500, {7, "xdp_dispatcher"}, Way::dispatcher, "id 7"},
        {"veth", PacketMode::automatic, "veth", 9000, {7, "other"}, Way::tcx, ""},
        {"veth, native", PacketMode::native, "veth", 1500, {}, Way::dispatcher, ""},
    };
    for (const Row& row : rows) {
        const Survey survey{.name = "eth0",
                            .exists = true,
                            .driver = row.driver,
                            .mtu = row.mtu,
                            .candidates = candidates_for(row.mode, row.driver),
                            .other = row.other};
        EXPECT_EQ(survey.expected(), row.expected) << row.name;
        EXPECT_EQ(survey.vain().empty(), std::string_view(row.why).empty()) << row.name;
        for (const Attempt& attempt : survey.vain())
            EXPECT_THAT(attempt.reason, HasSubstr(row.why)) << row.name;
    }
}

class SurveyTest : public testing::PinNamespace {
  protected:
    PacketSettings settings(PacketMode mode = PacketMode::automatic) const {
        return {.interfaces = {"near"}, .mode = mode, .pin = bpffs + "/marchproxy"};
    }
    Survey of_near(PacketMode mode = PacketMode::automatic) const {
        std::vector<Survey> surveys = survey(settings(mode));
        EXPECT_THAT(surveys, SizeIs(1));
        return surveys.at(0);
    }
    bool made_something() const {
        return ::access(settings().pin.c_str(), F_OK) == 0 || testing::run("ip link show near | grep -q xdp") ||
               testing::run("tc qdisc show dev near | grep -q clsact");
    }
};

TEST_F(SurveyTest, LooksAndMakesNothing) {
    PacketSettings two = settings();
    two.interfaces.push_back("later");
    const std::vector<Survey> surveys = survey(two);
    ASSERT_THAT(surveys, SizeIs(2));
    EXPECT_TRUE(surveys[0].exists);
    EXPECT_EQ(surveys[0].driver, "veth");
    EXPECT_EQ(surveys[0].mtu, 1500u);
    EXPECT_EQ(surveys[0].candidates.ways, (std::vector{Way::tcx, Way::clsact}));
    EXPECT_FALSE(surveys[0].own.has_value());
    EXPECT_EQ(surveys[0].other.id, 0u);
    EXPECT_EQ(surveys[0].unseen, "");
    EXPECT_EQ(surveys[1].name, "later");
    EXPECT_FALSE(surveys[1].exists);
    EXPECT_FALSE(made_something());
}

TEST_F(SurveyTest, KnowsWhatIsOursByItsPin) {
    const Descriptor xdp = testing::load_xdp(), classifier = testing::load_classifier();
    const auto attacher = Attacher::open(settings().pin);
    ASSERT_TRUE(attacher.ok()) << attacher.error();
    for (const Way way : {Way::generic, Way::clsact}) {
        ASSERT_TRUE(attacher->attach("near", std::span(&way, 1), {xdp.get(), classifier.get(), {}, "xdp"}).ok());
        const Survey survey = of_near();
        ASSERT_TRUE(survey.own.has_value()) << name_of(way);
        EXPECT_EQ(survey.own->way, way);
        EXPECT_EQ(survey.own->program_id, id_of_program(is_xdp(way) ? xdp.get() : classifier.get()));
        EXPECT_EQ(survey.other.id, 0u) << "ours is nobody else's";
        attacher->detach_all();
        EXPECT_FALSE(of_near().own.has_value()) << name_of(way);
    }
}

TEST_F(SurveyTest, NamesTheXdpProgramOfSomebodyElse) {
    const Descriptor other = testing::load_xdp(XDP_PASS, "somebody_else");
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = XDP_FLAGS_SKB_MODE);
    const Descriptor link(bpf_link_create(other.get(), static_cast<int>(::if_nametoindex("near")), BPF_XDP, &options));
    ASSERT_TRUE(static_cast<bool>(link));
    const Survey survey = of_near(PacketMode::native);
    EXPECT_FALSE(survey.own.has_value());
    EXPECT_EQ(survey.other.id, id_of_program(other.get()));
    EXPECT_EQ(survey.other.name, "somebody_else");
    EXPECT_FALSE(survey.expected().has_value());
}

TEST_F(SurveyTest, SaysWithoutRightsThatItCannotTellWhoseAProgramIs) {
    const Descriptor xdp = testing::load_xdp();
    const auto attacher = Attacher::open(settings().pin);
    ASSERT_TRUE(attacher.ok()) << attacher.error();
    ASSERT_TRUE(attacher->attach("near", PacketMode::generic, {.xdp = xdp.get()}).ok());
    const pid_t process = ::fork();
    if (process == 0) {
        if (::chmod(bpffs.c_str(), 0755) != 0 || ::setresuid(65534, 65534, 65534) != 0) std::_Exit(2);
        const Survey survey = of_near();
        const bool right = survey.unseen.find("Permission denied") != std::string::npos && !survey.own &&
                           survey.other.id != 0 && survey.vain().empty();
        if (!right) std::fprintf(stderr, "unseen: %s, program %u\n", survey.unseen.c_str(), survey.other.id);
        std::_Exit(right ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(process, &status, 0), process);
    EXPECT_EQ(status, 0);
    attacher->detach_all();
}

}  // namespace
}  // namespace marchproxy::packet
