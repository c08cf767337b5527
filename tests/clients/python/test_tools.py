"""Tool calls and structured outputs."""

import asyncio
import json

import openai
import pydantic
import pytest

LOOKUP = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks something up",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
    },
}


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.mark.parametrize("count", [1, 2])
def test_round_trip(ask, upstream, count):
    question = {"role": "user", "content": f"tools {count}"}
    first = ask("", messages=[question], tools=[LOOKUP], tool_choice="auto")
    assert upstream.last.body["tools"] == [LOOKUP]
    assert first.choices[0].finish_reason == "tool_calls"
    message = first.choices[0].message
    assert message.content is None
    assert [json.loads(call.function.arguments)["q"] for call in message.tool_calls] == [f"tea {n}" for n in range(count)]

    # As most users do it: the whole conversation again. The server knows the part it has stored.
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"result {call.id}"} for call in message.tool_calls]
    second = ask(
        "",
        messages=[question, message, *results],
        tools=[LOOKUP],
        extra_body={"session_id": first.session_id},
    )
    expected = ", ".join(f"result call_{n}" for n in range(count))
    assert second.choices[0].message.content == "The tool said: " + expected
    roles = [m["role"] for m in upstream.last.messages if m["role"] != "system"]
    assert roles == ["user", "assistant"] + ["tool"] * count
    assert len(upstream.last.messages[-count - 1]["tool_calls"]) == count


def test_only_the_results(ask, upstream):
    """A client that leaves the history to the server sends the results alone."""
    first = ask("tools", tools=[LOOKUP])
    call = first.choices[0].message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "green"}
    second = ask("", messages=[result], tools=[LOOKUP], extra_body={"session_id": first.session_id})
    assert second.choices[0].message.content == "The tool said: green"
    assert [m["role"] for m in upstream.last.messages if m["role"] != "system"] == ["user", "assistant", "tool"]


def test_streamed_calls(ask):
    calls = {}
    finish = None
    for chunk in ask("tools 2", tools=[LOOKUP], stream=True):
        finish = chunk.choices[0].finish_reason or finish
        for piece in chunk.choices[0].delta.tool_calls or []:
            call = calls.setdefault(piece.index, {"arguments": ""})
            if piece.id:
                call |= {"id": piece.id, "name": piece.function.name}
            call["arguments"] += piece.function.arguments or ""
    assert finish == "tool_calls"
    assert calls == {n: {"id": f"call_{n}", "name": "lookup", "arguments": f'{{"q":"tea {n}"}}'} for n in (0, 1)}


def test_stream_helper_with_tools(client, agent):
    class Lookup(pydantic.BaseModel):
        q: str

    tool = openai.pydantic_function_tool(Lookup, name="lookup")
    messages = [{"role": "user", "content": "tools"}]
    with client.chat.completions.stream(model=agent, messages=messages, tools=[tool]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [event.parsed_arguments for event in done] == [Lookup(q="tea 0")]
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments == Lookup(q="tea 0")


def test_parse(client, agent, upstream):
    completion = client.chat.completions.parse(
        model=agent, messages=[{"role": "user", "content": "json"}], response_format=Weather
    )
    assert completion.choices[0].message.parsed == Weather(city="Oslo", degrees=18)
    sent = upstream.last.body["response_format"]
    assert sent["type"] == "json_schema" and sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["required"] == ["city", "degrees"]


def test_parse_async(options, agent):
    async def main():
        async with openai.AsyncOpenAI(**options) as client:
            return await client.chat.completions.parse(
                model=agent, messages=[{"role": "user", "content": "json"}], response_format=Weather
            )

    assert asyncio.run(main()).choices[0].message.parsed == Weather(city="Oslo", degrees=18)


def test_stream_helper(client, agent):
    with client.chat.completions.stream(
        model=agent,
        messages=[{"role": "user", "content": "json"}],
        response_format=Weather,
        stream_options={"include_usage": True},
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    text = "".join(event.delta for event in events if event.type == "content.delta")
    assert Weather.model_validate_json(text) == final.choices[0].message.parsed
    assert [event.parsed for event in events if event.type == "content.done"] == [Weather(city="Oslo", degrees=18)]
    assert final.model == agent and final.usage.completion_tokens == 4
