#include "model/snapshot.h"

#include <gtest/gtest.h>

#include "model/dscp.h"

namespace marchproxy {
namespace {

TEST(Treatments, AServiceTreatsAllAlikeUnlessItIsToldOtherwise) {
    Service service;
    QosSettings settings;
    service.qos.priority = Priority::p1;
    for (const Treatment& treatment : treatments_of(service, settings))
        EXPECT_EQ(treatment, (Treatment{Priority::p1, 34}));
    EXPECT_FALSE(heeds_marks(service.qos));

    service.qos.dscp = 7;
    EXPECT_EQ(treatments_of(service, settings)[46], (Treatment{Priority::p1, 7}));
}

TEST(Treatments, ATrustedMarkStays) {
    Service service;
    service.qos.trust = true;
    const Treatments all = treatments_of(service, {});
    for (uint8_t arrived = 0; arrived < unknown_mark; ++arrived)
        EXPECT_EQ(all[arrived], (Treatment{priority_of(arrived), arrived}));
    EXPECT_EQ(all[unknown_mark], (Treatment{Priority::p3, 0}));
    EXPECT_TRUE(heeds_marks(service.qos));
}

TEST(Treatments, RulesGoBeforeTrust) {
    Service service;
    service.qos.trust = true;
    service.qos.rules = {{.arrived = 46, .priority = Priority::p2, .dscp = {}},
                         {.arrived = 10, .priority = {}, .dscp = 12},
                         {.arrived = 8, .priority = Priority::p3, .dscp = 1}};
    const Treatments all = treatments_of(service, {});
    EXPECT_EQ(all[46], (Treatment{Priority::p2, 18})) << "its new priority's mark";
    EXPECT_EQ(all[10], (Treatment{Priority::p3, 12})) << "the priority that it had";
    EXPECT_EQ(all[8], (Treatment{Priority::p3, 1}));
    EXPECT_EQ(all[34], (Treatment{Priority::p1, 34}));
}

}  // namespace
}  // namespace marchproxy
