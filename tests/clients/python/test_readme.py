"""The README's snippets, and those that the server prints on its first start, run as a user would run them.

A snippet of the README is tested if the line before its fence is `<!-- test: NAME -->`. In it, the default address
becomes the real one, and `ag_…`, `ak_…`, `sk_…`, `op_…`, `acct_…` (or `...` for the dots) become what the server
printed; the binary is on the path, and for `cargo run --release --` too. The README's snippets run in their order, in
one directory, where `data` is the server's.
"""

import os
import re
import socket
import stat
import subprocess
import sys
import textwrap

import pytest

from harness import BINARY, ROOT, Switchboard, clean_environment, nanos

README = ROOT / "README.md"
SNIPPET = re.compile(r"^<!-- test: (?P<name>[\w-]+) -->\n+```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
RUNNERS = {
    **dict.fromkeys(("sh", "bash", "shell"), ["bash", "-euo", "pipefail", "-c"]),
    "python": [sys.executable, "-c"],
    **dict.fromkeys(("js", "javascript"), ["node", "--input-type=module", "-e"]),
}
NODE_DIR = ROOT / "target/clients-js"  # where scripts/test puts the openai package for Node


def snippets():
    text = README.read_text() if README.exists() else ""
    return [(match["name"], match["language"], match["code"]) for match in SNIPPET.finditer(text)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A first start with no provider configured, where only the built-in one is left."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 11434)) == 0:
            pytest.skip("an Ollama runs here, so the server would take it and not the demo")
    server = Switchboard(tmp_path_factory.mktemp("readme"))
    yield server
    server.finish()


@pytest.fixture(scope="module")
def shell(demo):
    """Runs a snippet in the server's directory, with the binary as `switchboard` and behind `cargo run`."""
    tools = demo.directory / "bin"
    tools.mkdir()
    (tools / "switchboard").symlink_to(BINARY.resolve())
    cargo = tools / "cargo"
    cargo.write_text('#!/bin/sh\nwhile [ "$1" != "--" ]; do shift || exit 64; done\nshift\nexec switchboard "$@"\n')
    cargo.chmod(cargo.stat().st_mode | stat.S_IXUSR)
    environment = clean_environment() | {
        "PATH": os.pathsep.join([str(tools), os.path.dirname(sys.executable), os.environ["PATH"]]),
        "SWITCHBOARD_URL": demo.url,
        "NO_PROXY": "*",
    }

    def run(language, code):
        done = subprocess.run(
            [*RUNNERS[language], code],
            cwd=NODE_DIR if RUNNERS[language][0] == "node" else demo.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{code}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"it printed nothing:\n{code}\n{done.stderr}"
        assert '"error":{' not in done.stdout, f"curl was refused:\n{code}\n{done.stdout}"
        return done.stdout

    return run


def filled_in(code, server):
    code = code.replace("http://127.0.0.1:8080", server.url).replace("http://localhost:8080", server.url)
    code = code.replace("127.0.0.1:8080", server.url.removeprefix("http://"))
    values = {
        "ag": server.info["agent_id"],
        "ak": server.info["agent_key"],
        "sk": server.info["account_key"],
        "op": server.info["operator_token"],
        "acct": server.info["account_id"],
    }
    return re.sub(r"\b(ag|ak|sk|op|acct)_(?:…|\.\.\.)", lambda match: values[match[1]], code)


def test_the_readme_has_snippets():
    languages = {language for _, language, _ in snippets()}
    for wanted in ({"sh", "bash", "shell"}, {"python"}):
        assert wanted & languages, f"{README} has no tested {min(wanted)} snippet: <!-- test: NAME --> before its fence"
    assert languages <= set(RUNNERS), "a tested snippet is in a language that this test cannot run"


@pytest.mark.parametrize("name, language, code", snippets(), ids=lambda value: value if value and "\n" not in value else "")
def test_readme_snippet(name, language, code, demo, shell):
    shell(language, filled_in(code, demo))


def printed(demo):
    return demo.stdout.read_text()


def test_printed_curl_line(demo, shell):
    lines = printed(demo).splitlines()
    begin = next((n for n, line in enumerate(lines) if line.lstrip().startswith("curl ")), None)
    assert begin is not None, f"no curl line on the first start:\n{printed(demo)}"
    end = begin
    while lines[end].endswith("\\"):
        end += 1
    before = demo.balance()[2]
    answer = shell("bash", textwrap.dedent("\n".join(lines[begin : end + 1])))
    assert answer.rstrip().endswith("[DONE]")
    assert demo.balance()[2] < before, "the demo charges its small price"


def test_printed_python_snippet(demo, shell):
    lines = printed(demo).splitlines()
    begin = next((n for n, line in enumerate(lines) if "from openai import" in line or "import openai" in line), None)
    assert begin is not None, f"no Python snippet on the first start:\n{printed(demo)}"
    indent = len(lines[begin]) - len(lines[begin].lstrip())
    end = begin
    while end < len(lines) and lines[end].strip() and lines[end].startswith(" " * indent):
        end += 1
    before = demo.balance()[2]
    answer = shell("python", textwrap.dedent("\n".join(lines[begin:end])))
    assert "demonstration" in answer.lower()
    assert demo.balance()[2] < before, "the demo charges its small price"
    assert nanos(demo.account("GET", "/v2/billing/balance")["balance"]) > 0


def test_secrets_are_printed_once(demo, tmp_path_factory):
    """The second start on the same data says where it listens, and no key."""
    directory = tmp_path_factory.mktemp("twice")
    first = Switchboard(directory)
    secrets = [first.info[name] for name in ("agent_key", "account_key", "operator_token")]
    assert all(secret in first.stdout.read_text() for secret in secrets)
    first.finish()
    second = Switchboard(directory)
    try:
        assert not [secret for secret in secrets if secret in second.log()]
        assert second.info["agent_id"] == first.info["agent_id"]
        assert second.info["url"] and not {"agent_key", "account_key", "operator_token"} & set(second.info)
    finally:
        assert second.stop() == 0
