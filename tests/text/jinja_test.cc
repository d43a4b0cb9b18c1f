// The Jinja interpreter under hostile input: bounds of time, memory and recursion, errors that say
// where, and mutated templates. What it renders is compared with jinja2 in chat_template_test.cc.
#include "text/jinja.h"

#include <gtest/gtest.h>

#include <ctime>
#include <sstream>

#include "base/error.h"
#include "base/rng.h"
#include "text/chat_template.h"

namespace vertebra::jinja {
namespace {

constexpr Limits kSmall = {.steps = 10'000'000, .memory_bytes = 16 << 20};

Code code_of(const std::string& source, const Json& variables = Json::object(),
             const Limits& limits = kSmall) {
  try {
    Template::parse(source, "t").render(variables, 0, limits);
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("chat template 't'")) << error.what();
    return error.code();
  }
  return Code::kUnknown;
}

std::string message_of(const std::string& source) {
  try {
    Template::parse(source, "t").render(Json::object(), 0);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Jinja, BoundsTime) {
  Limits limits;
  limits.steps = 2'000'000;
  EXPECT_EQ(code_of("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
                    Json::object(), limits),
            Code::kResourceExhausted);
  EXPECT_EQ(code_of("{% set s = 'a' * 10000000 %}{% for a in range(100000) %}{% if s.replace('b', '') %}{% "
                    "endif %}{% endfor %}",
                    Json::object(), limits),
            Code::kResourceExhausted);
}

TEST(Jinja, BoundsMemory) {
  EXPECT_EQ(code_of("{{ 'a' * 9000000000000000000 }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{{ [1] * 9000000000000 }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{% set s = 'a' * 1000000 %}{{ [s] * 100000 }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{% set s = 'a' * 1000000 %}{{ ([s] * 100000)|join }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{% set s = 'a' * 1000000 %}{{ ([s] * 100000)|tojson }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{{ ('a' * 1000000).replace('', 'b' * 1000000) }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{{ 'a'|indent(99999999999999) }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{{ 'a'.ljust(9000000000000000000) }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{{ '%999999999d' % 1 }}"), Code::kInvalidArgument);
  EXPECT_EQ(
      code_of(
          "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"),
      Code::kResourceExhausted);
  EXPECT_EQ(code_of("{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}"), Code::kResourceExhausted);
}

constexpr const char* kWholeWalks = R"(
s.split('zz') ; s.rsplit('zz') ; s.split() ; s.splitlines() ; s.find('zz') ; s.rfind('zz', 1) ;
s.count('zz') ; s.count('') ; s.partition('zz') ; s.startswith(s) ; s.replace('zz', '') ; s.strip('bc') ;
blank|trim ; blank.strip() ; blank.rsplit(none, 1) ; s.upper() ; s|title ; s.isalpha() ; s|wordcount ;
s|length ; s|int ; s|float ; s|truncate(3) ; s[-1] ; s[5:6] ; s[::-1] ; 'zz' in s ; s|e ; s|urlencode ;
s|tojson ; s|indent ; s is lower ; s|center(9) ; (s ~ '%s') % 1 ; ('%s' * 3) % (s, s, s) ; s.format() ;
long in same ; same.rfind(long) ; same.count(long) ; same.replace(long, '') ; list|join(s) ;
list == list ; list|sort ; list|unique|list ; list|slice(1000000) ; [1]|batch(1000000, 0) ;
(1, 2) in list ; list|groupby(0) ; {list|string: 1} ; dict(list[1:]|batch(2)|list) ; range(100000) ;
list + list ; list * 2 ; list[::2] ; macro(*list) ; list|tojson(indent=1000) ; s|replace('a', 'aa') ;
s.join(list) ; namespace(**many).zz ;
)";

// What walks over a whole text or list is counted by its size, so that a loop around it ends soon. Without
// that the worst of these takes minutes; with it none takes more than a fraction of a second.
TEST(Jinja, CountsWhatWalksOverWholeValues) {
  Limits limits;
  limits.steps = 300'000;
  limits.memory_bytes = 64 << 20;
  Json variables = {{"list", Json::array()}, {"many", Json::object()}};
  for (int i = 0; i < 2999; ++i) {
    variables["list"].push_back(std::to_string(i));
    variables["many"]["k" + std::to_string(i)] = i;
  }
  const std::string setup =
      "{% macro macro() %}{{ varargs|length }}{% endmacro %}{% set s = 'ab' * 50000 %}"
      "{% set blank = ' ' * 100000 %}{% set same = 'a' * 100000 %}{% set long = 'a' * 50000 ~ 'b' %}";
  ASSERT_EQ(code_of(setup, variables, limits), Code::kUnknown);
  std::istringstream expressions(kWholeWalks);
  for (std::string expression; std::getline(expressions >> std::ws, expression, ';');) {
    const std::string source = setup + "{% for i in range(100000) %}{% for j in range(100000) %}{% if " +
                               expression + " %}{% endif %}{% endfor %}{% endfor %}";
    const std::clock_t start = std::clock();
    EXPECT_EQ(code_of(source, variables, limits), Code::kResourceExhausted) << expression;
    EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 10) << expression;
  }
}

// Lists that hold each other have 2^190 leaves, but few bytes.
TEST(Jinja, CountsWhatIsSeenManyTimes) {
  Limits limits;
  limits.steps = 500'000;
  limits.memory_bytes = 16 << 20;
  for (const std::string expression :
       {"ns.x == ns.x", "ns.x|tojson", "ns.x|string", "{ns.x: 1}", "{1: 2}[ns.x]", "[ns.x, ns.x]|sort",
        "ns.x in [1, ns.x]", "ns.x|unique|list"}) {
    EXPECT_EQ(code_of("{% set ns = namespace(x=(1,)) %}{% for i in range(190) %}{% set ns.x = (ns.x, ns.x) %}"
                      "{% endfor %}{% set ns.y = ns.x %}{{ " +
                          expression + " }}",
                      Json::object(), limits),
              Code::kResourceExhausted)
        << expression;
  }
}

TEST(Jinja, BoundsRecursion) {
  EXPECT_EQ(code_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), Code::kResourceExhausted);
  EXPECT_EQ(code_of("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}"), Code::kResourceExhausted);
  EXPECT_EQ(
      code_of("{% set ns = namespace(x=[]) %}{% for i in range(10000) %}{% set ns.x = [ns.x] %}{% endfor %}"),
      Code::kInvalidArgument);
  EXPECT_EQ(code_of("{% set ns = namespace(x=1) %}{% for i in range(10000) %}{% set ns.x = [ns.x].index %}{% "
                    "endfor %}"),
            Code::kInvalidArgument);
  EXPECT_EQ(code_of("{{ " + std::string(100000, '(') + "1"), Code::kInvalidArgument);
  EXPECT_EQ(code_of("{{ " + std::string(100000, '-') + "1 }}"), Code::kInvalidArgument);
  std::string sum = "{{ 1", ifs, nots = "{{ ";
  for (int i = 0; i < 20000; ++i) sum += "+1", ifs += "{% if 1 %}", nots += "not ";
  EXPECT_EQ(code_of(sum + " }}"), Code::kInvalidArgument);
  EXPECT_EQ(code_of(ifs), Code::kInvalidArgument);
  EXPECT_EQ(code_of(nots + "1 }}"), Code::kInvalidArgument);
  EXPECT_EQ(code_of("{% for x in v recursive %}{{ loop(v) }}{% endfor %}", {{"v", {1}}}),
            Code::kResourceExhausted);
}

TEST(Jinja, MacrosThatEscapeTheirScopeLeaveNothingBehind) {
  // Each call defines a macro inside the scope of the one before.
  EXPECT_EQ(code_of("{% set ns = namespace() %}{% macro f() %}{% macro g() %}{% set ns.f = g %}{% endmacro %}"
                    "{% set ns.f = g %}{% endmacro %}{% set ns.f = f %}"
                    "{% for i in range(5000) %}{{ ns.f() }}{% endfor %}"),
            Code::kUnknown);
  EXPECT_EQ(code_of("{% for x in [1, 2] %}{{ loop.changed(loop) }}{% endfor %}"), Code::kUnknown);
}

TEST(Jinja, ErrorsSayWhereAndWhat) {
  EXPECT_EQ(message_of("a\n\n{{ x.y }}"), "chat template 't', line 3: 'x' is undefined");
  EXPECT_EQ(message_of("{% if x %}\na"),
            "chat template 't', line 1: a block is not closed: 'endif' is missing");
  EXPECT_EQ(message_of("\n{% foo %}"),
            "chat template 't', line 2: unknown tag 'foo' (known: if, for, set, macro, call, filter, with, "
            "generation, break, continue, raw)");
  EXPECT_EQ(
      message_of("{{ [1].append(2) }}"),
      "chat template 't', line 1: a list cannot be changed in a template: build a new one with '+', or keep "
      "state in a namespace()");
  EXPECT_EQ(message_of("{{ 9223372036854775807 + 1 }}"),
            "chat template 't', line 1: the result of 9223372036854775807 + 1 does not fit into 64 bits");
  EXPECT_EQ(message_of("{{ '\xff' }}"), "chat template 't' is not valid UTF-8");
}

TEST(Jinja, RendersFromManyPlacesAtOnceAlike) {
  const auto shared = Template::parse("{% for i in range(n) %}{{ i }},{% endfor %}", "t");
  const Template copy = shared;
  EXPECT_EQ(copy.render({{"n", 3}}).text, "0,1,2,");
  EXPECT_EQ(shared.render({{"n", 2}}).text, "0,1,");
}

// Any bytes in: a rendering or an Error comes out.
TEST(Jinja, MutatedTemplatesNeverCrash) {
  const std::string parts[] = {"{%",          "%}",       "{{",   "}}",     "-",          "(",
                               ")",           "[",        "]",    "'",      "|",          "for x in",
                               "loop",        "if",       "else", "endfor", "endif",      "macro m(a=1)",
                               "endmacro",    "set x =",  "{#",   "#}",     "namespace(", "messages",
                               "[::-1]",      "~",        "is",   "not",    "in",         "**",
                               "99999999999", "\xc3\xa9", "raw",  "call"};
  const std::string seeds[] = {
      kChatMlTemplate,
      "{% macro f(a, b=[1]) %}{% for x in b if x %}{{ loop.index ~ a|upper }}{% else %}{{ caller() }}"
      "{% endfor %}{% endmacro %}{% call f('x') %}{{ {'a': 1}.items()|list|tojson(indent=1) }}"
      "{% endcall %}{% set ns = namespace(a=1) %}{% set ns.a = messages[::-1]|length %}{{ ns.a }}"};
  const Json variables = {{"messages", {{{"role", "assistant"}, {"content", "hi"}}}}};
  Limits limits;
  limits.steps = 20000;
  limits.memory_bytes = 1 << 20;
  PhiloxSequence rng(Philox(7, "templates"));
  int rendered = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string source = seeds[round % 2];
    for (int i = 0; i < 1 + round % 4; ++i) {
      const size_t at = rng.below(source.size());
      switch (rng.below(4)) {
        case 0:
          source[at] = static_cast<char>(rng.below(256));
          break;
        case 1:
          source.erase(at, rng.below(12));
          break;
        case 2:
          source.insert(at, parts[rng.below(std::size(parts))]);
          break;
        default:
          source.insert(at, source.substr(rng.below(source.size()), rng.below(30)));
      }
      if (source.empty()) source = " ";
    }
    try {
      Template::parse(source, "mutant").render(variables, 0, limits);
      ++rendered;
    } catch (const Error&) {
      continue;
    }
  }
  EXPECT_GT(rendered, 100);
}

}  // namespace
}  // namespace vertebra::jinja
