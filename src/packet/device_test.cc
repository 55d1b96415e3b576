#include "packet/device.h"

#include <gmock/gmock.h>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::ElementsAre;

class Device : public testing::Namespace {};

TEST_F(Device, TellsItsDriverAddressAndMtu) {
    ASSERT_TRUE(testing::run("ip link set near address 02:00:00:00:00:0a mtu 1400"));
    EXPECT_EQ(driver_of("near"), veth_driver);
    EXPECT_EQ(mtu_of("near"), 1400u);
    EXPECT_EQ(receive_queues("near"), 1u);
    EXPECT_EQ(receive_queues("lo"), 1u) << "it does not say";
    EXPECT_THAT(hardware_address("near").value(), ElementsAre(2, 0, 0, 0, 0, 10));
    EXPECT_EQ(driver_of("lo"), "") << "it names none";
    EXPECT_EQ(mtu_of("lo"), 65536u);
}

TEST_F(Device, ThatIsNotThereTellsNothing) {
    EXPECT_EQ(driver_of("later"), "");
    EXPECT_EQ(mtu_of("later"), 0u);
    EXPECT_FALSE(hardware_address("later").has_value());
    EXPECT_FALSE(takes_tags_off("later"));
}

}  // namespace
}  // namespace marchproxy::packet
