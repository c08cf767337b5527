"""A client that leaves ends the provider's call and pays for what it got."""

import asyncio

import openai
import pytest

from harness import cost, nanos, until


def settled(server, completion_id):
    """Waits for the turn's charge, and checks that nothing stays held."""
    (charge,) = until(lambda: server.charges(completion_id), "the cancelled turn is settled")
    until(lambda: server.balance()[1] == 0, "nothing is held")
    return charge


def check_partial_charge(charge):
    # No usage arrived, so the server counted: something for the prompt, and the two words that were received.
    assert charge["prompt_tokens"] >= 1
    assert 1 <= charge["output_tokens"] <= len("Hello from")
    assert nanos(charge["delta"]) == -cost(charge["prompt_tokens"], charge["output_tokens"])


def test_closed_stream(ask, upstream, server):
    stream = ask("hold and close", stream=True)
    chunks = iter(stream)
    text = ""
    while text != "Hello from":
        chunk = next(chunks)
        text += chunk.choices[0].delta.content or ""
    stream.close()
    (call,) = upstream.about("hold and close")
    assert call.closed.wait(5), "the provider's call goes on"
    check_partial_charge(settled(server, chunk.id))
    assert len(upstream.about("hold and close")) == 1


def test_left_loop(client, agent, upstream, server):
    with client.chat.completions.create(
        model=agent, messages=[{"role": "user", "content": "hold and leave"}], stream=True
    ) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content == " from":
                break
    (call,) = upstream.about("hold and leave")
    assert call.closed.wait(5), "the provider's call goes on"
    check_partial_charge(settled(server, chunk.id))


def test_cancelled_task(options, agent, upstream, server):
    async def main():
        async with openai.AsyncOpenAI(**options) as client:
            got = asyncio.Event()
            seen = []

            async def read():
                stream = await client.chat.completions.create(
                    model=agent, messages=[{"role": "user", "content": "hold and cancel"}], stream=True
                )
                async for chunk in stream:
                    seen.append(chunk)
                    if chunk.choices[0].delta.content == " from":
                        got.set()

            task = asyncio.create_task(read())
            await asyncio.wait_for(got.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return seen[0].id

    completion_id = asyncio.run(main())
    (call,) = upstream.about("hold and cancel")
    assert call.closed.wait(5), "the provider's call goes on"
    check_partial_charge(settled(server, completion_id))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_nothing_received_is_free(options, agent, upstream, server, stream):
    """The client gives up before the provider's first word."""
    prompt = f"silent {stream}"
    before = server.balance()[2]

    async def main():
        async with openai.AsyncOpenAI(**options) as client:
            call = client.chat.completions.create(
                model=agent, messages=[{"role": "user", "content": prompt}], stream=stream
            )
            task = asyncio.create_task(call)
            while not upstream.about(prompt):
                assert not task.done(), task
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(asyncio.wait_for(main(), 30))
    (call,) = upstream.about(prompt)
    assert call.closed.wait(5), "the provider's call goes on"
    until(lambda: server.balance() == (before, 0, before), "the hold is released and nothing charged")
