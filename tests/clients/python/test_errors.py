"""Each refusal arrives as the exception that users of the package know."""

import re

import openai
import pytest


def check(fault, status, code, kind="invalid_request_error"):
    """What every error has, whatever its class."""
    assert (fault.status_code, fault.code, fault.type) == (status, code, kind)
    assert fault.request_id.startswith("req_")
    body = fault.response.json()
    assert set(body["error"]) >= {"message", "type", "param", "code"}
    assert body["detail"] == body["error"]["message"] and body["status"] == status
    return body["error"]


def with_key(options, key, **more):
    return openai.OpenAI(**options | {"api_key": key} | more)


def poor_account(server, **more):
    """An account with next to no money, its agent, and that agent's key."""
    account = server.admin("POST", "/admin/accounts", {"name": "poor", "balance": "0.00001"} | more)
    agent = make_agent(server, account["key"])
    return account, agent


def make_agent(server, key):
    status, _, agent = server.call(key, "POST", "/v2/agents", {"name": "a", "model": "test-model"})
    assert status == 201, agent
    return agent["id"]


def test_400_of_ours(ask):
    for more, param in (
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"temperature": 9}, "temperature"),
        ({"extra_body": {"agent_id": "ag_00000000_0000"}}, None),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask("plain", **more)
        error = caught.value.response.json()["error"]
        assert error["type"] == "invalid_request_error" and error["code"]
        if param:
            assert caught.value.param == param


def test_400_of_the_provider(ask):
    with pytest.raises(openai.BadRequestError) as caught:
        ask("status 400")
    assert "refused with 400" in caught.value.message
    assert caught.value.param == "temperature"


@pytest.mark.parametrize("key", ["sk-unknown", "ak_" + "0" * 40, "nonsense"])
def test_401(options, agent, key):
    with pytest.raises(openai.AuthenticationError) as caught:
        with_key(options, key).chat.completions.create(model=agent, messages=[{"role": "user", "content": "plain"}])
    error = check(caught.value, 401, "invalid_api_key")
    assert "Incorrect API key provided" in error["message"] and key not in error["message"]
    assert caught.value.response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_402_is_not_retried(options, server, upstream, stream):
    account, agent = poor_account(server)
    requests = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: requests.append(request)]})
    before = len(upstream.calls)
    client = with_key(options, account["key"], max_retries=3, http_client=http)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model=agent, messages=[{"role": "user", "content": "plain"}], max_tokens=1000, stream=stream
        )
    error = check(caught.value, 402, "insufficient_balance", "insufficient_quota")
    assert error["available"] and error["needed"]
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(requests) == 1
    assert len(upstream.calls) == before


def test_403(options, server):
    with pytest.raises(openai.PermissionDeniedError) as caught:
        with_key(options, server.info["operator_token"]).models.list()
    check(caught.value, 403, "key_scope", "permission_error")

    account, agent = poor_account(server, balance="1.00")
    server.admin("PATCH", f"/admin/accounts/{account['id']}", {"status": "suspended"})
    with pytest.raises(openai.PermissionDeniedError) as caught:
        with_key(options, account["key"]).chat.completions.create(
            model=agent, messages=[{"role": "user", "content": "plain"}]
        )
    check(caught.value, 403, "account_suspended", "permission_error")


def test_404(options, server, client, account_client):
    """A missing agent and another tenant's look the same."""
    _, foreign = poor_account(server)
    bodies = []
    for any_client, model in (
        (account_client, "ag_00000000_0000"),
        (account_client, foreign),
        (client, foreign),
        (client, "gpt-4o"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            any_client.chat.completions.create(model=model, messages=[{"role": "user", "content": "plain"}])
        bodies.append(check(caught.value, 404, "model_not_found"))
    assert len({body["message"].replace(foreign, "X").replace("ag_00000000_0000", "X") for body in bodies[:3]}) == 1
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="x", input="y")
    assert caught.value.response.json()["error"]["code"] == "not_found"


def test_413(ask):
    with pytest.raises(openai.APIStatusError) as caught:
        ask("x" * 21_000_000)
    check(caught.value, 413, "request_too_large")


def test_429(options, server):
    account, agent = poor_account(server, balance="1.00", limits={"requests_per_minute": 1})
    client = with_key(options, account["key"])
    messages = [{"role": "user", "content": "plain"}]
    raw = client.chat.completions.with_raw_response.create(model=agent, messages=messages)
    assert raw.headers["x-ratelimit-limit-requests"] == "1"
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=agent, messages=messages)
    check(caught.value, 429, "rate_limit_exceeded", "requests")
    headers = caught.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert re.fullmatch(r"(\d+h)?(\d+m)?(\d+(\.\d+)?s|\d+ms)?", headers["x-ratelimit-reset-requests"])
    assert headers["x-ratelimit-limit"] == "1" and headers["x-ratelimit-remaining"] == "0"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    "script, status, code",
    [
        ("status 401", 502, "upstream_auth"),
        ("status 403", 502, "upstream_auth"),
        ("status 404", 502, "upstream_refused"),
        ("status 500", 502, "upstream_refused"),
        ("garbage", 502, "upstream_invalid"),
    ],
)
def test_502(ask, server, script, status, code, stream):
    before = server.balance()
    with pytest.raises(openai.InternalServerError) as caught:
        ask(script, stream=stream)
    check(caught.value, status, code, "server_error")
    assert "provider-secret" not in caught.value.response.text
    assert server.balance() == before


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_503_when_the_provider_limits_us(ask, stream):
    with pytest.raises(openai.InternalServerError) as caught:
        ask("status 429", stream=stream)
    check(caught.value, 503, caught.value.code, "server_error")
    assert caught.value.response.headers["retry-after"] == "7"


def test_503_when_nothing_listens(start, options):
    server = start(
        *("--provider-url", "http://127.0.0.1:1/v1", "--provider-key", "k", "--provider-model", "test-model"),
        *("--default-limits", "none"),
    )
    client = openai.OpenAI(**options | {"base_url": server.base_url, "api_key": server.info["agent_key"]})
    before = server.balance()
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=server.info["agent_id"], messages=[{"role": "user", "content": "plain"}])
    check(caught.value, 503, "upstream_unavailable", "server_error")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert server.balance() == before


@pytest.fixture(scope="module")
def impatient(start, upstream, tmp_path_factory):
    """A client of a server that waits for the provider no longer than a second."""
    settings = tmp_path_factory.mktemp("settings") / "switchboard.toml"
    settings.write_text(
        f"""
        [[providers]]
        name = "scripted"
        base_url = "{upstream.url}"
        api_key = "provider-secret"
        model = "demo"
        first_byte_timeout_s = 1
        chunk_timeout_s = 1
        total_timeout_s = 2
        """
    )
    server = start("--config", settings, "--default-limits", "none")
    with openai.OpenAI(base_url=server.base_url, api_key=server.info["agent_key"], max_retries=0) as client:
        yield server, client


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_504(impatient, upstream, stream):
    server, client = impatient
    before = server.balance()
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model=server.info["agent_id"], messages=[{"role": "user", "content": "silent"}], stream=stream
        )
    check(caught.value, 504, "upstream_timeout", "server_error")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert upstream.last.closed.wait(5), "the provider's call goes on"
    assert server.balance() == before


def test_stall_in_mid_stream(impatient, upstream):
    server, client = impatient
    text = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in client.chat.completions.create(
            model=server.info["agent_id"], messages=[{"role": "user", "content": "hold"}], stream=True
        ):
            text += chunk.choices[0].delta.content or ""
    assert caught.value.code == "upstream_timeout" and not isinstance(caught.value, openai.APIStatusError)
    assert text == "Hello from"
    assert upstream.last.closed.wait(5), "the provider's call goes on"
    (charge,) = server.charges(chunk.id)
    assert charge["output_tokens"] >= 1


def test_revoked_key(options, server, agent):
    made = server.account("POST", f"/v2/agents/{agent}/api-keys", {"name": "short-lived"})
    client = with_key(options, made["key"])
    assert client.models.retrieve(agent).id == agent
    server.account("DELETE", f"/v2/agents/{agent}/api-keys/{made['id']}")
    with pytest.raises(openai.AuthenticationError):
        client.models.retrieve(agent)


@pytest.mark.parametrize("script", ["fail", "cut"])
def test_failure_in_mid_stream(ask, script):
    """The status is long gone, so the error comes as an event, and the package raises it."""
    text, reasons = "", []
    with pytest.raises(openai.APIError) as caught:
        for chunk in ask(script, stream=True):
            text += chunk.choices[0].delta.content or ""
            reasons.append(chunk.choices[0].finish_reason)
    assert not isinstance(caught.value, openai.APIStatusError)
    assert text == "Hello from" and set(reasons) == {None}
    assert caught.value.code and caught.value.type == "server_error"


def test_temporary_failures_are_retried(options, agent):
    """The package asks again by itself where that may help."""
    requests = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: requests.append(request)]})
    client = openai.OpenAI(**options | {"max_retries": 1, "http_client": http})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=agent, messages=[{"role": "user", "content": "status 500 again"}])
    assert len(requests) == 2
