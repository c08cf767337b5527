"""Plain and streamed chat with the official package, and what surrounds it."""

import asyncio

import openai
import pytest

from harness import cost, nanos
from upstream import PROMPT_TOKENS, TEXT, WORDS


def test_plain_answer(ask, agent):
    completion = ask("plain")
    assert completion.object == "chat.completion"
    assert completion.id.startswith("chatcmpl-") and completion.id != "chatcmpl-upstream"
    assert completion.model == completion.agent_id == agent
    choice = completion.choices[0]
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert choice.message.content == completion.content == TEXT
    assert completion.session_id.startswith("sess_")
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (PROMPT_TOKENS, 4, PROMPT_TOKENS + 4)
    # An agent key sees no prices.
    assert "cost" not in usage.model_extra and "balance" not in usage.model_extra
    assert isinstance(completion.created, int)
    assert completion.system_fingerprint == "fp_scripted"


def test_account_key_sees_the_charge(account_client, agent, server):
    completion = account_client.chat.completions.create(model=agent, messages=[{"role": "user", "content": "plain"}])
    price = cost(PROMPT_TOKENS, 4)
    assert nanos(completion.usage.cost) == price
    assert nanos(completion.usage.balance) == server.balance()[2]
    (charge,) = server.charges(completion.id)
    assert nanos(charge["delta"]) == -price
    assert (charge["prompt_tokens"], charge["output_tokens"]) == (PROMPT_TOKENS, 4)
    assert charge["session_id"] == completion.session_id and charge["agent_id"] == agent


def test_what_the_provider_sees(ask, upstream, agent, server):
    ask("plain for the provider", temperature=0.25, seed=7, user="u", extra_body={"top_k": 3, "vendor": {"a": [1]}})
    (call,) = upstream.about("plain for the provider")
    assert call.path == "/v1/chat/completions"
    assert call.body["model"] == "test-model"
    assert (call.body["temperature"], call.body["seed"], call.body["top_k"]) == (0.25, 7, 3)
    assert call.body["vendor"] == {"a": [1]}
    assert "agent_id" not in call.body and "session_id" not in call.body
    sent = {name.lower(): value for name, value in call.headers.items()}
    assert sent["authorization"] == "Bearer provider-secret"
    assert not [name for name in sent if name.startswith("x-stainless")]
    assert agent not in str(call.body) + str(sent) and server.info["agent_key"] not in str(sent)


def check_stream(chunks, agent, with_usage):
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert {c.model for c in chunks} == {agent}
    assert len({c.id for c in chunks}) == len({c.created for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].session_id.startswith("sess_")
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    usages = [c.usage for c in chunks if c.usage]
    if with_usage:
        assert [c.choices for c in chunks if c.usage] == [[]] and chunks[-1].usage
        assert (usages[0].prompt_tokens, usages[0].completion_tokens) == (PROMPT_TOKENS, len(WORDS))
    else:
        assert not usages and all(c.choices for c in chunks)


@pytest.mark.parametrize("with_usage", [False, True])
def test_stream(ask, agent, upstream, server, with_usage):
    options = {"stream_options": {"include_usage": True}} if with_usage else {}
    prompt = f"plain stream, usage {with_usage}"
    chunks = list(ask(prompt, stream=True, **options))
    check_stream(chunks, agent, with_usage)
    # The provider is asked for usage in any case: it is what is charged.
    (call,) = upstream.about(prompt)
    assert call.body["stream_options"]["include_usage"] is True
    # The end of the stream says that the charge is written.
    (charge,) = server.charges(chunks[0].id)
    assert nanos(charge["delta"]) == -cost(PROMPT_TOKENS, len(WORDS))


def test_async_client(options, agent):
    async def main():
        async with openai.AsyncOpenAI(**options) as client:
            messages = [{"role": "user", "content": "plain"}]
            completion = await client.chat.completions.create(model=agent, messages=messages)
            assert completion.choices[0].message.content == TEXT
            stream = await client.chat.completions.create(model=agent, messages=messages, stream=True)
            check_stream([chunk async for chunk in stream], agent, False)
            # Several at once.
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(model=agent, messages=[{"role": "user", "content": f"echo n{n}"}])
                    for n in range(8)
                )
            )
            assert [a.choices[0].message.content.strip() for a in answers] == [f"n{n}" for n in range(8)]

    asyncio.run(main())


def test_headers_of_a_plain_answer(client, agent):
    raw = client.chat.completions.with_raw_response.create(model=agent, messages=[{"role": "user", "content": "plain"}])
    completion = raw.parse()
    assert completion.choices[0].message.content == TEXT
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.request_id == completion._request_id == raw.headers["x-request-id"]
    assert raw.headers["x-session-id"] == completion.session_id
    assert raw.headers["x-completion-id"] == completion.id
    assert int(raw.headers["openai-processing-ms"]) >= 0


def test_headers_of_a_stream(client, agent):
    with client.chat.completions.with_streaming_response.create(
        model=agent, messages=[{"role": "user", "content": "plain"}], stream=True
    ) as raw:
        headers = raw.headers
        lines = [line for line in raw.iter_lines() if line.startswith("data:")]
    assert headers["content-type"].split(";")[0] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in headers and "content-length" not in headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-session-id"].startswith("sess_")
    assert headers["x-completion-id"].startswith("chatcmpl-")
    assert lines[-1] == "data: [DONE]"


def test_text_in_parts(ask, upstream):
    parts = [{"type": "text", "text": "plain"}, {"type": "text", "text": " parts"}]
    completion = ask("", messages=[{"role": "user", "content": parts}])
    assert completion.choices[0].message.content == TEXT
    assert upstream.last.messages[-1]["content"] == parts


def test_explicit_nulls(ask):
    assert ask("plain", stream=None, temperature=None, tools=None, stop=None).choices[0].message.content == TEXT


@pytest.mark.parametrize("stream", [False, True])
def test_vendor_fields_pass(ask, stream):
    answer = ask("extras", stream=stream)
    if stream:
        (message,) = [c.choices[0].delta for c in answer if "x_vendor" in (c.choices[0].delta.model_extra or {})]
    else:
        message = answer.choices[0].message
    assert message.reasoning_content == "thinking hard"
    assert message.x_vendor == {"score": 7}


def test_several_choices(ask):
    completion = ask("choices", n=2)
    assert [(c.index, c.message.content) for c in completion.choices] == [(0, "choice 0"), (1, "choice 1")]
    texts = {0: "", 1: ""}
    for chunk in ask("choices", n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "choice 0", 1: "choice 1"}


def test_logprobs(ask, upstream):
    completion = ask("logprobs", logprobs=True, top_logprobs=0)
    assert upstream.last.body["logprobs"] is True and upstream.last.body["top_logprobs"] == 0
    assert completion.choices[0].logprobs.content[0].logprob == -0.25
    scores = [c.choices[0].logprobs for c in ask("logprobs", logprobs=True, stream=True)]
    assert [s.content[0].bytes for s in scores if s] == [[72, 105]]


def test_models(client, account_client, agent, server):
    for any_client in (client, account_client):
        models = list(any_client.models.list())
        assert agent in [model.id for model in models]
        assert {model.object for model in models} == {"model"}
    model = client.models.retrieve(agent)
    assert model.id == agent and model.owned_by == server.info["account_id"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("ag_00000000_0000")
    assert caught.value.code == "model_not_found"
