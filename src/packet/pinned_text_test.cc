#include "packet/pinned_text.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::HasSubstr;

class PinnedText : public testing::PinNamespace {
  protected:
    void SetUp() override {
        PinNamespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        ASSERT_EQ(::mkdir((bpffs + "/texts").c_str(), 0700), 0);
        path_ = bpffs + "/texts/text";
    }
    void comes_back(const std::string& text) {
        const auto written = write_pinned_text(path_, text);
        ASSERT_TRUE(written.ok()) << written.error();
        const auto read = read_pinned_text(path_);
        ASSERT_TRUE(read.has_value()) << text.size() << " bytes";
        EXPECT_TRUE(*read == text) << text.size() << " bytes were written and " << read->size() << " read";
    }

    std::string path_;
};

TEST_F(PinnedText, ComesBackAsItWasWrittenAndTakesThePlaceOfTheOneBefore) {
    EXPECT_FALSE(read_pinned_text(path_).has_value()) << "there is none yet";
    for (const char* text : {"a", "seven..", "eight...", "nine.....", "{\"services\": []}"})
        comes_back(text);
    comes_back("");
    comes_back(std::string("a\0b", 3));
    comes_back(std::string(1'000'003, 'x'));
    comes_back("short again");
}

TEST_F(PinnedText, LeavesNothingBeside) {
    comes_back("one");
    comes_back("two");
    size_t files = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(bpffs + "/texts"))
        ++files;
    EXPECT_EQ(files, 1u);
}

// A process that was killed between the two steps of writing.
TEST_F(PinnedText, IsWrittenOverWhatAKilledProcessLeft) {
    ASSERT_TRUE(write_pinned_text(path_ + "-new", "half").ok());
    comes_back("whole");
}

TEST_F(PinnedText, SaysWhichPathCannotBeWritten) {
    const auto written = write_pinned_text(bpffs + "/nowhere/text", "a");
    ASSERT_FALSE(written.ok());
    EXPECT_THAT(written.error(), HasSubstr(bpffs + "/nowhere/text"));
}

}  // namespace
}  // namespace marchproxy::packet
