# A finished pretraining run repeated by PyTorch: losses and bits per byte beside each other.
add_executable(bench_pretrain ${CMAKE_CURRENT_SOURCE_DIR}/pretrain.cc)
target_link_libraries(bench_pretrain PRIVATE vertebra_train vertebra_backend_cpu)
target_compile_definitions(bench_pretrain PRIVATE VERTEBRA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
