"""Drives a running server with the vendors' own Python libraries, unmodified. usage: official_clients.py PORT
Exit code 77: the libraries are not there."""

import sys

try:
    import anthropic
    import openai
except ImportError:
    sys.exit(77)

BASE = f"http://127.0.0.1:{sys.argv[1]}"
MODEL = "tiny"
ASK = [{"role": "user", "content": "one two three"}]


def expect_error(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected")


def check_anthropic():
    client = anthropic.Anthropic(base_url=BASE, api_key="any", max_retries=0)
    message = client.messages.create(model=MODEL, max_tokens=10, messages=ASK)
    assert message.type == "message" and message.content[0].type == "text", message
    assert message.usage.output_tokens <= 10 and message.stop_reason in ("max_tokens", "end_turn"), message
    with client.messages.stream(model=MODEL, max_tokens=10, system="two", messages=ASK) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text and final.usage.output_tokens <= 10, final
    counted = client.messages.count_tokens(model=MODEL, messages=ASK)
    assert counted.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    models = list(client.models.list(limit=1))
    assert [m.id for m in models] == [MODEL] and client.models.retrieve(MODEL).id == MODEL
    expect_error(anthropic.NotFoundError, lambda: client.messages.create(model="other", max_tokens=1, messages=ASK))
    expect_error(anthropic.BadRequestError, lambda: client.messages.create(
        model=MODEL, max_tokens=1, messages=ASK, extra_body={"colour": "red"}))


def check_openai():
    client = openai.OpenAI(base_url=BASE + "/v1", api_key="any", max_retries=0)
    completion = client.chat.completions.create(model=MODEL, max_completion_tokens=10, messages=ASK, temperature=0)
    assert completion.choices[0].finish_reason in ("length", "stop"), completion
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    text, usage = "", None
    for chunk in client.chat.completions.create(model=MODEL, max_completion_tokens=10, messages=ASK, temperature=0,
                                                stream=True, stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    assert text == completion.choices[0].message.content, (text, completion)
    assert usage.completion_tokens == completion.usage.completion_tokens
    # The helper refuses answers that were cut off, as its documentation says; it has put them together before.
    with client.chat.completions.stream(model=MODEL, max_completion_tokens=5, messages=ASK, n=2, seed=3) as stream:
        for _ in stream:
            pass
        try:
            choices = stream.get_final_completion().choices
        except openai.LengthFinishReasonError as error:
            choices = error.completion.choices
        assert [c.index for c in choices] == [0, 1] and all(c.finish_reason for c in choices), choices
    assert [m.id for m in client.models.list()] == [MODEL] and client.models.retrieve(MODEL).id == MODEL
    expect_error(openai.NotFoundError, lambda: client.chat.completions.create(model="other", messages=ASK))
    expect_error(openai.BadRequestError, lambda: client.chat.completions.create(
        model=MODEL, messages=ASK, response_format={"type": "json_object"}))


check_anthropic()
check_openai()
