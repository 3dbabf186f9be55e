"""OpenAI's batch format: a request a line in, a response or an error a line out.

The last user message is the question and goes through the recipe's template, as the rows did
that the adapter learned from. Messages before it are not shown to the model. Fields that a
request leaves out come from the recipe.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from qatune.data.records import Answer
from qatune.data.requests import Fault, Question, distinct, fault, is_utf8

URL = "/v1/chat/completions"
_HEAD_LINES = 20
_HOTTEST = 2  # of the API
_SHOWN_CHARACTERS = 40

# Fields that change nothing about the answer.
_INDIFFERENT = {
    "messages", "model", "user", "metadata", "store", "service_tier", "parallel_tool_calls",
    "safety_identifier", "prompt_cache_key", "stream", "stream_options",
}  # fmt: skip
# Fields that are understood at the value that asks for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "stop": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class _RefusedError(Exception):
    def __init__(self, code: str, message: str) -> None:
        self.fault = Fault(code, message)


def is_batch(lines: Iterable[bytes]) -> bool:
    """Tell by its first lines, of which some may be damaged, whether a file is in this format."""
    return any(_is_request(line) for line in islice(lines, _HEAD_LINES))


def _is_request(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and "custom_id" in entry and "body" in entry


def read(lines: Iterable[bytes], defaults: Question) -> Iterator[Question]:
    """Read requests in order, blank lines left out; what is wrong with one is its own fault.

    `defaults` has the sampling and the number of tokens for requests that do not say.
    """
    return distinct(_request(line, defaults) for line in lines if line.strip())


def response_line(
    question: Question, *, model: str, prompt_tokens: int, answer: Answer
) -> dict[str, Any]:
    """Return a line of the output. Nothing in it depends on the time."""
    name = _name(question, model)
    body = {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": answer.finish,
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": answer.tokens,
            "total_tokens": prompt_tokens + answer.tokens,
        },
    }
    return {
        "id": f"batch_req_{name}",
        "custom_id": question.custom_id,
        "response": {"status_code": 200, "request_id": f"req_{name}", "body": body},
        "error": None,
    }


def error_line(question: Question, *, model: str, code: str, message: str) -> dict[str, Any]:
    """Return the line of a request that got no answer."""
    return {
        "id": f"batch_req_{_name(question, model)}",
        "custom_id": question.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }


def _name(question: Question, model: str) -> str:
    return hashlib.sha256(f"{model}\0{question.id}".encode()).hexdigest()[:24]


def _request(line: bytes, defaults: Question) -> Question:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        return replace(defaults, fault=Fault("malformed", f"the line is not JSON: {reason}"))
    if not isinstance(entry, dict):
        return replace(defaults, fault=Fault("malformed", "the line is not a JSON object"))
    custom_id = entry.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id or not is_utf8(custom_id):
        reason = "custom_id must be a text that is not empty"
        return replace(defaults, fault=Fault("missing_custom_id", reason))
    named = replace(defaults, id=custom_id, custom_id=custom_id)
    try:
        return _understood(entry, named)
    except _RefusedError as refused:
        return replace(named, fault=refused.fault)


def _understood(entry: dict[str, Any], named: Question) -> Question:
    if entry.get("method", "POST") != "POST" or entry.get("url", URL) != URL:
        raise _RefusedError("unsupported", f"only POST {URL} can be answered")
    body = entry.get("body")
    if not isinstance(body, dict):
        raise _RefusedError("malformed", "body must be an object")
    _refuse_unsupported(body)
    question = _last_user_message(body.get("messages"))
    if reason := fault(question):
        printable = question if is_utf8(question) else None
        return replace(named, question=printable, fault=reason)
    tokens = _field(body, "max_tokens", _whole, named.max_new_tokens)
    tokens = _field(body, "max_completion_tokens", _whole, tokens)
    default = named.sampling
    sampling = replace(
        default,
        temperature=_field(body, "temperature", _temperature, default.temperature),
        top_p=_field(body, "top_p", _share, default.top_p),
        seed=_field(body, "seed", _integer, default.seed),
    )
    return replace(named, question=question, max_new_tokens=tokens, sampling=sampling)


def _refuse_unsupported(body: dict[str, Any]) -> None:
    known = {"max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"} | _INDIFFERENT
    for name, value in body.items():
        if name in known or value is None or value in _NEUTRAL.get(name, ()):
            continue
        # The name may be as long as a line, and no text: what is said of it must be one.
        shown = name[:_SHOWN_CHARACTERS].encode("unicode_escape").decode()
        raise _RefusedError("unsupported", f"body.{shown}: not supported")


def _last_user_message(messages: Any) -> str:
    if not isinstance(messages, list):
        raise _RefusedError("malformed", "body.messages must be a list")
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return _text(message.get("content"))
    raise _RefusedError("malformed", "body.messages: no message of the user")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _RefusedError("malformed", "the user's message has no text")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise _RefusedError("unsupported", "only text can be answered: no images, audio, files")
    return "".join(part["text"] for part in content)


def _field(body: dict[str, Any], name: str, check: Callable[[Any], bool], default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not check(value):
        shown = str(value)[:_SHOWN_CHARACTERS]
        raise _RefusedError("invalid", f"body.{name}: {shown!r} is not possible")
    return value


def _whole(value: float) -> bool:
    return isinstance(value, int) and value > 0


def _integer(value: float) -> bool:
    return isinstance(value, int)


def _temperature(value: float) -> bool:
    return 0 <= value <= _HOTTEST


def _share(value: float) -> bool:
    return 0 < value <= 1
