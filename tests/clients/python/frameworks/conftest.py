"""What the tests of all frameworks share: who is refused, and how often a client asks."""

import dataclasses

import openai
import pytest


@dataclasses.dataclass
class Refusal:
    """A call that is refused: who makes it, and what it comes to."""

    key: str
    model: str
    status: int
    code: str
    error: type
    max_retries: int = 0


@pytest.fixture(params=[401, 402, 404, 429])
def refusal(request, server):
    own, agent = server.info["agent_key"], server.info["agent_id"]
    match request.param:
        case 401:
            return Refusal("ak_" + "0" * 40, agent, 401, "invalid_api_key", openai.AuthenticationError)
        case 402:
            # The clients would try again twice, were they not told that it cannot help.
            key, model = server.tenant(balance="0.00001")
            return Refusal(key, model, 402, "insufficient_balance", openai.APIStatusError, max_retries=2)
        case 404:
            return Refusal(own, "ag_00000000_0000", 404, "model_not_found", openai.NotFoundError)
        case 429:
            key, model = server.tenant(balance="1.00", limits={"requests_per_minute": 1})
            body = {"model": model, "messages": [{"role": "user", "content": "plain"}]}
            assert server.call(key, "POST", "/v1/chat/completions", body)[0] == 200
            return Refusal(key, model, 429, "rate_limit_exceeded", openai.RateLimitError)


class Requests(list):
    """The HTTP requests that a client makes through `http` or `async_http`, those that it repeats included."""

    def __init__(self):
        async def later(request):
            self.append(request)

        self.http = openai.DefaultHttpxClient(event_hooks={"request": [self.append]})
        self.async_http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [later]})


@pytest.fixture
def requests():
    return Requests()

