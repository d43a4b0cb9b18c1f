// Chat templates against jinja2 set up as transformers does (tests/golden/chat_template.json, made by
// tools/golden/chat_template.py), the default template, assistant spans, options.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"

namespace vertebra {
namespace {

const std::string kGolden = std::string(VERTEBRA_SOURCE_DIR) + "/tests/golden/chat_template.json";

TEST(ChatTemplate, RendersAsTransformersDoes) {
  const Json golden = read_json_file(kGolden);
  int compared = 0;
  for (const Json& item : golden["cases"]) {
    const std::string source = item["template"].get<std::string>();
    SCOPED_TRACE(item["name"].get<std::string>() + ": " + source.substr(0, 300));
    const Json& variables = item.contains("variables") ? item["variables"] : golden["variables"];
    std::string found;
    std::vector<Span> spans;
    bool failed = false;
    try {
      const auto rendering =
          jinja::Template::parse(source, "golden").render(variables, golden["now"].get<int64_t>());
      found = rendering.text;
      spans = rendering.generation_spans;
    } catch (const Error& error) {
      failed = true;
      found = error.what();
    }
    EXPECT_EQ(failed, item.contains("error")) << found << "\nwanted: " << item.value("error", "");
    if (!item.contains("text") || failed) continue;
    EXPECT_EQ(found, item["text"].get<std::string>());
    ++compared;
    if (!item.contains("spans")) continue;
    ASSERT_EQ(spans.size(), item["spans"].size());
    for (size_t i = 0; i < spans.size(); ++i) {
      EXPECT_EQ(spans[i], (Span{item["spans"][i][0].get<size_t>(), item["spans"][i][1].get<size_t>()}));
    }
  }
  EXPECT_GT(compared, 80);
}

Conversation short_talk() { return {{{"user", "Hi"}, {"assistant", "Hello."}, {"user", "Bye"}}}; }

TEST(ChatTemplate, DefaultMarksTheAnswersAndTheirEnd) {
  const auto chat = ChatTemplate::parse(kChatMlTemplate, "chatml");
  EXPECT_TRUE(chat.marks_assistant());
  const RenderedChat out = chat.render_with_spans(short_talk());
  EXPECT_EQ(out.text,
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|"
            "im_end|>\n");
  ASSERT_EQ(out.assistant_spans.size(), 1u);
  const Span span = out.assistant_spans[0];
  EXPECT_EQ(out.text.substr(span.begin, span.end - span.begin), "Hello.<|im_end|>");
}

TEST(ChatTemplate, GenerationPromptIsThePrefixOfAnAnswer) {
  const auto chat = ChatTemplate::parse(kChatMlTemplate, "chatml");
  Conversation talk = {{{"user", "Hi"}}};
  ChatTemplateOptions options;
  options.add_generation_prompt = true;
  const std::string prompt = chat.render(talk, options);
  talk.messages.push_back({"assistant", "Hello."});
  EXPECT_EQ(chat.render(talk).substr(0, prompt.size()), prompt);
  EXPECT_TRUE(prompt.ends_with("<|im_start|>assistant\n"));
}

TEST(ChatTemplate, GivesTheTemplateItsVariables) {
  const auto chat = ChatTemplate::parse(
      "{{ bos_token }}{{ eos_token is defined }}{{ tools is none }}{{ enable_thinking }}{{ "
      "strftime_now('%Y') }}",
      "t");
  ChatTemplateOptions options;
  options.bos_token = "<s>";
  options.extra = {{"enable_thinking", false}};
  options.now_unix_s = 0;
  EXPECT_EQ(chat.render({}, options), "<s>FalseTrueFalse1970");
  options.extra = {{"messages", 1}};
  EXPECT_THROW(chat.render({}, options), Error);
}

TEST(ChatTemplate, RefusalNamesTemplateLineAndReason) {
  const auto chat =
      ChatTemplate::parse("a\nb{{ raise_exception('only two roles') }}", "models/x/chat_template.jinja");
  try {
    chat.render(short_talk());
    FAIL() << "the template refuses every conversation";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kInvalidArgument);
    EXPECT_STREQ(
        error.what(),
        "chat template 'models/x/chat_template.jinja', line 2: the template refuses: only two roles");
  }
}

}  // namespace
}  // namespace vertebra
