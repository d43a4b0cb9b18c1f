#include "hub/file_hash.h"

#include <openssl/evp.h>

#include "base/error.h"
#include "base/sha256.h"

namespace vertebra {

struct FileHash::State {
  Sha256 sha256;
  EVP_MD_CTX* sha1 = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(sha1); }
};

FileHash::FileHash(uint64_t size_bytes) : state_(std::make_unique<State>()) {
  require(state_->sha1 != nullptr && EVP_DigestInit_ex(state_->sha1, EVP_sha1(), nullptr) == 1,
          Code::kInternal, "OpenSSL offers no SHA-1, by which git and the hub name small files");
  const std::string header = fmt::format("blob {}", size_bytes);
  EVP_DigestUpdate(state_->sha1, header.c_str(), header.size() + 1);
}

FileHash::~FileHash() = default;

void FileHash::update(std::span<const char> bytes) {
  state_->sha256.update(bytes.data(), bytes.size());
  EVP_DigestUpdate(state_->sha1, bytes.data(), bytes.size());
}

FileHash::Digests FileHash::finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(state_->sha1, digest, &size);
  Digests out;
  for (unsigned int i = 0; i < size; ++i) out.git_sha1 += fmt::format("{:02x}", digest[i]);
  out.sha256 = state_->sha256.hex();
  return out;
}

}  // namespace vertebra
