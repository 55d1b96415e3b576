# Language level, warnings, hardening, sanitizers and the faster tools where they are installed.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(CCACHE ccache)
if(CCACHE)
  # Checkouts of the same sources share what they compile: names of files are hashed from here on, and so they are told.
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" CCACHE_NOHASHDIR=1 "${CCACHE}")
endif()

# Every target of ours links this; third-party headers come in as SYSTEM and stay out of the warnings.
add_library(marchproxy_options INTERFACE)
target_include_directories(marchproxy_options INTERFACE "${CMAKE_SOURCE_DIR}/src" "${CMAKE_BINARY_DIR}/generated")
target_compile_options(marchproxy_options INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers -Wnon-virtual-dtor -Woverloaded-virtual
  -fstack-protector-strong -fno-plt
  # GCC 12 sees overlaps in the concatenation of std::string that cannot be (gcc.gnu.org, bug 105651).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
target_compile_definitions(marchproxy_options INTERFACE $<$<NOT:$<CONFIG:Debug>>:_FORTIFY_SOURCE=2>)
target_link_options(marchproxy_options INTERFACE -Wl,-z,relro,-z,now)

find_program(MOLD mold)
if(MOLD)
  target_link_options(marchproxy_options INTERFACE -fuse-ld=mold)
endif()

if(MARCHPROXY_SANITIZE)
  add_compile_options(-fsanitize=${MARCHPROXY_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1 -U_FORTIFY_SOURCE)
  add_link_options(-fsanitize=${MARCHPROXY_SANITIZE})
endif()
if(MARCHPROXY_COVERAGE)
  add_compile_options(--coverage -fprofile-update=atomic -O0 -g)
  add_link_options(--coverage)
endif()
