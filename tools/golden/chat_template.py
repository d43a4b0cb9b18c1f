"""Renders templates as transformers does (its own environment around jinja2), and writes what came out to
tests/golden/chat_template.json. Needs: pip install transformers jinja2. Run: python3 tools/golden/chat_template.py"""
import datetime
import json
import pathlib
import re

from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOW = 1750000000


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


chat_template_utils.datetime = FixedTime


def render(template, variables):
    """The text, and the bytes of it that {% generation %} blocks wrote."""
    compiled = chat_template_utils._compile_jinja_template(template)
    blocks, spans = [], []
    with compiled.environment.activate_tracker(blocks, spans):
        for block in compiled.generate(**json.loads(json.dumps(variables))):
            blocks.append(block)
    text = "".join(blocks)
    to_bytes = lambda i: len(text[:i].encode())
    return text, [[to_bytes(a), to_bytes(b)] for a, b in spans]


CHATML = re.search(r'kChatMlTemplate =\s*R"\((.*?)\)";', (ROOT / "src/text/chat_template.cc").read_text(), re.S)[1]

TEMPLATES = {
    "chatml": CHATML,
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You have access to the following functions.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "reasoning": """{%- set ns = namespace(last=messages|length - 1, multi=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == "user" and message.content is string and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.multi = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- macro show(content, role='user', trim=true) -%}
    {%- if content is string %}{{ content | trim if trim else content }}
    {%- else %}{% for part in content if part.type == 'text' %}{{ part.text }}{{ '|' if not loop.last }}{% endfor %}{% endif %}
    {{- caller() if caller is defined }} ({{ role|upper }})
{%- endmacro %}
{% for message in messages %}
    {# roles in turn #}
    {% if message.content is string and '</think>' in message.content %}
        {%- set reasoning = message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
[{{ reasoning }}|{{ message.content.split('</think>')[-1].lstrip('\\n') }}]
    {%- else %}
    {{ loop.index }}/{{ loop.length }} {{ show(message.content, role=message.role) }}
    {% endif %}
    {% call show(message.content, trim=false) %}!{{ message.role }}{% endcall %}

    {%- for call in message.tool_calls or [] %}
{{ call.function.name }}: {% for k, v in call.function.arguments|items %}{{ k }}={{ v if v is string else v|tojson }}{{ ", " if not loop.last else "" }}{% endfor %}
    {%- endfor %}
{% endfor %}
{{ ns.last }} {{ ns.multi }}
""",
    "generation_loop": """{% for m in messages %}{{ m.role }}:
    {% if m.role == "assistant" %}
    {% generation %}
    {{ m.content }}
    {% endgeneration %}
    {% endif %}
{% endfor %}""",
}

SIMPLE = [{"role": "user", "content": "Hi"}]
CONVERSATIONS = {
    "one": {"messages": SIMPLE, "add_generation_prompt": True, "tools": None},
    "turns": {"messages": [{"role": "system", "content": " Be kind. "}, {"role": "user", "content": "Où est l'été ?\n"},
                           {"role": "assistant", "content": "<think>\nhm\n</think>\n\nÀ 東京 🙂"},
                           {"role": "user", "content": "<b>\"quotes\" & 'more'</b>"},
                           {"role": "assistant", "content": ""}], "add_generation_prompt": False, "tools": None},
    "tools": {"messages": SIMPLE + [{"role": "assistant", "content": None, "tool_calls": [
        {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 3, "deep": {"a": [1.5, None, True]}}}}]}],
              "add_generation_prompt": True,
              "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}, "required": []}}}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}],
              "add_generation_prompt": True, "tools": None},
    "wrong": {"messages": [{"role": "assistant", "content": "first"}], "add_generation_prompt": False, "tools": None},
}

VARIABLES = {"s": "Héllo, Wörld", "n": 7, "f": 2.5, "items_": [3, 1, 2], "d": {"b": 1, "a": "x", "items": 3},
             "empty": [], "big": 18446744073709551615, "none_": None, "yes": True, "people": [{"name": "Zoé", "age": 3, "tags": {"x": 1}},
                                                                 {"name": "ali", "age": 5}, {"name": "Bob", "age": 3}]}


def snippets():
    for line in (ROOT / "tools/golden/chat_template_snippets.txt").read_text().split("\n"):
        if line and not line.startswith("//"):
            yield line.replace("␤", "\n")


def main():
    cases = []

    def add(name, template, variables, with_spans):
        case = {"name": name, "template": template, "variables": variables}
        try:
            case["text"], spans = render(template, variables)
            if with_spans:
                case["spans"] = spans
        except Exception as error:  # what jinja2 refuses, we must refuse too
            case["error"] = f"{type(error).__name__}: {error}"
        cases.append(case)

    for name, template in TEMPLATES.items():
        for kind, variables in CONVERSATIONS.items():
            add(f"{name}/{kind}", template, {**variables, "bos_token": "<s>", "eos_token": "</s>"}, True)
    for i, snippet in enumerate(snippets()):
        add(f"snippet {i}", snippet, None, False)
        cases[-1].pop("error", None)
        cases[-1].pop("text", None)
        try:
            cases[-1]["text"] = render(snippet, VARIABLES)[0]
        except Exception as error:
            cases[-1]["error"] = f"{type(error).__name__}: {error}"
        del cases[-1]["variables"]
    document = {"now": NOW, "variables": VARIABLES, "cases": cases}
    path = ROOT / "tests/golden/chat_template.json"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n")
    print(f"{len(cases)} cases, {sum('error' in c for c in cases)} of them errors")


if __name__ == "__main__":
    main()
