"""LangChain's ChatOpenAI."""

import asyncio

import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from upstream import PROMPT_TOKENS, TEXT, WORDS


@tool
def lookup(q: str) -> str:
    """Looks something up."""
    return f"result of {q}"


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


@pytest.fixture
def connect(options, agent):
    def connect(**more):
        fields = {"model": agent, "base_url": options["base_url"], "api_key": options["api_key"], "max_retries": 0}
        return ChatOpenAI(**fields | more)

    return connect


def check_usage(message, output):
    usage = message.usage_metadata
    counts = (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"])
    assert counts == (PROMPT_TOKENS, output, PROMPT_TOKENS + output)


def test_invoke(connect, agent):
    message = connect().invoke("plain")
    assert message.content == TEXT
    assert message.response_metadata["model_name"] == agent
    assert message.response_metadata["finish_reason"] == "stop"
    check_usage(message, len(WORDS))


def whole(chunks):
    first, *rest = chunks
    for chunk in rest:
        first = first + chunk
    return first


def test_stream(connect):
    """The counts are right: LangChain adds up those of every chunk that has any."""
    chunks = list(connect(stream_usage=True).stream("plain"))
    assert len(chunks) > len(WORDS)
    message = whole(chunks)
    assert message.content == TEXT
    check_usage(message, len(WORDS))


def test_async(connect):
    async def main():
        llm = connect(stream_usage=True)
        assert (await llm.ainvoke("plain")).content == TEXT
        message = whole([chunk async for chunk in llm.astream("plain")])
        assert message.content == TEXT
        check_usage(message, len(WORDS))
        answers = await llm.abatch(["echo a", "echo b", "echo c"])
        assert [answer.content.strip() for answer in answers] == ["a", "b", "c"]

    asyncio.run(main())


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("count", [1, 2])
def test_tools(connect, upstream, streamed, count):
    llm = connect(extra_body={"session_id": f"langchain-tools-{streamed}-{count}"}).bind_tools([lookup])
    ask = (lambda messages: whole(list(llm.stream(messages)))) if streamed else llm.invoke
    messages = [HumanMessage(f"tools {count}")]
    messages.append(ask(messages))
    calls = messages[-1].tool_calls
    assert [call["args"] for call in calls] == [{"q": f"tea {n}"} for n in range(count)]
    messages += [lookup.invoke(call) for call in calls]
    assert all(isinstance(message, ToolMessage) for message in messages[2:])
    answer = ask(messages)
    assert answer.content == "The tool said: " + ", ".join(f"result of tea {n}" for n in range(count))
    # All was sent again, and nothing of it was taken for new.
    assert upstream.last.roles == ["user", "assistant"] + ["tool"] * count


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(connect, upstream, method):
    if method == "json_schema":
        assert connect().with_structured_output(Weather, method=method).invoke("json") == Weather(city="Oslo", degrees=18)
        assert upstream.last.body["response_format"]["json_schema"]["name"] == "Weather"
    else:

        class Lookup(pydantic.BaseModel):
            q: str

        Lookup.__name__ = "lookup"
        assert connect().with_structured_output(Lookup, method=method).invoke("tools").q == "tea 0"
        assert upstream.last.body["tool_choice"]["function"]["name"] == "lookup"


def test_session(connect, upstream):
    """The server remembers the first turn."""
    by_body = connect(extra_body={"session_id": "langchain-session"})
    by_header = connect(default_headers={"X-Session-Id": "langchain-session"})
    by_body.invoke("echo one")
    by_header.invoke("echo two")
    assert upstream.last.said == [("user", "echo one"), ("assistant", "one "), ("user", "echo two")]


def test_conversation_sent_again(connect, upstream):
    llm = connect(extra_body={"session_id": "langchain-again"}, include_response_headers=True)
    messages = []
    for word in ("one", "two", "three"):
        messages.append(HumanMessage(f"echo {word}"))
        messages.append(llm.invoke(messages))
    assert isinstance(messages[-1], AIMessage)
    assert messages[-1].response_metadata["headers"]["x-history-matched"] == "4"
    assert upstream.last.roles == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_refusals(connect, refusal, requests, streamed):
    llm = connect(
        model=refusal.model, api_key=refusal.key, max_retries=refusal.max_retries, http_client=requests.http
    )
    with pytest.raises(refusal.error) as caught:
        list(llm.stream("plain")) if streamed else llm.invoke("plain")
    assert (caught.value.status_code, caught.value.code) == (refusal.status, refusal.code)
    assert len(requests) == 1
