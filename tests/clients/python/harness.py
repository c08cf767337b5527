"""Starts the real binary as a user's script would, and talks to its management API."""

import http.client
import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = pathlib.Path(os.environ.get("SWITCHBOARD_BIN") or ROOT / "target/debug/switchboard")
PATIENCE = 30  # seconds; only a failing test waits that long


def until(condition, what, patience=PATIENCE):
    """Waits for `condition` to be true and returns its value."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"still not so after {patience} s: {what}"
        time.sleep(0.01)


def clean_environment():
    """This process's environment without what would configure the server or a client."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "SWITCHBOARD_")) and not name.lower().endswith("_proxy")
    }


class Switchboard:
    """One running server with a data directory of its own."""

    def __init__(self, directory, *options, env=None):
        assert BINARY.exists(), f"{BINARY} is not built; SWITCHBOARD_BIN names another"
        self.directory = pathlib.Path(directory)
        bootstrap = self.directory / "bootstrap.json"
        bootstrap.unlink(missing_ok=True)
        self.stdout = self.directory / "stdout.txt"
        self.stderr = self.directory / "stderr.txt"
        # Tests ask often for a failure in a row, and for each of them once.
        calm = "provider_retries = 0\nbreaker = { min_calls = 1000000 }\n"
        (self.directory / "switchboard.toml").write_text(calm)
        command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--data", self.directory / "data"]
        command += ["--bootstrap-json", bootstrap, *options]
        with open(self.stdout, "wb") as out, open(self.stderr, "wb") as err:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env=clean_environment() | (env or {}),
            )
        until(lambda: bootstrap.exists() or self.process.poll() is not None, "the server is ready")
        assert self.process.poll() is None, f"the server ended early:\n{self.log()}"
        self.info = json.loads(bootstrap.read_text())

    @property
    def url(self):
        return self.info["url"].rstrip("/")

    @property
    def base_url(self):
        return self.url + "/v1"

    def log(self):
        return (self.stdout.read_text() + self.stderr.read_text())[-4000:]

    def call(self, key, method, path, body=None):
        """One request with that key; returns status, headers (lower case) and the decoded body."""
        address = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
        headers = {"authorization": f"Bearer {key}"}
        if body is not None:
            body = json.dumps(body)
            headers["content-type"] = "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(content or b"null")

    def _expect(self, key, method, path, body):
        status, _, value = self.call(key, method, path, body)
        assert status in (200, 201, 204), f"{method} {path}: {status} {value}"
        return value

    def account(self, method, path, body=None):
        """With the account key, where success is expected."""
        return self._expect(self.info["account_key"], method, path, body)

    def admin(self, method, path, body=None):
        """With the operator's token, where success is expected."""
        return self._expect(self.info["operator_token"], method, path, body)

    def tenant(self, **settings):
        """A new account with an agent; its key and the agent's id."""
        key = self.admin("POST", "/admin/accounts", {"name": "tenant"} | settings)["key"]
        return key, self._expect(key, "POST", "/v2/agents", {"name": "a", "model": "test-model"})["id"]

    def balance(self):
        """Available, held and all, in nano-dollars."""
        money = self.account("GET", "/v2/billing/balance")
        return tuple(nanos(money[name]) for name in ("available", "held", "balance"))

    def charges(self, completion_id=None):
        """The charges so far, newest first."""
        rows = self.account("GET", "/v2/billing/transactions?limit=100")["transactions"]
        rows = [row for row in rows if row["kind"] == "charge"]
        return [row for row in rows if completion_id in (None, row.get("completion_id"))]

    def stop(self):
        """Asks it to end, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def finish(self):
        """The end of every test server: clean books, then a clean exit."""
        try:
            report = self.admin("GET", "/admin/ledger/verify")
            assert report["ok"] is True, report
        finally:
            code = self.stop()
        assert code == 0, f"exit code {code}:\n{self.log()}"


def nanos(amount):
    """A decimal string of dollars as whole nano-dollars."""
    whole, _, fraction = amount.lstrip("-").partition(".")
    value = int(whole) * 10**9 + int(fraction.ljust(9, "0"))
    return -value if amount.startswith("-") else value


def cost(prompt_tokens, output_tokens):
    """What a model without a known price costs: 1 USD in, 2 USD out per million tokens."""
    return prompt_tokens * 1000 + output_tokens * 2000
