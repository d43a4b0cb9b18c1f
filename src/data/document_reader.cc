#include "data/document_reader.h"

#include <simdjson.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"

namespace vertebra {
namespace {

constexpr size_t kJsonDepth = 128;

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

// The offset of the first byte that is not part of well-formed UTF-8 (RFC 3629: no surrogates, no
// overlong forms, at most U+10FFFF). Only called once something is known to be wrong.
size_t first_invalid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto byte = [&](size_t k) {
      return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0;
    };
    const unsigned lead = byte(0);
    const size_t length = lead < 0x80   ? 1
                          : lead < 0xC2 ? 0
                          : lead < 0xE0 ? 2
                          : lead < 0xF0 ? 3
                          : lead < 0xF5 ? 4
                                        : 0;
    if (length == 0) return i;
    for (size_t k = 1; k < length; ++k) {
      if ((byte(k) & 0xC0) != 0x80) return i;
    }
    const bool bad_second = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F) ||
                            (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) > 0x8F);
    if (bad_second) return i;
    i += length;
  }
  return text.size();
}

void require_text(std::string_view text, uint64_t offset, const std::string& name, InvalidUtf8 policy) {
  const size_t nul = text.find('\0');
  require(nul == std::string_view::npos,
          "'{}': a NUL byte at byte {}: a binary file (or UTF-16) where text in UTF-8 was wanted; remove the "
          "file "
          "or convert it",
          name, offset + nul);
  if (policy == InvalidUtf8::kKeep || simdjson::validate_utf8(text.data(), text.size())) return;
  const size_t at = first_invalid_utf8(text);
  fail(Code::kInvalidArgument,
       "'{}': not UTF-8 at byte {} (found 0x{:02x}); convert the file to UTF-8, or set invalid_utf8 = "
       "\"keep\" to "
       "pass its bytes on",
       name, offset + at, static_cast<unsigned char>(text[std::min(at, text.size() - 1)]));
}

}  // namespace

InvalidUtf8 invalid_utf8_from_name(std::string_view name) {
  if (name == "error") return InvalidUtf8::kError;
  if (name == "keep") return InvalidUtf8::kKeep;
  fail(Code::kInvalidArgument, "invalid_utf8 = '{}' is not known; error or keep was wanted", name);
}

size_t document_cut(std::string_view text, size_t limit) {
  VERTEBRA_CHECK(text.size() > limit && limit >= 8, "nothing to cut");
  const size_t line_end = text.rfind('\n', limit - 1);
  if (line_end != std::string_view::npos && line_end + 1 > limit / 2) return line_end + 1;
  size_t cut = limit;
  while (cut > limit - 4 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return cut;
}

// Takes one string field out of a JSON line. simdjson reads it; what simdjson refuses goes to the
// general parser, which knows how to say what is wrong and where.
struct DocumentReader::JsonField {
  simdjson::dom::parser parser;
  std::string padded;

  std::string get(std::string_view line, const std::string& field, const std::string& source) {
    padded.assign(line);
    padded.append(simdjson::SIMDJSON_PADDING, '\0');
    simdjson::dom::element root;
    std::string_view value;
    if (parser.parse(padded.data(), line.size(), false).get(root) == simdjson::SUCCESS &&
        root.at_key(field).get_string().get(value) == simdjson::SUCCESS)
      return std::string(value);
    return json_get<std::string>(parse_json(line, source), field, source);
  }
};

void DocumentReader::JsonFieldDeleter::operator()(JsonField* field) const { delete field; }

DocumentReader::DocumentReader(const std::vector<std::filesystem::path>& paths, DocumentReaderOptions options)
    : options_(std::move(options)), files_(paths, options_.format), json_field_(new JsonField) {
  require(options_.max_document_bytes >= 64 && options_.max_document_bytes <= size_t{1} << 30,
          "max_document_bytes is {}; 64 to {} was wanted", options_.max_document_bytes, size_t{1} << 30);
  require(options_.max_line_bytes >= 64 && options_.max_line_bytes <= size_t{1} << 30,
          "max_line_bytes is {}; 64 to {} was wanted", options_.max_line_bytes, size_t{1} << 30);
  require(!options_.field.empty(), "field is empty; the name of the JSON key that holds the text was wanted");
  require(options_.separator.find('\n') == std::string::npos && options_.separator.size() <= 1024,
          "separator: one line of at most 1024 bytes was wanted");
  require(json_field_->parser.allocate(1 << 12, kJsonDepth) == simdjson::SUCCESS, Code::kResourceExhausted,
          "out of memory for the JSON parser");
}

const DocumentReaderReport& DocumentReader::report() {
  report_.input = files_.report();
  return report_;
}

bool DocumentReader::next(Document& out) {
  for (;;) {
    if (long_begin_ < long_text_.size()) return next_part(out);
    if (buffer_ == nullptr) {
      if (!files_.next()) return false;
      buffer_ = std::make_unique<StreamBuffer>(files_.stream());
      scanned_ = 0;
      part_ = 0;
      after_cut_ = false;
      if (buffer_->ensure(3) && buffer_->view().starts_with("\xEF\xBB\xBF")) buffer_->consume(3);
    }
    const bool text = files_.format() == InputFormat::kText;
    if (text ? next_text(out) : next_json_line(out)) return true;
    if (!buffer_->ensure(1) && long_begin_ >= long_text_.size()) buffer_.reset();
  }
}

bool DocumentReader::emit(Document& out) {
  if (is_blank(out.text)) {
    ++report_.blank;
    return false;
  }
  ++report_.documents;
  report_.bytes += out.text.size();
  return true;
}

// The start of the first separator line in the view, or npos. `at_end`: the view is all there is.
size_t DocumentReader::find_separator(bool at_end) {
  const std::string& separator = options_.separator;
  if (separator.empty()) return std::string_view::npos;
  const std::string_view view = buffer_->view();
  for (;;) {
    const size_t at = view.find(separator, scanned_);
    if (at == std::string_view::npos) {
      // A separator may begin in the bytes read so far and end in the next ones.
      scanned_ = std::max(scanned_, view.size() - std::min(view.size(), separator.size()));
      return at;
    }
    const size_t end = at + separator.size();
    const std::string_view rest = view.substr(end, 2);
    if (rest.size() < 2 && !at_end && !rest.starts_with('\n')) {
      scanned_ = at;
      return std::string_view::npos;
    }
    const bool line_start = at == 0 ? !after_cut_ : view[at - 1] == '\n';
    const bool line_end = rest.empty() || rest[0] == '\n' || rest == "\r\n";
    if (line_start && line_end) return at;
    scanned_ = at + 1;
  }
}

// One document off the front of the buffer: to a separator, to the limit, or to the end of file.
bool DocumentReader::next_text(Document& out) {
  if (!buffer_->ensure(1)) {
    if (part_ == 0) ++report_.blank;  // an empty file
    return false;
  }
  const size_t limit = options_.max_document_bytes;
  size_t size = 0, drop = 0;
  bool cut = false;
  for (;;) {
    const size_t have = buffer_->view().size();
    const bool enough = have > limit + options_.separator.size() + 2;
    const bool more = !enough && buffer_->ensure(have + 1);
    const size_t at = find_separator(!enough && !more);
    const std::string_view view = buffer_->view();
    if (at <= limit) {
      size = at;
      drop = options_.separator.size();
      if (view.substr(at + drop).starts_with("\r\n")) ++drop;
      if (view.substr(at + drop).starts_with('\n')) ++drop;
      break;
    }
    if (enough || !more) {
      cut = view.size() > limit;
      size = cut ? document_cut(view, limit) : view.size();
      break;
    }
  }
  const uint64_t offset = buffer_->position();
  out.text.assign(buffer_->view().substr(0, size));
  // A cut takes the line end along, so what follows starts a line unless the cut was inside one.
  after_cut_ = cut && !out.text.ends_with('\n');
  buffer_->consume(size + drop);
  scanned_ = 0;
  require_text(out.text, offset, files_.name(), options_.invalid_utf8);
  ++part_;
  out.source = part_ == 1 ? files_.name() : fmt::format("{} part {}", files_.name(), part_);
  if (cut && report_.cut++ == 0) report_.first_cut = out.source;
  return emit(out);
}

bool DocumentReader::next_json_line(Document& out) {
  const auto line = buffer_->next_line(options_.max_line_bytes, files_.name());
  if (!line.has_value()) return false;
  if (is_blank(*line)) return false;
  out.source = fmt::format("{}:{}", files_.name(), buffer_->line_number());
  out.text = json_field_->get(*line, options_.field, out.source);
  if (out.text.size() <= options_.max_document_bytes) return emit(out);
  long_text_ = std::move(out.text);
  long_source_ = out.source;
  long_begin_ = 0;
  part_ = 0;
  return false;
}

bool DocumentReader::next_part(Document& out) {
  for (;;) {
    const std::string_view rest = std::string_view(long_text_).substr(long_begin_);
    if (rest.empty()) return next(out);
    const bool cut = rest.size() > options_.max_document_bytes;
    const size_t size = cut ? document_cut(rest, options_.max_document_bytes) : rest.size();
    out.text.assign(rest.substr(0, size));
    long_begin_ += size;
    ++part_;
    out.source = part_ == 1 ? long_source_ : fmt::format("{} part {}", long_source_, part_);
    if (cut && report_.cut++ == 0) report_.first_cut = out.source;
    if (emit(out)) return true;
  }
}

}  // namespace vertebra
