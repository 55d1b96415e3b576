#include "control/limits.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace marchproxy::control {
namespace {

TEST(DescriptorLimit, IsRaisedToWhatTheMachineAllows) {
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    const rlimit lowered{limit.rlim_max / 2, limit.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &lowered), 0);
    EXPECT_EQ(raise_descriptor_limit().descriptors, limit.rlim_max);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
}

TEST(DescriptorLimit, ALowOneIsNamedWithWhatToDo) {
    const std::string note = note_on(1024);
    EXPECT_NE(note.find("1024"), std::string::npos);
    EXPECT_NE(note.find("512 connections"), std::string::npos);
    EXPECT_NE(note.find("LimitNOFILE"), std::string::npos);
    EXPECT_EQ(note_on(comfortable_descriptors), "");
}

}  // namespace
}  // namespace marchproxy::control
