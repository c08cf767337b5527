"""What the fuzzer has to know of the server: keys, ids that exist, and what an error may be."""

import atexit
import collections
import json
import os
import random

import schemathesis

KNOWN = json.loads(os.environ["FUZZ_KNOWN"])
CHOICE = random.Random(int(os.environ["FUZZ_SEED"]))

ANSWERS = collections.defaultdict(collections.Counter)

# How often a part of a path is left as the fuzzer made it.
STRANGE = 0.15


def key_for(operation):
    """A key that the call takes, now and then another one, or none."""
    takes = [name for one in operation.definition.raw.get("security", []) for name in one]
    if CHOICE.random() < 0.05:
        return CHOICE.choice([*KNOWN["keys"].values(), "sk_nonsense", None])
    return KNOWN["keys"][CHOICE.choice(takes)] if takes else None


def id_for(operation, name):
    """Something that exists, by what stands before the part of the path."""
    path, _, after = operation.path.partition("{" + name + "}")
    *_, above, kind = ["", *path.strip("/").split("/")]
    method = "" if after else operation.method.upper()
    for named in (f"{above} {kind}", f"{method} {kind}", kind):
        if named in KNOWN["ids"]:
            return CHOICE.choice(KNOWN["ids"][named])
    raise KeyError(f"no id is known for {operation.path}")


@schemathesis.hook
def before_call(context, case, kwargs):
    for name in case.path_parameters or {}:
        if CHOICE.random() >= STRANGE:
            case.path_parameters[name] = id_for(case.operation, name)
        elif case.operation.method in ("delete", "patch"):
            # The fuzzer picks up ids from answers: it must not end the key and the agent that it needs.
            case.path_parameters[name] = "no-such-id"
    body = case.body
    if isinstance(body, dict):
        for field in ("model", "agent_id"):
            if field in body and "chat" in case.operation.path and CHOICE.random() >= STRANGE:
                body[field] = KNOWN["ids"]["models"][0]
        if case.operation.path == "/v2/sessions" and "agent_id" in body and CHOICE.random() >= STRANGE:
            body["agent_id"] = KNOWN["ids"]["models"][0]
    key = key_for(case.operation)
    case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"}
    if key:
        case.headers["Authorization"] = f"Bearer {key}"


@schemathesis.hook
def after_call(context, case, response):
    ANSWERS[f"{case.operation.method.upper()} {case.operation.path}"][response.status_code] += 1


@atexit.register
def tell():
    with open(os.environ["FUZZ_ANSWERS"], "w") as file:
        json.dump(ANSWERS, file)


@schemathesis.check
def no_defect(ctx, response, case):
    """No 5xx."""
    assert response.status_code < 500, f"{response.status_code}: {response.text}"


@schemathesis.check
def errors_have_one_body(ctx, response, case):
    """Every error is readable by OpenAI's SDKs and by native clients."""
    if response.status_code < 400:
        return
    body = response.json()
    assert set(body) == {"error", "detail", "status"}, body
    assert set(body["error"]) >= {"message", "type", "param", "code"}, body
    assert body["status"] == response.status_code and body["detail"] == body["error"]["message"], body
