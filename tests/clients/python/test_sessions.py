"""Conversations that the server remembers."""

import asyncio

import openai
import pytest


def said(call):
    """What the provider saw, without the instructions."""
    return [(m["role"], m["content"].strip()) for m in call.messages if m["role"] != "system"]


def test_continued_by_extra_body(ask, upstream):
    first = ask("echo one")
    second = ask("echo two", extra_body={"session_id": first.session_id})
    assert second.session_id == first.session_id
    assert said(upstream.last) == [("user", "echo one"), ("assistant", "one"), ("user", "echo two")]


def test_continued_by_header(ask, upstream):
    first = ask("echo one", stream=True)
    session = next(iter(first)).session_id
    for _ in first:
        pass
    chunks = list(ask("echo two", stream=True, extra_headers={"X-Session-Id": session}))
    assert chunks[0].session_id == session
    assert said(upstream.last) == [("user", "echo one"), ("assistant", "one"), ("user", "echo two")]


def test_named_by_the_client(ask, account_client, agent, upstream, server):
    name = "order-4711:chat.a"
    assert ask("echo one", extra_body={"session_id": name}).session_id == name
    ask("echo two", extra_body={"session_id": name})
    assert len(said(upstream.last)) == 3
    # The account's key reaches the same conversation.
    account_client.chat.completions.create(
        model=agent, messages=[{"role": "user", "content": "echo three"}], extra_body={"session_id": name}
    )
    assert said(upstream.last)[-2:] == [("assistant", "two"), ("user", "echo three")]
    page = server.account("GET", f"/v2/sessions/{name}/messages")
    assert [m["role"] for m in page["messages"]] == ["user", "assistant"] * 3
    assert page["has_more"] is False


def test_fresh_without_an_id(ask, upstream):
    one, two = ask("echo one"), ask("echo two")
    assert one.session_id != two.session_id
    assert said(upstream.last) == [("user", "echo two")]


@pytest.mark.parametrize("window", [0, 2], ids=["whole", "window"])
def test_history_sent_again(client, agent, upstream, window):
    """A client that keeps its own list is recognised, also when it has cut the list to a window."""
    history, session = [], None
    for turn in ("echo one", "echo two", "echo three"):
        history.append({"role": "user", "content": turn})
        raw = client.chat.completions.with_raw_response.create(
            model=agent,
            messages=history[-1 - window :] if window else history,
            extra_body={"session_id": session} if session else {},
        )
        completion = raw.parse()
        session = completion.session_id
        history.append({"role": "assistant", "content": completion.choices[0].message.content})
    assert int(raw.headers["x-history-matched"]) == (window or 4)
    assert said(upstream.last) == [
        ("user", "echo one"),
        ("assistant", "one"),
        ("user", "echo two"),
        ("assistant", "two"),
        ("user", "echo three"),
    ]


def test_instructions_come_first(server, account_client, upstream):
    agent = server.account("POST", "/v2/agents", {"name": "poet", "instructions": "You rhyme.", "model": "test-model"})
    account_client.chat.completions.create(
        model=agent["id"],
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "plain"}],
    )
    assert upstream.last.messages[0] == {"role": "system", "content": "You rhyme."}
    assert [m["content"] for m in upstream.last.messages[1:]] == ["Be brief.", "plain"]


def test_archived(ask, server):
    session = ask("plain").session_id
    server.account("PATCH", f"/v2/sessions/{session}", {"status": "archived"})
    with pytest.raises(openai.APIStatusError) as caught:
        ask("plain", extra_body={"session_id": session})
    assert (caught.value.status_code, caught.value.code) == (410, "session_closed")
    server.account("PATCH", f"/v2/sessions/{session}", {"status": "active"})
    assert ask("plain", extra_body={"session_id": session}).session_id == session


def read_until(stream, text):
    """Reads the stream until its answer has come to this text; the iterator over what follows."""
    chunks, got = iter(stream), ""
    while got != text:
        got += next(chunks).choices[0].delta.content or ""
    return chunks


def test_busy(ask, upstream):
    """While a turn runs, a second one is refused if it asks for that, and else waits for its place."""
    session = "busy-session"
    running = ask("hold", stream=True, extra_body={"session_id": session})
    read_until(running, "Hello from")
    with pytest.raises(openai.ConflictError) as caught:
        ask("echo me", extra_body={"session_id": session}, extra_headers={"X-Session-Conflict": "reject"})
    assert caught.value.code == "session_busy"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    running.close()
    assert ask("echo next", extra_body={"session_id": session}).content.strip() == "next"
    # What arrived before the break was kept.
    assert said(upstream.last) == [("user", "hold"), ("assistant", "Hello from"), ("user", "echo next")]


def test_interrupted(ask, upstream):
    """A new turn may also end the running one, whose stream then says so."""
    session = "interrupted-session"
    running = read_until(ask("hold", stream=True, extra_body={"session_id": session}), "Hello from")
    (call,) = [call for call in upstream.about("hold") if not call.closed.is_set()]
    second = ask("echo next", extra_body={"session_id": session}, extra_headers={"X-Session-Conflict": "interrupt"})
    assert second.content.strip() == "next"
    assert call.closed.wait(5), "the provider's call goes on"
    with pytest.raises(openai.APIError) as caught:
        for chunk in running:
            assert chunk.choices[0].finish_reason is None
    assert caught.value.code == "interrupted"
    assert said(upstream.last) == [("user", "hold"), ("assistant", "Hello from"), ("user", "echo next")]


def test_queue(options, agent, upstream):
    """Eight turns wait for their place, one more is refused; those that wait all get their turn."""

    async def main():
        async with openai.AsyncOpenAI(**options) as client:

            def turn(text, **more):
                return client.chat.completions.create(
                    model=agent,
                    messages=[{"role": "user", "content": text}],
                    extra_body={"session_id": "crowded-session"},
                    **more,
                )

            running = await turn("hold", stream=True)
            tasks = [asyncio.create_task(turn(f"echo n{n}")) for n in range(9)]
            (refused,), waiting = await asyncio.wait(tasks, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            fault = refused.exception()
            assert isinstance(fault, openai.RateLimitError) and fault.code == "session_queue_full"
            assert int(fault.response.headers["retry-after"]) >= 1
            await running.close()
            return {(await task).content.strip() for task in waiting}

    answers = asyncio.run(main())
    assert len(answers) == 8
    # The last of them saw all that came before it.
    assert len(said(upstream.last)) == 2 * 8 + 1
