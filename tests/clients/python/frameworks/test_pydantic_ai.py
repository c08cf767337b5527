"""pydantic-ai's OpenAIChatModel."""

import asyncio

import openai
import pydantic
import pytest
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from upstream import PROMPT_TOKENS, TEXT, WORDS


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture
def helper(options, agent):
    """An agent of pydantic-ai whose model is ours."""

    def helper(client=None, model=None, **settings):
        if client:
            provider = OpenAIProvider(openai_client=openai.AsyncOpenAI(**options | client))
        else:
            provider = OpenAIProvider(base_url=options["base_url"], api_key=options["api_key"])
        return Agent(OpenAIChatModel(model or agent, provider=provider), instructions="Be helpful.", **settings)

    return helper


def lookup(q: str) -> str:
    """Looks something up."""
    return f"result of {q}"


def in_session(name):
    return {"model_settings": {"extra_body": {"session_id": name}}}


def check_usage(usage, requests, output):
    counts = (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens)
    assert counts == (requests, requests * PROMPT_TOKENS, output, requests * PROMPT_TOKENS + output)


def usage_of(result):
    return result.usage


async def streamed_text(agent, prompt, **more):
    async with agent.run_stream(prompt, **more) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        return pieces, result


def test_run(helper, agent):
    result = helper().run_sync("plain")
    assert result.output == TEXT
    check_usage(usage_of(result), 1, len(WORDS))
    response = result.all_messages()[-1]
    assert response.model_name == agent and response.finish_reason == "stop"


def test_stream(helper):
    pieces, result = asyncio.run(streamed_text(helper(), "plain"))
    assert "".join(pieces) == TEXT and len(pieces) == len(WORDS)
    check_usage(usage_of(result), 1, len(WORDS))


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("count", [1, 2])
def test_tools(helper, upstream, streamed, count):
    ours = helper(tools=[lookup])
    more = in_session(f"pydantic-ai-tools-{streamed}-{count}")
    if streamed:
        pieces, result = asyncio.run(streamed_text(ours, f"tools {count}", **more))
        text = "".join(pieces)
    else:
        result = ours.run_sync(f"tools {count}", **more)
        text = result.output
    assert text == "The tool said: " + ", ".join(f"result of tea {n}" for n in range(count))
    assert upstream.last.roles == ["user", "assistant"] + ["tool"] * count
    check_usage(usage_of(result), 2, 6 + 2)


def test_native_output(helper, upstream):
    result = helper(output_type=NativeOutput(Weather)).run_sync("json")
    assert result.output == Weather(city="Oslo", degrees=18)
    assert upstream.last.body["response_format"]["json_schema"]["name"] == "Weather"


def test_session(helper, upstream):
    helper().run_sync("echo one", **in_session("pydantic-ai-session"))
    helper().run_sync("echo two", **in_session("pydantic-ai-session"))
    assert upstream.last.said == [("user", "echo one"), ("assistant", "one "), ("user", "echo two")]


def test_conversation_sent_again(helper, upstream):
    more = in_session("pydantic-ai-again")
    first = helper(tools=[lookup]).run_sync("tools", **more)
    helper(tools=[lookup]).run_sync("echo more", message_history=first.all_messages(), **more)
    assert upstream.last.roles == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_refusals(helper, refusal, requests, streamed):
    client = {"api_key": refusal.key, "max_retries": refusal.max_retries, "http_client": requests.async_http}
    ours = helper(client, refusal.model)
    with pytest.raises(ModelHTTPError) as caught:
        asyncio.run(streamed_text(ours, "plain")) if streamed else ours.run_sync("plain")
    assert caught.value.status_code == refusal.status
    assert caught.value.body["code"] == refusal.code
    assert len(requests) == 1
