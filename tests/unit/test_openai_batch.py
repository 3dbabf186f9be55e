import json

import pytest

from qatune.data import openai_batch
from qatune.data.records import Answer
from qatune.data.requests import Question, Sampling

DEFAULTS = Question("", None, 64, Sampling(0.0, 0.9, 5, 42))


def line(custom_id="a", content="What?", **changes):
    body = {"model": "any", "messages": [{"role": "user", "content": content}]}
    body |= changes.pop("body", {})
    entry = {"custom_id": custom_id, "method": "POST", "url": openai_batch.URL, "body": body}
    return json.dumps({**entry, **changes}).encode()


def read(*lines):
    return list(openai_batch.read(lines, DEFAULTS))


def test_defaults_come_from_the_recipe():
    assert read(line()) == [Question("a", "What?", 64, Sampling(0.0, 0.9, 5, 42), custom_id="a")]


def test_a_request_says_how_to_answer():
    body = {
        "temperature": 0.7,
        "top_p": 0.5,
        "seed": 3,
        "max_tokens": 9,
        "max_completion_tokens": 8,
    }
    (row,) = read(line(body=body))
    assert (row.max_new_tokens, row.sampling) == (8, Sampling(0.7, 0.5, 5, 3))
    assert row.fault is None


def test_the_last_user_message_is_the_question():
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "a"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "la"}, {"type": "text", "text": "st"}],
        },
    ]
    assert read(line(body={"messages": messages}))[0].question == "last"


def test_blank_lines_are_no_rows():
    assert [row.id for row in read(b"\n", line("a"), b"  \r\n", line("b"))] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"n": 2}, "unsupported"),
        ({"tools": [{"type": "function"}]}, "unsupported"),
        ({"stop": ["\n"]}, "unsupported"),
        ({"frequency_penalty": 0.5}, "unsupported"),
        ({"something_new": 1}, "unsupported"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "unsupported"),
        ({"messages": [{"role": "system", "content": "x"}]}, "malformed"),
        ({"messages": [{"role": "user"}]}, "malformed"),
        ({"messages": "x"}, "malformed"),
        ({"max_tokens": 0}, "invalid"),
        ({"max_tokens": 1.5}, "invalid"),
        ({"max_tokens": True}, "invalid"),
        ({"temperature": -1}, "invalid"),
        ({"temperature": 10**400}, "invalid"),
        ({"temperature": float("nan")}, "invalid"),
        ({"top_p": 0}, "invalid"),
        ({"seed": "x"}, "invalid"),
    ],
)
def test_what_cannot_be_done_is_that_rows_own_error(body, code):
    refused, fine = read(line("bad", body=body), line("good"))
    assert (refused.id, refused.fault.code, fine.fault) == ("bad", code, None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (" \n", "empty_question"),
        ("a\x00b", "control_characters"),
        ("\x1b[2J", "control_characters"),
        ("\ud800", "undecodable"),
    ],
)
def test_a_question_that_is_none(text, code):
    (row,) = read(line(content=text))
    assert row.fault.code == code
    json.dumps([row.question, row.fault.message], ensure_ascii=False).encode()


def test_neutral_values_ask_for_nothing():
    body = {"n": 1, "tools": [], "stop": None, "logprobs": False, "stream": False, "user": "me"}
    assert read(line(body=body))[0].fault is None


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b"3", "malformed"),
        (line(custom_id=None), "missing_custom_id"),
        (line(custom_id=""), "missing_custom_id"),
        (line(custom_id=7), "missing_custom_id"),
        (line(custom_id="\ud800"), "missing_custom_id"),
        (line(custom_id="a"), "duplicate_id"),
    ],
)
def test_a_line_without_a_name_of_its_own_gets_one(raw, code):
    first, nameless, last = read(line("a"), raw, line("row-2"))
    assert (first.fault, nameless.id, nameless.fault.code) == (None, "row-2", code)
    assert last.id == "row-3"  # the name is taken: it can be nobody else's
    assert last.fault.code == "duplicate_id"
    assert len({first.id, nameless.id, last.id}) == 3


def test_another_method_or_endpoint_is_refused():
    rows = read(line("a", url="/v1/embeddings"), line("b", method="GET"))
    assert [row.fault.code for row in rows] == ["unsupported"] * 2


def test_output_has_the_apis_shape_and_no_time():
    (row,) = read(line("one"))
    answer = Answer("Hé.", 4, "stop", None)
    written = openai_batch.response_line(row, model="m", prompt_tokens=3, answer=answer)
    assert written == openai_batch.response_line(row, model="m", prompt_tokens=3, answer=answer)
    assert list(written) == ["id", "custom_id", "response", "error"]
    assert (written["custom_id"], written["error"]) == ("one", None)
    assert written["response"]["status_code"] == 200
    body = written["response"]["body"]
    assert (body["object"], body["created"], body["model"]) == ("chat.completion", 0, "m")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hé."},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_a_failed_row_has_an_error_and_no_response():
    (row,) = read(b"{")
    written = openai_batch.error_line(row, model="m", code="c", message="m")
    assert (written["custom_id"], written["response"]) == (None, None)
    assert written["error"] == {"code": "c", "message": "m"}


def test_the_first_lines_tell_the_format():
    assert openai_batch.is_batch([b"{damaged", line()])
    assert not openai_batch.is_batch([b'{"question": "a"}', b"question,answer", b"[", b""])
    assert not openai_batch.is_batch([b"{}"] * 100 + [line()])
