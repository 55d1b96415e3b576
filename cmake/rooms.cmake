# marchproxy_room(NAME [ROOMS room...] [LIBRARIES target...] [TOGETHER suite...])
#
# A room is src/NAME: its *.cc make one static library. Beside a source x.cc may lie
#   x_test.cc   all of a room's tests make one program NAME_test, run by ctest
#   x_fuzz.cc   one libFuzzer program each (MARCHPROXY_FUZZ)
#   x_bench.cc  one Google Benchmark program each (MARCHPROXY_BENCH)
# TOGETHER: suites whose tests share what takes seconds to make, so that each suite is one entry of ctest, not each test.
# ROOMS are the only rooms whose headers it may include; tests/architecture checks that.
include(GoogleTest)

# Where tests find files of the repository. Not __FILE__: a compiler cache that several checkouts share makes that relative.
file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/generated/repository.h" CONTENT
"#pragma once
// Written by cmake/rooms.cmake.
#include <filesystem>

namespace marchproxy {
inline const std::filesystem::path repository = \"${CMAKE_SOURCE_DIR}\";
}
")

if(MARCHPROXY_FUZZ)
  add_custom_target(fuzzers)  # all of them: scripts/fuzz.sh runs what it built
endif()
function(marchproxy_room name)
  cmake_parse_arguments(room "" "" "ROOMS;LIBRARIES;TOGETHER" ${ARGN})
  set(directory "${CMAKE_SOURCE_DIR}/src/${name}")
  file(GLOB sources CONFIGURE_DEPENDS "${directory}/*.cc")
  set(tests ${sources})
  set(fuzzers ${sources})
  set(benches ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")
  list(FILTER benches INCLUDE REGEX "_bench\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz|bench)\\.cc$")

  if(sources)
    add_library(${name} STATIC ${sources})
    target_link_libraries(${name} PUBLIC marchproxy_options fmt::fmt Threads::Threads ${room_ROOMS} ${room_LIBRARIES})
  else()  # headers only
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE marchproxy_options fmt::fmt Threads::Threads ${room_ROOMS} ${room_LIBRARIES})
  endif()

  if(MARCHPROXY_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE ${name} GTest::gtest GTest::gmock GTest::gtest_main)
    # What is tested is optimised as it ships; the tests themselves need not be, and compile in two thirds of the time.
    target_compile_options(${name}_test PRIVATE $<$<CONFIG:Release>:-Og>)
    set(alone "")
    foreach(suite ${room_TOGETHER})
      string(APPEND alone ":${suite}.*")
      add_test(NAME "unit.${name}.${suite}" COMMAND ${name}_test "--gtest_filter=${suite}.*")
      set_tests_properties("unit.${name}.${suite}" PROPERTIES TIMEOUT 120 LABELS unit
                           SKIP_REGULAR_EXPRESSION "SKIPPED")
    endforeach()
    if(alone)
      string(REGEX REPLACE "^:" "TEST_FILTER;-" alone "${alone}")
    endif()
    gtest_discover_tests(${name}_test TEST_PREFIX "unit.${name}." DISCOVERY_MODE PRE_TEST ${alone}
                         PROPERTIES TIMEOUT 60 LABELS unit)
  endif()
  if(MARCHPROXY_BENCH)
    foreach(file ${benches})
      get_filename_component(stem "${file}" NAME_WE)
      add_executable(${stem} ${file})
      target_link_libraries(${stem} PRIVATE ${name} benchmark::benchmark benchmark::benchmark_main)
    endforeach()
  endif()
  if(MARCHPROXY_FUZZ)
    foreach(file ${fuzzers})
      get_filename_component(stem "${file}" NAME_WE)
      add_executable(${stem} ${file})
      target_link_libraries(${stem} PRIVATE ${name})
      target_link_options(${stem} PRIVATE -fsanitize=fuzzer)
      set_target_properties(${stem} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}")
      add_dependencies(fuzzers ${stem})
    endforeach()
  endif()
endfunction()
