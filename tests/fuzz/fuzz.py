"""Holds a running server to its own /openapi.json with Schemathesis.

python tests/fuzz/fuzz.py [SECONDS] [SEED]
"""

import http.client
import json
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients/python"))

from harness import Switchboard  # noqa: E402
from upstream import Upstream  # noqa: E402

CHECKS = (
    "status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance,"
    "no_defect,errors_have_one_body"
)
SECRETS_KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
MANY = 40  # things to delete, of each kind


def streamed(server, chat):
    """The id of a completion whose stream can be taken up."""
    address = urllib.parse.urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    headers = {"authorization": f"Bearer {server.info['account_key']}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(chat | {"stream": True}), headers)
    answer = connection.getresponse()
    assert answer.read().endswith(b"\n\n")
    connection.close()
    return answer.headers["x-completion-id"]


def known(server):
    """Keys, and ids of things that exist; what is deleted is not what the rest needs."""
    own = server.info["agent_id"]

    def made(path, body):
        return [server.account("POST", path, body)["id"] for _ in range(MANY)]

    agents = made("/v2/agents", {"name": "an agent"})
    keys_of_agent = made(f"/v2/agents/{own}/api-keys", {"name": "a key"})
    reading = {"name": "reads", "scopes": ["chat", "sessions:read"]}
    sessions = made("/v2/sessions", {"agent_id": own})
    messages = [{"role": "user", "content": "Hello"}]
    chat = {"model": own, "session_id": sessions[0], "messages": messages}
    completion = streamed(server, chat)
    webhook = {"url": "http://127.0.0.1:1/hook", "events": ["balance.low"]}
    webhooks = [server.account("POST", "/v2/webhooks", webhook)["id"] for _ in range(5)]
    server.account("PUT", "/v2/account/providers/mine", {"api_key": "a-key", "base_url": "https://example.com/v1"})
    account = server.admin("POST", "/admin/accounts", {"name": "another", "balance": "5.00"})["id"]
    closing = [server.admin("POST", "/admin/accounts", {"name": "closes"})["id"] for _ in range(5)]
    return {
        "keys": {
            "agentKey": server.account("POST", f"/v2/agents/{own}/api-keys", reading)["key"],
            "accountKey": server.info["account_key"],
            "operatorToken": server.info["operator_token"],
        },
        # By method and what stands before the part of the path; without a method, for all others.
        "ids": {
            "agents": [own],
            "DELETE agents": agents[MANY // 2 :],
            "PATCH agents": agents[: MANY // 2],
            "models": [own],
            "sessions": sessions[:3],
            "DELETE sessions": sessions[3:],
            "PATCH sessions": sessions[3:],
            "chats": sessions[:3],
            "DELETE chats": sessions[3:],
            "accounts": [account],
            "DELETE accounts": closing,
            "webhooks": webhooks,
            "api-keys": keys_of_agent,
            "account api-keys": made("/v2/account/api-keys", {"name": "a key"}),
            "explain": [completion],
            "completions": [completion],
            "providers": ["mine"],
        },
    }


def show(answers):
    """Tells how often each call answered what. One that never succeeded was not tested."""
    for call, statuses in sorted(answers.items()):
        print(f"{call:55}", *(f"{status}: {count}" for status, count in sorted(statuses.items())))
    never = [call for call, statuses in answers.items() if not statuses.keys() & {"200", "201", "204"}]
    assert not never, f"these never succeeded, so nothing is known of them: {never}"


def main(seconds, seed):
    print(f"seed {seed}, {seconds} s", flush=True)
    upstream = Upstream()
    with tempfile.TemporaryDirectory() as directory:
        server = Switchboard(
            directory,
            *("--provider-url", upstream.url),
            *("--provider-key", "provider-secret"),
            *("--provider-model", "test-model"),
            *("--default-limits", "none"),
            "--allow-private-webhooks",
            env={"SWITCHBOARD_SECRETS_KEY": SECRETS_KEY, "SWITCHBOARD_FAILED_LOGINS_PER_MINUTE": "0"},
        )
        answers = pathlib.Path(directory) / "answers.json"
        try:
            server.admin(
                "POST",
                f"/admin/accounts/{server.info['account_id']}/credit",
                {"amount": "1000000.00", "external_ref": "fuzz"},
            )
            ran = subprocess.run(
                [
                    *(pathlib.Path(sys.executable).parent / "schemathesis", "run", f"{server.url}/openapi.json"),
                    *("--checks", CHECKS),
                    *("--phases", "examples,coverage,fuzzing"),
                    *("--workers", "1", "--max-time", str(seconds), "--seed", str(seed)),
                    *("--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off"),
                    *("--request-timeout", "20", "--no-color", "--continue-on-failure"),
                ],
                cwd=directory,
                env=os.environ
                | {
                    "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py"),
                    "FUZZ_KNOWN": json.dumps(known(server)),
                    "FUZZ_SEED": str(seed),
                    "FUZZ_ANSWERS": str(answers),
                },
            )
            log = server.stderr.read_text()
            assert "panicked" not in log, f"something panicked:\n{log[-4000:]}"
            errors = [line for line in log.splitlines() if " ERROR switchboard" in line]
            assert not errors, "the log tells of errors:\n" + "\n".join(errors)
            show(json.loads(answers.read_text()))
        finally:
            server.finish()
            upstream.stop()
    return ran.returncode


if __name__ == "__main__":
    seconds, seed = (sys.argv[1:] + ["75", "20261126"][len(sys.argv) - 1 :])[:2]
    sys.exit(main(int(seconds), secrets.randbelow(2**31) if seed == "random" else int(seed)))
