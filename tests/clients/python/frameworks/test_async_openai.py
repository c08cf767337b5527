"""The Rust crate async-openai; tests/clients/rust makes the calls. Its types refuse what OpenAI would not send."""

import json
import os
import pathlib
import subprocess

import pytest

from harness import ROOT
from upstream import PROMPT_TOKENS, TEXT, WORDS

CLIENT = pathlib.Path(os.environ.get("ASYNC_OPENAI_BIN") or ROOT / "target/clients-rust/debug/switchboard-client-tests")
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}


def perform(task):
    assert CLIENT.exists(), f"{CLIENT} is not built; ASYNC_OPENAI_BIN names another"
    done = subprocess.run([CLIENT], input=json.dumps(task), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def call(options, agent):
    """One chat call of the crate: `call(text or messages, streamed, **anything of the request)`."""

    def call(said, streamed=False, session=None, api_key=None, max_retries=0, **more):
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
        request = {"model": agent, "messages": messages} | more
        if streamed:
            request |= {"stream": True, "stream_options": {"include_usage": True}}
        return perform(
            {
                "base_url": options["base_url"],
                "api_key": api_key or options["api_key"],
                "session": session,
                "max_retries": max_retries,
                "request": request,
            }
        )

    return call


def message_of(result):
    """The assistant's message, of a stream put together."""
    if "answer" in result:
        message = result["answer"]["choices"][0]["message"]
        return {name: message[name] for name in ("role", "content", "tool_calls") if message.get(name) is not None}
    content, calls = "", {}
    for chunk in result["chunks"]:
        for choice in chunk["choices"]:
            content += choice["delta"].get("content") or ""
            for piece in choice["delta"].get("tool_calls") or []:
                made = calls.setdefault(piece["index"], {"type": "function", "function": {"name": "", "arguments": ""}})
                made["id"] = piece.get("id") or made["id"]
                for name, text in piece["function"].items():
                    made["function"][name] += text or ""
    message = {"role": "assistant", "content": content}
    return message | ({"tool_calls": list(calls.values())} if calls else {})


def usage_of(result):
    (usage,) = [part["usage"] for part in result.get("chunks", [result.get("answer")]) if part.get("usage")]
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


both = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])


@both
def test_chat(call, agent, streamed):
    result = call("plain", streamed)
    assert message_of(result)["content"] == TEXT
    assert usage_of(result) == (PROMPT_TOKENS, len(WORDS), PROMPT_TOKENS + len(WORDS))
    assert {part["model"] for part in result.get("chunks") or [result["answer"]]} == {agent}


@both
@pytest.mark.parametrize("count", [1, 2])
def test_tools(call, upstream, streamed, count):
    session = f"async-openai-tools-{streamed}-{count}"
    question = {"role": "user", "content": f"tools {count}"}
    message = message_of(call([question], streamed, session, tools=[TOOL]))
    assert [json.loads(made["function"]["arguments"]) for made in message["tool_calls"]] == [
        {"q": f"tea {n}"} for n in range(count)
    ]
    results = [{"role": "tool", "tool_call_id": made["id"], "content": "green"} for made in message["tool_calls"]]
    answer = call([question, message, *results], streamed, session, tools=[TOOL])
    assert message_of(answer)["content"] == "The tool said: " + ", ".join(["green"] * count)
    assert upstream.last.roles == ["user", "assistant"] + ["tool"] * count


@both
def test_session(call, upstream, streamed):
    session = f"async-openai-session-{streamed}"
    call("echo one", streamed, session)
    call("echo two", streamed, session)
    conversation = [("user", "echo one"), ("assistant", "one "), ("user", "echo two")]
    assert upstream.last.said == conversation
    again = [{"role": role, "content": text} for role, text in [*conversation, ("assistant", "two "), ("user", "plain")]]
    call(again, streamed, session)
    assert upstream.last.roles == ["user", "assistant", "user", "assistant", "user"]


@both
def test_refusals(call, refusal, streamed):
    result = call("plain", streamed, api_key=refusal.key, max_retries=refusal.max_retries, model=refusal.model)
    assert result["error"]["status"] == refusal.status
    assert result["error"]["error"]["code"] == refusal.code
    assert result["requests"] == 1


def test_a_rate_limit_is_waited_for(call, server):
    """The wait that it is told is as long as it has to be."""
    key, model = server.tenant(balance="1.00", limits={"requests_per_minute": 60})
    statuses = set()
    for _ in range(61):
        body = {"model": model, "messages": [{"role": "user", "content": "plain"}]}
        statuses.add(server.call(key, "POST", "/v1/chat/completions", body)[0])
        if 429 in statuses:
            break
    assert statuses == {200, 429}
    result = call("plain", api_key=key, model=model, max_retries=3)
    assert message_of(result)["content"] == TEXT and result["requests"] <= 2


def test_failure_in_mid_stream(call):
    result = call("fail", streamed=True)
    assert message_of(result)["content"] == "Hello from"
    assert "error" in result


def test_models(options, agent):
    task = {"base_url": options["base_url"], "api_key": options["api_key"], "max_retries": 0}
    assert [model["id"] for model in perform(task)["models"]["data"]] == [agent]
