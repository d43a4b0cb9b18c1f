# Cross build for 64-bit Arm on Debian: the compiler is g++-aarch64-linux-gnu's, libraries come from the folder
# that tools/arm64-sysroot filled, and ctest runs programs under qemu.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(VERTEBRA_SYSROOT ${CMAKE_CURRENT_LIST_DIR}/../build/arm64-sysroot)
get_filename_component(VERTEBRA_SYSROOT ${VERTEBRA_SYSROOT} ABSOLUTE)
set(CMAKE_FIND_ROOT_PATH ${VERTEBRA_SYSROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${VERTEBRA_SYSROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${VERTEBRA_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${VERTEBRA_SYSROOT}/usr/share/pkgconfig)
# Debian keeps headers that differ between processors in a folder that this compiler does not know below a sysroot.
set(CMAKE_CXX_FLAGS_INIT "-idirafter ${VERTEBRA_SYSROOT}/usr/include/aarch64-linux-gnu")
# Libraries that libraries need.
set(CMAKE_EXE_LINKER_FLAGS_INIT
    "-Wl,-rpath-link,${VERTEBRA_SYSROOT}/usr/lib/aarch64-linux-gnu:${VERTEBRA_SYSROOT}/lib/aarch64-linux-gnu")

find_program(VERTEBRA_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
set(CMAKE_CROSSCOMPILING_EMULATOR ${VERTEBRA_QEMU} -L ${VERTEBRA_SYSROOT})
