#include "config/document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/testing.h"

namespace marchproxy::config {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string refused(std::string_view yaml) {
    return listed(load_text(yaml, "f"));
}

TEST(Document, WrongSyntaxHasItsPlace) {
    EXPECT_THAT(refused("log: { level: INFO\n"), StartsWith("f:2:1: is not valid YAML: "));
    EXPECT_THAT(refused("log:\n\tlevel: INFO\n"), StartsWith("f:2:"));
    EXPECT_THAT(refused("a: b: c\n"), StartsWith("f:1:5: is not valid YAML: "));
}

TEST(Document, NothingInIt) {
    for (const char* text : {"", "\n\n", "# a comment\n", "---\n", "null\n"})
        EXPECT_THAT(refused(text), StartsWith("f: is empty")) << text;
}

TEST(Document, WhatIsNotText) {
    EXPECT_EQ("f:2:3: byte 0x00 is not text; the file must be YAML in UTF-8\n",
              refused(std::string_view("a:\nb:\0", 6)));
    EXPECT_THAT(refused("\x7f"
                        "ELF"),
                StartsWith("f:1:1: byte 0x7f is not text"));
    for (const char* text :
         {"\xff\xfe", "a: \xc0\xaf", "a: \xed\xa0\x80", "a: \xf5\x80\x80\x80", "a: \xe2\x82", "a: \x80"})
        EXPECT_THAT(refused(text), HasSubstr("is not text")) << text;
    EXPECT_EQ("", refused("services: # \xe2\x82\xac \xc3\xa4 \xf0\x9f\x98\x80\n"));
    EXPECT_EQ("", refused("\xef\xbb\xbflog: { level: INFO }\n"));
}

TEST(Document, AnchorsAliasesTagsAndSecondDocuments) {
    EXPECT_THAT(refused("log: &a { level: INFO }\n"), StartsWith("f:1:6: log: anchors (&name) are not supported"));
    EXPECT_THAT(refused("log: *a\n"), StartsWith("f:1:6: "));
    EXPECT_THAT(refused("log: !!map { level: INFO }\n"), StartsWith("f:1:6: log: tags ("));
    EXPECT_THAT(refused("log: { level: !secret INFO }\n"), StartsWith("f:1:15: log.level: tags (\"!secret\")"));
    EXPECT_THAT(refused("log: {}\n---\nlog: {}\n"), StartsWith("f:2:1: a second document begins here"));
}

TEST(Document, KeysThatAreNoWords) {
    EXPECT_THAT(refused("? [a]\n: b\n"), StartsWith("f:1:3: a key must be a word"));
    EXPECT_THAT(refused("? { a: b }\n: b\n"), StartsWith("f:1:3: a key must be a word"));
    EXPECT_THAT(refused("~: b\n"), StartsWith("f:1:1: a key is missing"));
    EXPECT_THAT(refused("\"a\\x00b\": b\n"), StartsWith("f:1:1: \"a?b\" is not a key"));
    EXPECT_THAT(refused(std::string(500, 'k') + ": b\n"), StartsWith("f:1:1: \"kkkk"));
}

TEST(Document, DepthIsBounded) {
    EXPECT_THAT(refused("a: " + std::string(100, '[') + std::string(100, ']')),
                HasSubstr("nested deeper than 64 levels"));
    EXPECT_THAT(refused("a: " + std::string(100'000, '[')), StartsWith("f:1:"));
    EXPECT_THAT(refused(std::string(100'000, '{')), StartsWith("f:1:"));
    std::string dashes;
    for (int i = 0; i < 50'000; ++i)
        dashes += "- ";
    EXPECT_THAT(refused(dashes), HasSubstr("nested deeper than 64 levels"));
    std::string stairs;
    for (int i = 0; i < 200; ++i)
        stairs += std::string(static_cast<size_t>(i), ' ') + "a:\n";
    EXPECT_THAT(refused(stairs), StartsWith("f:65:"));
}

TEST(Document, SizeIsBounded) {
    EXPECT_THAT(refused(std::string((64U << 20) + 1, '#')), StartsWith("f: is larger than 64 MiB"));
}

TEST(Document, FilesThatCannotBeRead) {
    Sources sources;
    sources.file = "/nonexistent/file";
    EXPECT_EQ("/nonexistent/file: cannot be read: No such file or directory; check the path and its permissions\n",
              listed(load(sources)));
    sources.file = "/";
    EXPECT_EQ("/: cannot be read: Is a directory; check the path and its permissions\n", listed(load(sources)));
    sources.file = "/dev/zero";
    EXPECT_THAT(listed(load(sources)), StartsWith("/dev/zero: is larger than 64 MiB"));
}

TEST(Document, TruncatedAnywhereIsRefusedOrFine) {
    for (const char* name : {"examples/tcp.yaml", "tests/fuzz/config_fuzz/every_key.yaml"}) {
        const std::string whole = contents(repository / name);
        ASSERT_FALSE(whole.empty());
        for (size_t size = 0; size < whole.size(); ++size) {
            const Loaded loaded = load_text(std::string_view(whole).substr(0, size), "f");
            for (const Problem& problem : loaded.problems)
                ASSERT_EQ("f", problem.file) << size;
        }
    }
}

TEST(Document, AnyByteChangedIsRefusedOrFine) {
    const std::string whole = contents(repository / "examples/proxy-protocol.yaml");
    for (size_t at = 0; at < whole.size(); at += 2) {
        for (const char byte : {'\n', ':', '{', '[', '-', '"', '&', '\t'}) {
            std::string changed = whole;
            changed[at] = byte;
            const Loaded loaded = load_text(changed, "f");
            ASSERT_EQ(loaded.ok(), listed(loaded).empty());
        }
    }
}

}  // namespace
}  // namespace marchproxy::config
