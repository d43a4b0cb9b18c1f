// Memory of mapped files that has been read and will not be read again soon: its pages go back to the system,
// so that a model being packed does not lie in memory twice. For whoever copies large tensors.
#pragma once

#include <cstddef>

namespace vertebra {

// The pages that lie wholly in `size_bytes` bytes from `data` on, where these belong to a MappedFile (nothing
// happens to other memory). Reading them again brings them back from the file. Any thread.
void give_back_pages(const void* data, size_t size_bytes);

// What MappedFile says of itself.
void register_mapping(const void* data, size_t size_bytes);
void forget_mapping(const void* data);

}  // namespace vertebra
