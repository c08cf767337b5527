"""OpenAI's Agents SDK on chat completions."""

import asyncio

import openai
import pydantic
import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool

from upstream import PROMPT_TOKENS, TEXT, WORDS

QUIET = RunConfig(tracing_disabled=True)


@function_tool
def lookup(q: str) -> str:
    """Looks something up."""
    return f"result of {q}"


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture
def run(options, agent):
    """Runs an agent on some input in an event loop of its own: `run(input, streamed, agent settings, client options)`."""

    def run(prompt, streamed=False, client=None, model=None, session=None, **settings):
        async def main():
            async with openai.AsyncOpenAI(**options | (client or {})) as connected:
                chat = OpenAIChatCompletionsModel(model=model or agent, openai_client=connected)
                body = {"session_id": session} if session else None
                helper = Agent(
                    name="helper",
                    instructions="Be helpful.",
                    model=chat,
                    model_settings=ModelSettings(extra_body=body, include_usage=True),
                    **settings,
                )
                if not streamed:
                    return await Runner.run(helper, prompt, run_config=QUIET)
                result = Runner.run_streamed(helper, prompt, run_config=QUIET)
                result.pieces = [
                    event.data.delta
                    async for event in result.stream_events()
                    if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
                ]
                return result

        return asyncio.run(main())

    return run


def check_usage(result, requests, output):
    usage = result.context_wrapper.usage
    counts = (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens)
    assert counts == (requests, requests * PROMPT_TOKENS, output, requests * PROMPT_TOKENS + output)


def test_run(run, upstream):
    result = run("plain")
    assert result.final_output == TEXT
    check_usage(result, 1, len(WORDS))
    assert {"role": "system", "content": "Be helpful."} in upstream.last.messages


def test_stream(run):
    result = run("plain", streamed=True)
    assert result.pieces == WORDS and result.final_output == TEXT
    check_usage(result, 1, len(WORDS))


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("count", [1, 2])
def test_tools(run, upstream, streamed, count):
    result = run(f"tools {count}", streamed, tools=[lookup], session=f"agents-tools-{streamed}-{count}")
    assert result.final_output == "The tool said: " + ", ".join(f"result of tea {n}" for n in range(count))
    assert upstream.last.roles == ["user", "assistant"] + ["tool"] * count
    check_usage(result, 2, 6 + 2)


def test_output_type(run, upstream):
    assert run("json", output_type=Weather).final_output == Weather(city="Oslo", degrees=18)
    assert upstream.last.body["response_format"]["type"] == "json_schema"


def test_session(run, upstream):
    run("echo one", session="agents-session")
    run("echo two", session="agents-session")
    assert upstream.last.said == [("user", "echo one"), ("assistant", "one "), ("user", "echo two")]


def test_conversation_sent_again(run, upstream):
    first = run("tools", tools=[lookup], session="agents-again")
    history = first.to_input_list() + [{"role": "user", "content": "echo more"}]
    run(history, tools=[lookup], session="agents-again")
    assert upstream.last.roles == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_refusals(run, refusal, requests, streamed):
    client = {"api_key": refusal.key, "max_retries": refusal.max_retries, "http_client": requests.async_http}
    with pytest.raises(refusal.error) as caught:
        run("plain", streamed, client, model=refusal.model)
    assert (caught.value.status_code, caught.value.code) == (refusal.status, refusal.code)
    assert len(requests) == 1


def test_failure_in_mid_stream(run):
    with pytest.raises(openai.APIError) as caught:
        run("fail", streamed=True)
    assert caught.value.code == "upstream_refused"
