"""The whole way on a real model: its own token counts are what is remembered, answered and charged."""

import json
import os

import openai
import pytest

from harness import cost, nanos

ENGINE = os.environ.get("SWITCHBOARD_TEST_ENGINE_URL")
MODEL = "smollm2-135m"
INSTRUCTIONS = "You are a helpful assistant. Answer in one short sentence."
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SAME = {"temperature": 0, "max_tokens": 48}  # the same question gets the same answer

pytestmark = pytest.mark.skipif(
    not ENGINE, reason="no real engine: scripts/test --engine starts one (or name one with SWITCHBOARD_TEST_ENGINE_URL)"
)


@pytest.fixture(scope="module")
def engine():
    """The engine itself, for comparison."""
    with openai.OpenAI(base_url=ENGINE, api_key="none", timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def hosted(start):
    return start("--provider-url", ENGINE, "--provider-model", MODEL, "--default-limits", "none")


@pytest.fixture(scope="module")
def agent(hosted):
    settings = {"name": "small", "model": MODEL, "instructions": INSTRUCTIONS, "max_tokens": 48}
    return hosted.account("POST", "/v2/agents", settings)["id"]


@pytest.fixture(scope="module")
def chat(hosted, agent):
    """Asks through Switchboard, streamed; returns text, tool calls, last chunk with usage, session and charge."""
    client = openai.OpenAI(base_url=hosted.base_url, api_key=hosted.info["account_key"], timeout=120)

    def chat(*messages, session=None, **more):
        with client.chat.completions.stream(
            model=agent,
            messages=messages,
            stream_options={"include_usage": True},
            extra_body={"session_id": session} if session else {},
            **SAME | more,
        ) as stream:
            final = stream.get_final_completion()
        (charge,) = hosted.charges(final.id)
        return final, charge

    yield chat
    client.close()


def check_charge(final, charge, direct):
    """What was streamed, charged and counted by the engine for the same messages is one and the same."""
    usage = direct.usage
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert (charge["prompt_tokens"], charge["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert nanos(charge["delta"]) == -cost(usage.prompt_tokens, usage.completion_tokens)
    assert nanos(final.usage.cost) == cost(usage.prompt_tokens, usage.completion_tokens)


def test_a_remembered_second_turn(engine, chat, hosted):
    messages = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": "The password is swordfish."},
    ]
    first, charge = chat(messages[-1])
    direct = engine.chat.completions.create(model=MODEL, messages=messages, **SAME)
    answer = first.choices[0].message.content
    assert answer and answer == direct.choices[0].message.content
    check_charge(first, charge, direct)

    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "What is the password?"}]
    second, charge = chat(messages[-1], session=charge["session_id"])
    direct = engine.chat.completions.create(model=MODEL, messages=messages, **SAME)
    assert second.choices[0].message.content == direct.choices[0].message.content
    assert "swordfish" in second.choices[0].message.content.lower()
    check_charge(second, charge, direct)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert nanos(second.usage.balance) == nanos(charge["balance_after"]) == hosted.balance()[2]


def test_a_tool_call(engine, chat):
    question = {"role": "user", "content": "Use get_weather for Oslo."}
    messages = [{"role": "system", "content": INSTRUCTIONS}, question]
    first, charge = chat(question, tools=[WEATHER])
    direct = engine.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], **SAME)
    check_charge(first, charge, direct)
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}

    result = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees and sunny"}
    second, charge = chat(result, session=charge["session_id"], tools=[WEATHER])
    assert second.choices[0].finish_reason == "stop"
    assert second.choices[0].message.content
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert nanos(charge["delta"]) == -cost(second.usage.prompt_tokens, second.usage.completion_tokens)
