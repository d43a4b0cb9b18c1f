# Quantized models beside llama.cpp's own programs on the same files.
add_executable(bench_llama_cpp ${CMAKE_CURRENT_SOURCE_DIR}/llama_cpp.cc)
target_link_libraries(bench_llama_cpp PRIVATE vertebra_base vertebra_backend_cpu)
target_compile_definitions(bench_llama_cpp PRIVATE VERTEBRA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
add_dependencies(bench_llama_cpp vertebra)
