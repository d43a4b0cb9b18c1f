// Reads StableHLO text in MLIR's generic form into a tree, for the verifier: structure, names, attributes as
// text, types. Reads what the printer writes, nothing more.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vertebra::pjrt {

// "tensor<4x8xf32>"
struct ParsedType {
  static constexpr int64_t kDynamic = -1;  // a size spelt "?"
  std::string element;
  std::vector<int64_t> sizes;
  int64_t elements() const;  // of a static type
  bool is_static() const;
  bool operator==(const ParsedType&) const = default;
  std::string to_string() const;
};

struct ParsedOperation;

struct ParsedRegion {
  std::vector<std::pair<std::string, ParsedType>> arguments;
  std::vector<ParsedOperation> operations;
};

struct ParsedOperation {
  int line = 0;
  std::string name;  // "stablehlo.add"
  std::vector<std::string> results, operands;
  // In order, values as written: the operation's own, and such as stand beside it.
  std::vector<std::pair<std::string, std::string>> attributes, further;
  std::vector<ParsedRegion> regions;
  std::vector<ParsedType> operand_types, result_types;

  const std::string* attribute(std::string_view attribute_name) const;
};

// The one operation that the text holds (the module). Throws internal naming the line.
ParsedOperation parse_stablehlo(std::string_view text);

// "array<i64: 1, 2>" or "[1, 2]"; false when the text is neither.
bool parse_list(std::string_view text, std::vector<int64_t>& out);
// "[{a = 1}, {}]" -> one list of fields for each; false when the text is none.
bool parse_dictionaries(std::string_view text,
                        std::vector<std::vector<std::pair<std::string, std::string>>>& out);
// "name<a = 1, b = [2]>" -> its fields; false when the text does not begin with `name`.
bool parse_struct(std::string_view text, std::string_view name,
                  std::vector<std::pair<std::string, std::string>>& fields);

}  // namespace vertebra::pjrt
