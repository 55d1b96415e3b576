# Debian 12's packages, found once. scripts/setup.sh installs them; nothing is downloaded.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(prometheus-cpp REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)

pkg_check_modules(cares REQUIRED IMPORTED_TARGET libcares)
add_library(cares::cares ALIAS PkgConfig::cares)

# Debian's cpp-httplib brings no CMake package, only a pkg-config file.
pkg_check_modules(httplib REQUIRED IMPORTED_TARGET cpp-httplib)
add_library(httplib::httplib ALIAS PkgConfig::httplib)

pkg_check_modules(libbpf REQUIRED IMPORTED_TARGET libbpf)
add_library(libbpf::libbpf ALIAS PkgConfig::libbpf)
pkg_check_modules(libxdp REQUIRED IMPORTED_TARGET libxdp)
add_library(libxdp::libxdp ALIAS PkgConfig::libxdp)

if(MARCHPROXY_TESTS)
  find_package(GTest REQUIRED)
endif()
if(MARCHPROXY_BENCH)
  find_package(benchmark REQUIRED)
endif()
