"""Whatever the server sends is what the package's own types say, strictly: keys, types and literal values."""

import json

import openai
import pydantic
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall
from openai.types.chat.chat_completion_message import ChatCompletionMessage
from openai.types.completion_usage import CompletionUsage
from openai.types.shared import ErrorObject

# Keys that have to be there though they may be null, which the package's types do not tell.
NULLABLE = {
    Choice: {"logprobs"},
    ChatCompletionMessage: {"content", "refusal"},
    ChunkChoice: {"finish_reason"},
    ErrorObject: {"param", "code"},
}
# What we add.
OURS = {
    ChatCompletion: {"agent_id", "session_id", "content"},
    ChatCompletionChunk: {"session_id"},
    CompletionUsage: {"cost", "balance"},
    Model: {"name"},
    ErrorObject: {"needed", "available"},
}
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}
PROVIDERS_OWN = {"reasoning_content", "x_vendor"}
SCENARIOS = {
    "plain": {},
    "extras": {},
    "json": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [TOOL]},
    "tools 3": {"tools": [TOOL]},
    "choices": {"n": 2},
    "interleaved": {"n": 2},
    "logprobs": {"logprobs": True},
    "refusal": {},
    "cited": {},
    "bare": {},
}


def check(kind, value):
    """Reads JSON text or a value as `kind`, and refuses what that does not know."""
    text = value if isinstance(value, str) else json.dumps(value)
    read = kind.model_validate_json(text, strict=True)
    look(read, kind.__name__)
    return read


def look(value, path):
    if isinstance(value, list):
        for at, item in enumerate(value):
            look(item, f"{path}[{at}]")
    if not isinstance(value, pydantic.BaseModel):
        return
    missing = NULLABLE.get(type(value), set()) - value.model_fields_set
    assert not missing, f"{path} has no {missing}"
    unknown = set(value.model_extra or {}) - OURS.get(type(value), set()) - PROVIDERS_OWN
    assert not unknown, f"{path} has {unknown}"
    for name in type(value).model_fields:
        look(getattr(value, name), f"{path}.{name}")


@pytest.fixture(params=["agent", "account"])
def raw(request, client, account_client, agent):
    """One chat call, with either kind of key: the text of its answer, or of each event."""
    caller = client if request.param == "agent" else account_client

    def raw(prompt, stream=False, **more):
        more = {"model": agent, "messages": [{"role": "user", "content": prompt}], "stream": stream} | more
        with caller.chat.completions.with_streaming_response.create(**more) as answer:
            if not stream:
                return answer.read().decode()
            lines = [line for line in answer.iter_lines() if line]
        assert all(line.startswith(("data: ", "id: ")) for line in lines), lines
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    return raw


@pytest.mark.parametrize("prompt", SCENARIOS)
def test_plain_answers(raw, prompt):
    completion = check(ChatCompletion, raw(prompt, **SCENARIOS[prompt]))
    assert completion.usage and completion.content == completion.choices[0].message.content
    assert [choice.index for choice in completion.choices] == list(range(SCENARIOS[prompt].get("n", 1)))


@pytest.mark.parametrize("with_usage", [False, True], ids=["bare", "usage"])
@pytest.mark.parametrize("prompt", SCENARIOS)
def test_streams(raw, prompt, with_usage):
    more = {"stream_options": {"include_usage": True}} if with_usage else {}
    *events, done = raw(prompt, stream=True, **SCENARIOS[prompt], **more)
    assert done == "[DONE]"
    chunks = [check(ChatCompletionChunk, event) for event in events]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert ["session_id" in (chunk.model_extra or {}) for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    if with_usage:
        assert all("usage" in chunk.model_fields_set for chunk in chunks), "the key is on every chunk"
        *chunks, last = chunks
        assert last.choices == [] and last.usage
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    check_choices([choice for chunk in chunks for choice in chunk.choices])


def check_choices(choices):
    """Each choice says once, and last, why it ended; each piece of a call says to which it belongs."""
    for index in {choice.index for choice in choices}:
        own = [choice for choice in choices if choice.index == index]
        assert [choice.finish_reason is None for choice in own] == [True] * (len(own) - 1) + [False]
        pieces = [piece for choice in own for piece in choice.delta.tool_calls or []]
        assert all(isinstance(piece, ChoiceDeltaToolCall) for piece in pieces)
        opening = [piece for piece in pieces if piece.id]
        assert [piece.index for piece in opening] == list(range(len(opening)))
        assert all(piece.type == "function" and piece.function.name for piece in opening)


@pytest.mark.parametrize("prompt", ["fail", "cut", "garbage after words"])
def test_failures_in_mid_stream(raw, prompt):
    *events, last = raw(prompt, stream=True)
    chunks = [check(ChatCompletionChunk, event) for event in events]
    assert all(choice.finish_reason is None for chunk in chunks for choice in chunk.choices)
    assert set(json.loads(last)) == {"error"}
    check(ErrorObject, json.loads(last)["error"])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    "more, status",
    [
        ({"messages": []}, 400),
        ({"temperature": 9}, 400),
        ({"web_search_options": {}}, 400),
        ({"model": "ag_00000000_0000"}, 404),
        ({"messages": [{"role": "user", "content": "status 400"}]}, 400),
        ({"messages": [{"role": "user", "content": "status 401"}]}, 502),
        ({"messages": [{"role": "user", "content": "status 429"}]}, 503),
        ({"messages": [{"role": "user", "content": "garbage"}]}, 502),
        ({"extra_headers": {"X-Session-Conflict": "no"}}, 400),
        ({"max_tokens": 9_000_000}, 402),
    ],
)
def test_refusals(raw, more, status, stream):
    with pytest.raises(openai.APIStatusError) as caught:
        raw("plain", stream, **more)
    response = caught.value.response
    assert response.status_code == status
    body = json.loads(response.read())
    assert set(body) == {"error", "detail", "status"}
    check(ErrorObject, body["error"])
    assert response.headers["x-request-id"].startswith("req_") and "openai-processing-ms" in response.headers


def test_models(client, agent):
    page = json.loads(client.models.with_raw_response.list().text)
    assert page["object"] == "list" and set(page) == {"object", "data"}
    assert agent in [check(Model, model).id for model in page["data"]]
    check(Model, client.models.with_raw_response.retrieve(agent).text)
