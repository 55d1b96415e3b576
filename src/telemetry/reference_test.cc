#include "telemetry/reference.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "repository.h"

namespace marchproxy::telemetry {
namespace {

void expect_current(const std::string& name, const std::string& page) {
    const auto file = repository / "docs" / "reference" / name;
    if (std::getenv("MARCHPROXY_UPDATE_DOCS") != nullptr) {
        std::filesystem::create_directories(file.parent_path());
        std::ofstream(file) << page;
    }
    std::ostringstream stored;
    stored << std::ifstream(file).rdbuf();
    EXPECT_EQ(stored.str(), page) << file << " is not current: run this test with MARCHPROXY_UPDATE_DOCS=1";
}

TEST(Reference, MetricsPageIsCurrent) {
    expect_current("metrics.md", metrics_reference());
}
TEST(Reference, VerdictsPageIsCurrent) {
    expect_current("verdicts.md", verdicts_reference());
}

}  // namespace
}  // namespace marchproxy::telemetry
