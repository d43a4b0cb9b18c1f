// The vocabulary table and the pool; see token_model.h.
#include "text/token_model.h"

#include "base/error.h"

namespace vertebra {

TokenModel::~TokenModel() = default;

TokenModel::TokenModel(std::vector<std::string> tokens, const std::string& source)
    : tokens_(std::move(tokens)) {
  require(tokens_.size() <= kMaxVocabSize, "{}: a vocabulary of {} ids; at most {} are accepted", source,
          tokens_.size(), kMaxVocabSize);
  id_of_token_.reserve(tokens_.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (tokens_[id].empty()) continue;
    const auto [it, fresh] = id_of_token_.try_emplace(tokens_[id], static_cast<int32_t>(id));
    require(fresh, "{}: token '{}' has two ids, {} and {}", source, tokens_[id], it->second, id);
  }
}

std::optional<int32_t> TokenModel::token_id(std::string_view spelling) const {
  const auto it = id_of_token_.find(spelling);
  return it == id_of_token_.end() ? std::nullopt : std::optional(it->second);
}

int32_t TokenModel::required_id(const std::string& spelling, std::string_view role,
                                const std::string& source) const {
  const auto id = token_id(spelling);
  require(id.has_value(), "{}: {} '{}' is not in the vocabulary", source, role, spelling);
  return *id;
}

Json TokenModel::vocabulary_object() const {
  Json vocab = Json::object();
  auto& entries = vocab.get_ref<Json::object_t&>();
  entries.reserve(tokens_.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (!tokens_[id].empty()) entries.emplace_back(tokens_[id], id);
  }
  return vocab;
}

TokenModel::ScratchLease::ScratchLease(const TokenModel& model) : model_(model) {
  {
    const std::lock_guard lock(model.pool_mutex_);
    if (!model.pool_.empty()) {
      scratch_ = std::move(model.pool_.back());
      model.pool_.pop_back();
    }
  }
  if (scratch_ == nullptr) scratch_ = model.make_scratch();
}

TokenModel::ScratchLease::~ScratchLease() {
  const std::lock_guard lock(model_.pool_mutex_);
  model_.pool_.push_back(std::move(scratch_));
}

std::string byte_token_spelling(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

std::optional<unsigned char> byte_of_token(std::string_view spelling) {
  if (spelling.size() != 6 || !spelling.starts_with("<0x") || spelling[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : spelling.substr(3, 2)) {
    if (c >= '0' && c <= '9') {
      value = value * 16 + (c - '0');
    } else if (c >= 'A' && c <= 'F') {
      value = value * 16 + (c - 'A' + 10);
    } else if (c >= 'a' && c <= 'f') {
      value = value * 16 + (c - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return static_cast<unsigned char>(value);
}

}  // namespace vertebra
