# Programs for the kernel. No header of the running kernel is needed: what they use is in its user-space interface.
find_program(BPF_CLANG NAMES clang-14 clang REQUIRED)
find_program(BPFTOOL bpftool PATHS /usr/sbin /sbin REQUIRED)

# marchproxy_bpf_object(TARGET SOURCE OBJECT [INCLUDES directory...]) compiles SOURCE into OBJECT; INCLUDES come before src/.
function(marchproxy_bpf_object target source object)
  cmake_parse_arguments(bpf "" "" "INCLUDES" ${ARGN})
  cmake_path(GET object PARENT_PATH directory)
  list(TRANSFORM bpf_INCLUDES PREPEND "-I")
  add_custom_command(
    OUTPUT "${object}"
    COMMAND "${CMAKE_COMMAND}" -E make_directory "${directory}"
    COMMAND "${BPF_CLANG}" -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Wno-unused-function -Wno-unused-parameter -Werror
            # asm/types.h lies in a directory of the build machine's architecture.
            ${bpf_INCLUDES} "-I/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}" "-I${CMAKE_SOURCE_DIR}/src" "-I${CMAKE_SOURCE_DIR}"
            -MD -MF "${object}.d" -MT "${object}" -c "${source}" -o "${object}"
    DEPENDS "${source}"
    DEPFILE "${object}.d"
    COMMENT "Compiling ${source} for the kernel"
    VERBATIM)
  add_custom_target(${target} DEPENDS "${object}")
endfunction()

# marchproxy_bpf(ROOM NAME) compiles src/bpf/NAME.bpf.c and makes ROOM depend on its skeleton, "bpf/NAME.skel.h".
function(marchproxy_bpf room name)
  set(object "${CMAKE_BINARY_DIR}/bpf/${name}.bpf.o")
  set(linked "${CMAKE_BINARY_DIR}/bpf/${name}.linked.o")
  set(skeleton "${CMAKE_BINARY_DIR}/generated/bpf/${name}.skel.h")
  marchproxy_bpf_object(${name}_bpf "${CMAKE_SOURCE_DIR}/src/bpf/${name}.bpf.c" "${object}")
  add_custom_command(
    OUTPUT "${skeleton}"
    COMMAND "${CMAKE_COMMAND}" -E make_directory "${CMAKE_BINARY_DIR}/generated/bpf"
    COMMAND "${BPFTOOL}" gen object "${linked}" "${object}"
    COMMAND "${CMAKE_COMMAND}" -E echo "// NOLINTBEGIN: written by bpftool" > "${skeleton}"
    COMMAND "${BPFTOOL}" gen skeleton "${linked}" name "${name}_bpf" >> "${skeleton}"
    COMMAND "${CMAKE_COMMAND}" -E echo "// NOLINTEND" >> "${skeleton}"
    DEPENDS "${object}"
    COMMENT "Writing the skeleton of bpf/${name}.bpf.c")
  add_custom_target(${name}_skeleton DEPENDS "${skeleton}")
  add_dependencies(${name}_skeleton ${name}_bpf)
  add_dependencies(${room} ${name}_skeleton)
endfunction()
