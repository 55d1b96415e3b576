#include "admin/table.h"

#include <gtest/gtest.h>

namespace marchproxy::admin {
namespace {

TEST(Table, AlignsItsColumns) {
    Table table({{"NAME"}, {"BYTES", Table::Align::right}, {"NOTE"}});
    table.add({"web", "5", ""});
    table.add({"größer", "12345678", "x"});
    EXPECT_EQ(table.text(),
              "NAME       BYTES  NOTE\n"
              "web            5  \n"
              "größer  12345678  x\n");
}

TEST(Table, LetsNoNameSteerTheTerminal) {
    EXPECT_EQ(printable("a\x1b[31mb\r\n\x7f"), "a?[31mb???");
    EXPECT_EQ(printable("a\xc2\x9b"
                        "31m"),
              "a??31m")
        << "the C1 form of an escape sequence";
    EXPECT_EQ(printable("\xff"), "\xef\xbf\xbd");
    EXPECT_EQ(printable("größer → x"), "größer → x");
}

TEST(Table, WritesQuantitiesForPeople) {
    EXPECT_EQ(human_bytes(0), "0 B");
    EXPECT_EQ(human_bytes(999), "999 B");
    EXPECT_EQ(human_bytes(999'999), "1.00 MB");
    EXPECT_EQ(human_bytes(1'250'000'000), "1.25 GB");
    EXPECT_EQ(human_rate(941e6), "941 Mbit/s");
    EXPECT_EQ(human_rate(18.4e9), "18.4 Gbit/s");
    EXPECT_EQ(human_duration(0.00025), "0.25ms");
    EXPECT_EQ(human_duration(0.25), "250ms");
    EXPECT_EQ(human_duration(12.5), "12.5s");
    EXPECT_EQ(human_duration(61), "1m 1s");
    EXPECT_EQ(human_duration(3900), "1h 5m");
    EXPECT_EQ(human_duration(90000), "1d 1h");
}

}  // namespace
}  // namespace marchproxy::admin
