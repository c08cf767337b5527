import openai
import pytest

from harness import Switchboard
from upstream import Upstream


@pytest.fixture(scope="session")
def upstream():
    provider = Upstream()
    yield provider
    provider.stop()


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts further servers: `start(*options)`; all are checked and stopped at the end."""
    servers = []

    def start(*options, **more):
        servers.append(Switchboard(tmp_path_factory.mktemp("switchboard"), *options, **more))
        return servers[-1]

    yield start
    faults = []
    for server in servers:
        try:
            server.finish()
        except Exception as fault:  # one bad server must not leave the others running
            faults.append(fault)
    if faults:
        raise faults[0]


@pytest.fixture(scope="session")
def server(start, upstream):
    """The server that most tests share."""
    return start(
        *("--provider-url", upstream.url),
        *("--provider-key", "provider-secret"),
        *("--provider-model", "test-model"),
        *("--default-limits", "none"),
    )


@pytest.fixture(scope="session")
def options(server):
    """How an OpenAI client is pointed at the agent."""
    return {
        "base_url": server.base_url,
        "api_key": server.info["agent_key"],
        "timeout": 60,
        "max_retries": 0,
    }


@pytest.fixture
def client(options):
    with openai.OpenAI(**options) as client:
        yield client


@pytest.fixture
def account_client(server, options):
    """With the account key, which may see money."""
    with openai.OpenAI(**options | {"api_key": server.info["account_key"]}) as client:
        yield client


@pytest.fixture
def agent(server):
    return server.info["agent_id"]


@pytest.fixture
def ask(client, agent):
    """One chat call: `ask("text", **anything)`."""

    def ask(text, **more):
        more = {"model": agent, "messages": [{"role": "user", "content": text}]} | more
        return client.chat.completions.create(**more)

    return ask
