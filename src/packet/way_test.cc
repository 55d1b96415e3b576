#include "packet/way.h"

#include <gmock/gmock.h>

namespace marchproxy::packet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(Candidates, AreTheWaysOfTheMode) {
    for (const PacketMode mode : {PacketMode::automatic, PacketMode::native, PacketMode::generic, PacketMode::tc})
        for (const char* driver : {"virtio_net", ""}) {
            const Candidates candidates = candidates_for(mode, driver);
            EXPECT_EQ(candidates.ways, ways_for(mode)) << driver;
            EXPECT_THAT(candidates.passed_over, IsEmpty()) << driver;
        }
}

TEST(Candidates, PassOverXdpOnAVethPairUnlessItIsAskedFor) {
    const Candidates candidates = candidates_for(PacketMode::automatic, "veth");
    EXPECT_THAT(candidates.ways, ElementsAre(Way::tcx, Way::clsact));
    ASSERT_THAT(candidates.passed_over, SizeIs(1));
    EXPECT_EQ(candidates.passed_over[0].way, Way::native);
    EXPECT_THAT(candidates.passed_over[0].reason, HasSubstr("packet.mode: native"));
    for (const PacketMode mode : {PacketMode::native, PacketMode::generic, PacketMode::tc})
        EXPECT_EQ(candidates_for(mode, "veth").ways, ways_for(mode));
}

}  // namespace
}  // namespace marchproxy::packet
