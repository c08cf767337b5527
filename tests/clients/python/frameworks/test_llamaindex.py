"""LlamaIndex's OpenAILike."""

import asyncio
import json

import pydantic
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from upstream import PROMPT_TOKENS, TEXT, WORDS


def lookup(q: str) -> str:
    """Looks something up."""
    return f"result of {q}"


TOOL = FunctionTool.from_defaults(lookup)


@pytest.fixture
def connect(options, agent):
    def connect(session=None, **more):
        fields = {
            "model": agent,
            "api_base": options["base_url"],
            "api_key": options["api_key"],
            "is_chat_model": True,
            "is_function_calling_model": True,
            "max_retries": 0,
            "additional_kwargs": {"extra_body": {"session_id": session}} if session else {},
        }
        return OpenAILike(**fields | more)

    return connect


def user(text):
    return ChatMessage(role="user", content=text)


def check_usage(usage, output):
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    assert counts == (PROMPT_TOKENS, output, PROMPT_TOKENS + output)


def test_chat(connect, agent):
    response = connect().chat([user("plain")])
    assert response.message.content == TEXT
    assert response.raw.model == agent
    check_usage(response.raw.usage, len(WORDS))
    assert connect().complete("plain").text == TEXT


def test_stream(connect):
    usage = {"stream_options": {"include_usage": True}}
    chunks = list(connect(additional_kwargs=usage).stream_chat([user("plain")]))
    assert "".join(chunk.delta or "" for chunk in chunks) == TEXT == chunks[-1].message.content
    (counted,) = [chunk.raw.usage for chunk in chunks if chunk.raw.usage]
    check_usage(counted, len(WORDS))


def test_async(connect):
    async def main():
        llm = connect()
        assert (await llm.achat([user("plain")])).message.content == TEXT
        chunks = [chunk async for chunk in await llm.astream_chat([user("plain")])]
        assert chunks[-1].message.content == TEXT

    asyncio.run(main())


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("count", [1, 2])
def test_tools(connect, upstream, streamed, count):
    llm = connect(session=f"llamaindex-tools-{streamed}-{count}")
    messages = [user(f"tools {count}")]
    more = {"allow_parallel_tool_calls": True}
    if streamed:
        *_, response = llm.stream_chat_with_tools([TOOL], chat_history=messages, **more)
    else:
        response = llm.chat_with_tools([TOOL], chat_history=messages, **more)
    calls = llm.get_tool_calls_from_response(response)
    assert [call.tool_kwargs for call in calls] == [{"q": f"tea {n}"} for n in range(count)]
    messages.append(response.message)
    for call in calls:
        output = lookup(**call.tool_kwargs)
        messages.append(ChatMessage(role="tool", content=output, additional_kwargs={"tool_call_id": call.tool_id}))
    answer = llm.chat_with_tools([TOOL], chat_history=messages).message.content
    assert answer == "The tool said: " + ", ".join(f"result of tea {n}" for n in range(count))
    assert upstream.last.roles == ["user", "assistant"] + ["tool"] * count


def test_structured_output(connect):
    class Lookup(pydantic.BaseModel):
        """Looks something up."""

        q: str

    Lookup.__name__ = "lookup"
    answer = connect().as_structured_llm(Lookup).chat([user("tools")])
    assert answer.raw == Lookup(q="tea 0")
    assert json.loads(answer.message.content) == {"q": "tea 0"}


def test_session(connect, upstream):
    connect(session="llamaindex-session").chat([user("echo one")])
    connect(default_headers={"X-Session-Id": "llamaindex-session"}).chat([user("echo two")])
    assert upstream.last.said == [("user", "echo one"), ("assistant", "one "), ("user", "echo two")]


def test_conversation_sent_again(connect, upstream):
    llm, messages = connect(session="llamaindex-again"), []
    for word in ("one", "two", "three"):
        messages.append(user(f"echo {word}"))
        messages.append(llm.chat(messages).message)
    assert upstream.last.roles == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_refusals(connect, refusal, requests, streamed):
    llm = connect(
        model=refusal.model, api_key=refusal.key, max_retries=refusal.max_retries, http_client=requests.http
    )
    with pytest.raises(refusal.error) as caught:
        list(llm.stream_chat([user("plain")])) if streamed else llm.chat([user("plain")])
    assert (caught.value.status_code, caught.value.code) == (refusal.status, refusal.code)
    assert len(requests) == 1
