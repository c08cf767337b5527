"""What the package tries again by itself, and how long it waits: only where that may help, and as long as it is told."""

import re

import openai
import pytest
from openai import APIStatusError, BadRequestError, ConflictError, InternalServerError, RateLimitError

SPAN = re.compile(r"(\d+m)?\d+s|\d+ms")


class Counted:
    """A client that makes one more try, how many requests it made, and how long it would have slept between them."""

    def __init__(self, options, monkeypatch):
        self.requests, self.waits = [], []
        hooks = {"request": [lambda request: self.requests.append(request)]}
        self.client = openai.OpenAI(
            **options | {"max_retries": 1, "http_client": openai.DefaultHttpxClient(event_hooks=hooks)}
        )
        monkeypatch.setattr("openai._base_client.time.sleep", self.waits.append)

    def ask(self, model, text="plain", **more):
        more = {"messages": [{"role": "user", "content": text}]} | more
        return self.client.chat.completions.create(model=model, **more)


@pytest.fixture
def counted(options, monkeypatch):
    return Counted(options, monkeypatch)


# Situations: each makes a call that is refused.


def invalid(it, agent, server):
    it.ask(agent, messages=[])


def unknown_key(it, agent, server):
    it.client.api_key = "ak_" + "0" * 40
    it.ask(agent)


def poor(it, agent, server):
    it.client.api_key, model = server.tenant(balance="0.00001")
    it.ask(model)


def over_budget(it, agent, server):
    budget = {"amount": "0.000001", "period": "total"}
    made = server.account("POST", f"/v2/agents/{agent}/api-keys", {"name": "tight", "budget": budget})
    it.client.api_key = made["key"]
    it.ask(agent)


def wrong_kind(it, agent, server):
    it.client.api_key = server.info["operator_token"]
    it.ask(agent)


def no_agent(it, agent, server):
    it.ask("ag_00000000_0000")


def no_list(it, agent, server):
    it.client.chat.completions.list()


def archived(it, agent, server):
    session = it.ask(agent).session_id
    server.account("PATCH", f"/v2/sessions/{session}", {"status": "archived"})
    it.requests.clear()
    it.ask(agent, extra_body={"session_id": session})


def too_large(it, agent, server):
    it.ask(agent, "x" * 21_000_000)


def no_json(it, agent, server):
    it.ask(agent, extra_headers={"Content-Type": "text/plain"})


def mismatch(it, agent, server):
    key = {"extra_headers": {"Idempotency-Key": "retries"}}
    it.ask(agent, "plain once", **key)
    it.requests.clear()
    it.ask(agent, "plain twice", **key)


def too_fast(it, agent, server):
    it.client.api_key, model = server.tenant(balance="1.00", limits={"requests_per_minute": 1})
    it.ask(model)
    it.requests.clear()
    it.ask(model)


def too_many_tokens(it, agent, server):
    it.client.api_key, model = server.tenant(balance="1.00", limits={"tokens_per_minute": 500})
    it.ask(model, max_tokens=1000)


def provider_fails(it, agent, server):
    it.ask(agent, "status 500")


def provider_is_busy(it, agent, server):
    it.ask(agent, "status 429")


def provider_finds_it_wrong(it, agent, server):
    it.ask(agent, "status 400")


@pytest.mark.parametrize(
    "situation, kind, status, code, requests",
    [
        (invalid, BadRequestError, 400, "invalid_value", 1),
        (too_many_tokens, BadRequestError, 400, None, 1),
        (provider_finds_it_wrong, BadRequestError, 400, "invalid_value", 1),
        (unknown_key, openai.AuthenticationError, 401, "invalid_api_key", 1),
        (poor, APIStatusError, 402, "insufficient_balance", 1),
        (over_budget, APIStatusError, 402, "budget_exceeded", 1),
        (wrong_kind, openai.PermissionDeniedError, 403, "key_scope", 1),
        (no_agent, openai.NotFoundError, 404, "model_not_found", 1),
        (no_list, APIStatusError, 405, "method_not_allowed", 1),
        (archived, APIStatusError, 410, "session_closed", 1),
        (too_large, APIStatusError, 413, "request_too_large", 1),
        (no_json, APIStatusError, 415, "unsupported_media_type", 1),
        (mismatch, openai.UnprocessableEntityError, 422, "idempotency_mismatch", 1),
        (too_fast, RateLimitError, 429, "rate_limit_exceeded", 2),
        (provider_fails, InternalServerError, 502, "upstream_refused", 2),
        (provider_is_busy, InternalServerError, 503, "upstream_unavailable", 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_tried_again(counted, agent, server, situation, kind, status, code, requests):
    with pytest.raises(APIStatusError) as caught:
        situation(counted, agent, server)
    error = caught.value
    assert (type(error), error.status_code) == (kind, status)
    assert code in (None, error.code)
    assert error.request_id.startswith("req_")
    assert len(counted.requests) == requests
    told = error.response.headers.get("retry-after")
    if told:
        assert 1 <= int(told) <= 60
        # It would have waited for what the first answer told, which is no less than what the second one tells.
        assert any(int(told) <= wait <= 60 for wait in counted.waits), (told, counted.waits)


def test_a_conflict_is_tried_again(counted, ask, agent):
    session = {"extra_body": {"session_id": "conflict"}}
    running = ask("hold", stream=True, **session)
    next(iter(running))
    counted.waits.clear()
    with pytest.raises(ConflictError):
        counted.ask(agent, extra_headers={"X-Session-Conflict": "reject"}, **session)
    assert len(counted.requests) == 2 and 1 in counted.waits
    running.close()


def test_once_a_stream_has_begun_nothing_is_tried_again(counted, agent):
    stream = counted.ask(agent, "fail", stream=True)
    with pytest.raises(openai.APIError):
        list(stream)
    assert len(counted.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_headers_of_limits(options, server, stream):
    """The same on streams as on plain answers."""
    key, model = server.tenant(balance="5.00", limits={"requests_per_minute": 60, "tokens_per_minute": 100_000})
    with openai.OpenAI(**options | {"api_key": key}) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": "plain"}], max_tokens=100, stream=stream
        )
        answer = raw.parse()
        if stream:
            list(answer)
    headers = raw.headers
    assert raw.request_id == headers["x-request-id"] and raw.request_id.startswith("req_")
    assert int(headers["openai-processing-ms"]) >= 0
    assert headers["x-completion-id"].startswith("chatcmpl-") and headers["x-session-id"].startswith("sess_")
    for what, limit in (("requests", 60), ("tokens", 100_000)):
        assert headers[f"x-ratelimit-limit-{what}"] == str(limit)
        assert 0 <= int(headers[f"x-ratelimit-remaining-{what}"]) < limit
        assert SPAN.fullmatch(headers[f"x-ratelimit-reset-{what}"])
    assert headers["x-ratelimit-limit"] == "60" and int(headers["x-ratelimit-reset"]) > 1_700_000_000
