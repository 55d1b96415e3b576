# cmake -DINPUT=page.html -DOUTPUT=dashboard.cc -P embed_dashboard.cmake
file(READ "${INPUT}" bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE "${OUTPUT}" "// Made from ${INPUT} by cmake/embed_dashboard.cmake.
#include \"admin/dashboard.h\"

namespace marchproxy::admin {

namespace {
constexpr unsigned char page[] = {${bytes}};
}

std::string_view dashboard_page() { return {reinterpret_cast<const char*>(page), sizeof page}; }

}  // namespace marchproxy::admin
")
