# What our side of a PJRT plugin costs.
add_executable(bench_pjrt ${CMAKE_CURRENT_SOURCE_DIR}/pjrt.cc)
target_link_libraries(bench_pjrt PRIVATE vertebra_train vertebra_backend_cpu vertebra_backend_pjrt)
