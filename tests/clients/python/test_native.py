"""The native dialect, spoken by curl."""

import json
import subprocess

import pytest

from harness import cost, nanos
from upstream import PROMPT_TOKENS, TEXT, WORDS


def curl(server, path, body, *options, key=None):
    command = ["curl", "-sS", "-N", "--noproxy", "*", "--max-time", "60", server.url + path]
    command += ["-H", f"Authorization: Bearer {key or server.info['account_key']}", *options]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def events(output):
    return [json.loads(line[len("data: ") :]) for line in output.splitlines() if line.startswith("data:")]


def question(server, text, **more):
    return {"agent_id": server.info["agent_id"], "messages": [{"role": "user", "content": text}]} | more


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v2/chats/openai"])
def test_plain(server, path):
    answer = json.loads(curl(server, path, question(server, "plain")))
    assert answer["content"] == answer["choices"][0]["message"]["content"] == TEXT
    assert answer["agent_id"] == answer["model"] == server.info["agent_id"]
    assert nanos(answer["usage"]["cost"]) == cost(PROMPT_TOKENS, 4)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v2/chats/openai"])
def test_stream(server, path):
    output = curl(server, path, question(server, "plain", stream=True))
    assert "[DONE]" not in output
    *content, done = events(output)
    assert {event["type"] for event in content} == {"content"}
    assert [event["data"] for event in content] == WORDS
    assert done["type"] == "done" and done["session_id"].startswith("sess_")
    metrics = done["metrics"]
    assert (metrics["prompt_tokens"], metrics["completion_tokens"], metrics["total_tokens"]) == (PROMPT_TOKENS, 4, 14)
    assert nanos(metrics["cost"]) == cost(PROMPT_TOKENS, 4)
    assert nanos(metrics["balance"]) == server.balance()[2]
    assert metrics["finish_reason"] == "stop"
    assert 0 <= metrics["ttft_ms"] <= metrics["duration_ms"]


def test_agent_key_needs_no_name_and_sees_no_money(server):
    body = {"messages": [{"role": "user", "content": "plain"}], "stream": True}
    done = events(curl(server, "/v1/chat/completions", body, key=server.info["agent_key"]))[-1]
    assert done["type"] == "done"
    assert "cost" not in done["metrics"] and "balance" not in done["metrics"]


def test_the_dialect_can_be_chosen(server):
    agent = server.info["agent_id"]
    openai = curl(server, "/v1/chat/completions", question(server, "plain", stream=True, stream_format="openai"))
    assert openai.rstrip().endswith("data: [DONE]")
    body = question(server, "plain", stream=True, stream_format="native", model=agent)
    native = events(curl(server, "/v1/chat/completions", body))
    assert native[-1]["type"] == "done"


def test_tool_calls(server):
    tools = [{"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}]
    *pieces, done = events(curl(server, "/v1/chat/completions", question(server, "tools", stream=True, tools=tools)))
    assert {piece["type"] for piece in pieces} == {"tool_calls"}
    assert pieces[0]["data"][0]["id"] == "call_0" and pieces[0]["data"][0]["function"]["name"] == "lookup"
    arguments = "".join(piece["data"][0]["function"]["arguments"] for piece in pieces)
    assert json.loads(arguments) == {"q": "tea 0"}
    assert done["metrics"]["finish_reason"] == "tool_calls"


def test_failure_in_mid_stream(server):
    *content, last = events(curl(server, "/v1/chat/completions", question(server, "fail", stream=True)))
    assert [event["data"] for event in content] == WORDS[:2]
    assert last["type"] == "error"
    assert set(last["error"]) >= {"message", "type", "param", "code"}


def test_simple_chat(server):
    path = f"/v1/agents/{server.info['agent_id']}/chat"
    first = json.loads(curl(server, path, {"message": "echo hello you"}))
    assert first["response"].split() == ["hello", "you"]
    usage = first["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (PROMPT_TOKENS, 2, PROMPT_TOKENS + 2)
    assert nanos(usage["cost"]) == cost(PROMPT_TOKENS, 2)
    body = {"message": "echo again", "session_id": first["session_id"], "stream": True}
    *_, done = events(curl(server, path, body))
    assert done["session_id"] == first["session_id"]
    page = json.loads(curl(server, f"/v2/sessions/{first['session_id']}/messages", None))
    assert [m["role"] for m in page["messages"]] == ["user", "assistant"] * 2


def test_wrong_media_type(server):
    output = curl(
        server,
        "/v1/chat/completions",
        None,
        *("-H", "Content-Type: text/plain", "-d", "hello", "-w", "\n%{http_code} %{content_type}"),
    )
    body, last = output.rsplit("\n", 1)
    assert last.startswith("415 application/json")
    assert json.loads(body)["error"]["code"] == "unsupported_media_type"
