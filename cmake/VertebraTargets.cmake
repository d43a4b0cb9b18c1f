# vertebra_library(NAME DEPS ...): the library of src/NAME, from every .cc file in that folder.
# vertebra_test(NAME DEPS ...): the test program of tests/NAME, likewise, each TEST a ctest case.

function(vertebra_library name)
  cmake_parse_arguments(ARG "" "FOLDER" "DEPS;PRIVATE" ${ARGN})
  set(folder ${name})
  if(ARG_FOLDER)
    set(folder ${ARG_FOLDER})
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${folder}/*.cc)
  add_library(vertebra_${name} STATIC ${sources})
  target_include_directories(vertebra_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(vertebra_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE})
endfunction()

function(vertebra_test name)
  cmake_parse_arguments(ARG "" "FOLDER" "DEPS" ${ARGN})
  set(folder ${name})
  if(ARG_FOLDER)
    set(folder ${ARG_FOLDER})
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${folder}/*.cc)
  if(NOT sources)
    return()
  endif()
  add_executable(test_${name} ${sources})
  target_link_libraries(test_${name} PRIVATE ${ARG_DEPS} GTest::gtest GTest::gtest_main)
  target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR})
  # A third less time to compile; GCC's warning sees less at -O1 and takes empty optionals for unset memory.
  target_compile_options(test_${name} PRIVATE
                         $<$<CONFIG:Release>:-O1 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>>)
  target_compile_definitions(test_${name} PRIVATE VERTEBRA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  gtest_discover_tests(test_${name} TEST_PREFIX "${name}." DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                       PROPERTIES TIMEOUT 600)
endfunction()
