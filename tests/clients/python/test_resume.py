"""A stream that the SDK began goes on after a lost connection, by plain HTTP."""

import json
import urllib.parse
import urllib.request

import openai


def events(lines):
    """The events of a stream, as (id, data)."""
    seen = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name in ("id", "data"):
            seen[name] = value
        elif not line and seen:
            yield seen["id"], seen["data"]
            seen = {}


def resumed(options, completion, last=None, **query):
    headers = {"authorization": f"Bearer {options['api_key']}"}
    if last:
        headers["last-event-id"] = last
    url = f"{options['base_url']}/chat/completions/{completion}/stream?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        assert answer.headers["x-completion-id"] == completion
        return list(events(answer.read().decode().splitlines()))


def text(events):
    chunks = [json.loads(data) for _, data in events if data != "[DONE]"]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_stream_goes_on_where_it_was_lost(options, ask):
    chunks = list(ask("plain", stream=True))
    whole = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    again = resumed(options, chunks[0].id)
    assert [json.loads(data) for _, data in again[:-1]] == [chunk.model_dump(exclude_unset=True) for chunk in chunks]
    assert (text(again), again[-1][1]) == (whole, "[DONE]")
    for at, (last, _) in enumerate(again):
        assert resumed(options, chunks[0].id, last) == again[at + 1 :]
    assert resumed(options, chunks[0].id, last_event_id=again[1][0]) == again[2:]


def test_the_sdk_s_own_request_resumes(client, ask):
    """The SDK can read the rest as its own stream."""
    chunks = list(ask("plain", stream=True))
    stream = client.get(
        f"/chat/completions/{chunks[0].id}/stream",
        cast_to=openai.types.chat.ChatCompletionChunk,
        stream=True,
        stream_cls=openai.Stream[openai.types.chat.ChatCompletionChunk],
        options={"headers": {"Last-Event-ID": "1"}},
    )
    assert list(stream) == chunks[1:]


def test_a_turn_goes_on_without_its_client_and_is_cancelled(options, client, ask, upstream, server):
    stream = ask("hold and go on", stream=True, extra_headers={"X-On-Disconnect": "continue"})
    chunk = next(iter(stream))
    stream.close()
    (call,) = upstream.about("hold and go on")
    assert not call.closed.wait(1), "the provider's call does not go on"
    ended = client.post(f"/chat/completions/{chunk.id}/cancel", cast_to=object)
    assert ended["status"] == "cancelled"
    assert call.closed.wait(5), "the provider's call goes on"
    *_, (_, last) = resumed(options, chunk.id)
    assert json.loads(last)["error"]["code"] == "cancelled"
    assert len(server.charges(chunk.id)) == 1
