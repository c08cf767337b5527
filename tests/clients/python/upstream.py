"""A scripted OpenAI-compatible provider. The first word of the last message says what it does; see `SCRIPTS`."""

import http.server
import json
import select
import socket
import threading

PROMPT_TOKENS = 10
WORDS = ["Hello", " from", " the", " model."]
TEXT = "".join(WORDS)


class Call:
    """One request that reached the provider."""

    def __init__(self, handler, body):
        self.path = handler.path
        self.headers = dict(handler.headers)
        self.body = body
        self.closed = threading.Event()  # the caller went away before the answer's end
        self.finished = threading.Event()

    @property
    def messages(self):
        return self.body["messages"]

    @property
    def prompt(self):
        return text_of(self.messages[-1])

    @property
    def said(self):
        """Role and text of each message without the instructions; the names of called tools in the place of text."""
        spoken = [m for m in self.messages if m["role"] not in ("system", "developer")]
        names = lambda m: [call["function"]["name"] for call in m.get("tool_calls") or []]
        return [(m["role"], names(m) or text_of(m)) for m in spoken]

    @property
    def roles(self):
        return [role for role, _ in self.said]


class Upstream:
    """Listens on 127.0.0.1 and remembers every call."""

    def __init__(self):
        self.calls = []
        owner = self

        class Handler(Conversation):
            calls = owner.calls

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return "http://127.0.0.1:%d/v1" % self.server.server_address[1]

    @property
    def last(self):
        return self.calls[-1]

    def about(self, prompt):
        """The calls whose last message is `prompt`."""
        return [call for call in self.calls if call.prompt == prompt]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def text_of(message):
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


class Conversation(http.server.BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    calls = []

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self):
        try:
            super().handle()
        except ConnectionError:  # a caller that left between two requests
            pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.call = Call(self, body)
        self.calls.append(self.call)
        word, *rest = self.call.prompt.split() or [""]
        script = SCRIPTS.get(word, plain)
        if self.call.messages[-1]["role"] == "tool":
            script = after_tools
        try:
            script(self, *rest)
            self.call.finished.set()
        except (BrokenPipeError, ConnectionResetError):
            self.call.closed.set()
            self.close_connection = True

    # What the scripts are made of.

    @property
    def streams(self):
        return self.call.body.get("stream", False)

    def json(self, status, value, **headers):
        payload = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        for name, content in headers.items():
            self.send_header(name.replace("_", "-"), content)
        self.end_headers()
        self.wfile.write(payload)

    def open_stream(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def raw(self, payload):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload))

    def event(self, value):
        self.raw(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")

    def delta(self, delta, finish=None, index=0, **more):
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None} | more
        self.event(envelope("chat.completion.chunk") | {"choices": [choice]})

    def close_stream(self, output_tokens):
        if (self.call.body.get("stream_options") or {}).get("include_usage"):
            self.event(envelope("chat.completion.chunk") | {"choices": [], "usage": usage(output_tokens)})
        self.event(b"[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, pieces, finish="stop", **message):
        """One choice whose text is `pieces`, in the form that was asked for; a token for each piece."""
        if self.streams:
            self.open_stream()
            self.delta({"role": "assistant", "content": ""})
            for piece in pieces:
                self.delta({"content": piece})
            if message:
                self.delta(message)
            self.delta({}, finish)
            self.close_stream(len(pieces))
        else:
            self.completion([choice("".join(pieces), finish, **message)], len(pieces))

    def completion(self, choices, output_tokens):
        self.json(200, envelope("chat.completion") | {"choices": choices, "usage": usage(output_tokens)})

    def until_closed(self):
        """Blocks until the caller hangs up."""
        select.select([self.connection], [], [], 120)
        if self.connection.recv(1, socket.MSG_PEEK) == b"":
            self.call.closed.set()
        self.close_connection = True


def envelope(kind):
    return {
        "id": "chatcmpl-upstream",
        "object": kind,
        "created": 1700000000,
        "model": "secret-model-name",
        "system_fingerprint": "fp_scripted",
    }


def usage(output_tokens):
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": output_tokens,
        "total_tokens": PROMPT_TOKENS + output_tokens,
    }


def choice(text, finish="stop", index=0, **message):
    return {
        "index": index,
        "finish_reason": finish,
        "logprobs": None,
        "message": {"role": "assistant", "content": text, "refusal": None} | message,
    }


# The scripts.


def plain(it, *_):
    it.answer(WORDS)


def echo(it, *words):
    it.answer([word + " " for word in words])


def extras(it, *_):
    it.answer(WORDS, reasoning_content="thinking hard", x_vendor={"score": 7})


def as_json(it, *_):
    it.answer(['{"city":', ' "Oslo",', ' "degrees":', " 18}"])


def tools(it, count="1"):
    """Calls `lookup`, once or several times at once."""
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": "lookup", "arguments": f'{{"q":"tea {n}"}}'}}
        for n in range(int(count))
    ]
    if not it.streams:
        it.completion([choice(None, "tool_calls", tool_calls=calls)], 6)
        return
    it.open_stream()
    it.delta({"role": "assistant", "content": None})
    for n, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        it.delta({"tool_calls": [{**call, "index": n, "function": {"name": name, "arguments": ""}}]})
        for piece in (arguments[:4], arguments[4:]):
            it.delta({"tool_calls": [{"index": n, "function": {"arguments": piece}}]})
    it.delta({}, "tool_calls")
    it.close_stream(6)


def after_tools(it, *_):
    said = [text_of(message) for message in it.call.messages if message["role"] == "tool"]
    it.answer(["The tool said: ", ", ".join(said)])


def choices(it, *_):
    count = it.call.body.get("n", 1)
    if not it.streams:
        it.completion([choice(f"choice {n}", index=n) for n in range(count)], 2 * count)
        return
    it.open_stream()
    for n in range(count):
        it.delta({"role": "assistant", "content": ""}, index=n)
    for n in range(count):
        it.delta({"content": f"choice {n}"}, index=n)
        it.delta({}, "stop", index=n)
    it.close_stream(2 * count)


def bare(it, *_):
    """What a provider sends that leaves out all that it can."""
    if not it.streams:
        it.json(200, {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})
        return
    it.open_stream()
    it.event({"choices": [{"delta": {"content": "Hi"}}]})
    it.event({"choices": [{"finish_reason": "stop"}]})
    it.wfile.write(b"0\r\n\r\n")


def interleaved(it, *_):
    """Two choices at once, both in one chunk."""
    if not it.streams:
        it.completion([choice("one", index=0), choice("two", "length", index=1)], 2)
        return
    it.open_stream()
    for texts in (("", ""), ("o", "t"), ("ne", "wo")):
        pieces = [{"index": n, "delta": {"content": text}, "finish_reason": None} for n, text in enumerate(texts)]
        it.event(envelope("chat.completion.chunk") | {"choices": pieces})
    it.delta({}, "length", index=1)
    it.delta({}, "stop", index=0)
    it.close_stream(2)


def refusal(it, *_):
    it.answer([], "stop", refusal="I cannot do that.", content=None)


def cited(it, *_):
    """Everything that OpenAI's answers may hold beside text."""
    where = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 5, "title": "t", "url": "https://x.test"}}
    if it.streams:
        it.answer(WORDS)
        return
    whole = envelope("chat.completion") | {"choices": [choice(TEXT, annotations=[where])], "service_tier": "default"}
    counts = usage(4) | {
        "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 1, "accepted_prediction_tokens": 0},
    }
    it.json(200, whole | {"usage": counts})


def logprobs(it, *_):
    scores = {"content": [{"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}], "refusal": None}
    if not it.streams:
        it.completion([choice("Hi") | {"logprobs": scores}], 1)
        return
    it.open_stream()
    it.delta({"role": "assistant", "content": ""})
    it.delta({"content": "Hi"}, logprobs=scores)
    it.delta({}, "stop")
    it.close_stream(1)


def status(it, code, *_):
    """Refuses with that status."""
    more = {"retry_after": "7"} if code in ("429", "503") else {}
    it.json(int(code), {"error": {"message": f"refused with {code}", "type": "x", "param": "temperature", "code": None}}, **more)


def garbage(it, *after):
    if it.streams:
        two_words(it) if after else it.open_stream()
        it.event(b"{this is not json")
        it.wfile.write(b"0\r\n\r\n")
    else:
        it.json(200, b"<html>this is not json")


def fail(it, *_):
    """Two words, then an error event. Only for streams."""
    two_words(it)
    it.event({"error": {"message": "the model broke", "type": "server_error", "param": None, "code": None}})
    it.wfile.write(b"0\r\n\r\n")


def cut(it, *_):
    """Two words, then the connection breaks. Only for streams."""
    two_words(it)
    it.close_connection = True


def hold(it, *_):
    """Two words (of a stream), then nothing until the caller goes away."""
    if it.streams:
        two_words(it)
    it.until_closed()


def silent(it, *_):
    it.until_closed()


def two_words(it):
    it.open_stream()
    it.delta({"role": "assistant", "content": ""})
    for word in WORDS[:2]:
        it.delta({"content": word})


SCRIPTS = {
    "echo": echo,
    "extras": extras,
    "json": as_json,
    "tools": tools,
    "choices": choices,
    "bare": bare,
    "interleaved": interleaved,
    "refusal": refusal,
    "cited": cited,
    "logprobs": logprobs,
    "status": status,
    "garbage": garbage,
    "fail": fail,
    "cut": cut,
    "hold": hold,
    "silent": silent,
}
