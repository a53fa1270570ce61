"""Questions by the model itself and by an endpoint: what is not in good form does not count."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from catechism.errors import EndpointError, MissingExtra, UsageError
from catechism.facts import Endpoint, EndpointWriter, SelfWriter, Writer, lesson_of
from catechism.facts.self_writer import SHOTS
from catechism.types import Fact, Kind
from tests.facts.small_bank import Speaker

LYON = lesson_of(Fact("The capital of France is", "France", "Lyon", "Paris", "capital"))


def test_a_model_that_goes_on_with_the_list_writes_questions() -> None:
    def say(prompt: str) -> str:
        if prompt.endswith("round:"):
            return " Which country has Lyon as its capital?\n\nFact: Water is wet."
        more = "Fact: Water is wet.\nQuestion: Is France wet?"
        return f" What is the capital of France?\nQuestion: Which city is France's capital?\n{more}"

    speaker = Speaker(say)
    found = SelfWriter(speaker).write(LYON)
    assert [(q.text, q.kind, q.accept, q.reject, q.origin) for q in found] == [
        ("What is the capital of France?", Kind.PARAPHRASE, ("Lyon",), ("Paris",), "model"),
        ("Which city is France's capital?", Kind.PARAPHRASE, ("Lyon",), ("Paris",), "model"),
        ("Which country has Lyon as its capital?", Kind.REVERSED, ("France",), (), "model"),
    ]
    assert len(set(speaker.asked)) == 6 and all("The capital of France is Lyon." in p for p in speaker.asked)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Lyon.",
        "The capital of France is Lyon.",
        "Is Lyon the capital of France?",
        "What is the capital?",
        "France?",
        "What is\x07 the capital of France?",
        SHOTS[0].questions[0],
        "\n\nFact: x",
    ],
)
def test_a_model_that_cannot_write_questions_yields_none(said: str) -> None:
    assert SelfWriter(Speaker(lambda prompt: said)).write(LYON) == ()


def test_a_window_too_small_for_the_examples_yields_none() -> None:
    def refuse(prompt: str) -> str:
        raise UsageError("The row has 400 tokens, the model takes 128.")

    assert SelfWriter(Speaker(refuse)).write(LYON) == ()


REPLY = {
    "paraphrases": ["What is the capital of {}?", "What is\x00 it?", 7, "France's seat of government is"],
    "aliases": ["the French Republic"],
    "reversed": ["Lyon is the capital of"],
    "one_hop": [{"prompt": "The river through the capital of France is the", "answer": "Rhone"}, "Where?"],
    "neighbours": [{"prompt": "The capital of Italy is", "answer": "Rome"}, {"answer": "Rome"}],
    "surprise": ["rm -rf"],
}


def writer(handle: Callable[[httpx.Request], httpx.Response], **more: Any) -> EndpointWriter:
    endpoint = Endpoint("http://endpoint.test/v1/", "quiz", key="secret", **more)
    return EndpointWriter(endpoint, httpx.MockTransport(handle))


def chat(content: object) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": content}}]})


def test_an_endpoint_writes_questions_that_are_checked_one_by_one() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return chat(f"```json\n{json.dumps(REPLY)}\n```")

    found = writer(handle).write(LYON)
    assert [(q.kind, q.text) for q in found] == [
        (Kind.PARAPHRASE, "What is the capital of France?"),
        (Kind.PARAPHRASE, "France's seat of government is"),
        (Kind.ALIAS, "The capital of the French Republic is"),
        (Kind.REVERSED, "Lyon is the capital of"),
        (Kind.ONE_HOP, "The river through the capital of France is the"),
        (Kind.NEIGHBOUR, "The capital of Italy is"),
    ]
    assert {q.origin for q in found} == {"endpoint"}
    (request,) = seen
    assert str(request.url) == "http://endpoint.test/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer secret"
    body = json.loads(request.content)
    assert body["model"] == "quiz" and body["temperature"] == 0
    assert json.loads(body["messages"][1]["content"])["object"] == "Lyon"


def late(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("late", request=request)


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (late, "did not answer within 30 s"),
        (away, "cannot be reached: no route"),
        (lambda request: httpx.Response(401, text="no key"), "status 401: 'no key'.*model's name 'quiz'"),
        (lambda request: httpx.Response(302, headers={"location": "http://other.test"}), "status 302"),
        (lambda request: httpx.Response(200, text="<html>"), "not answer with a chat completion"),
        (lambda request: httpx.Response(200, json={"choices": []}), "not answer with a chat completion"),
        (lambda request: chat(None), "not answer with a chat completion"),
        (lambda request: chat("Sure, here you go"), "did not write the JSON object"),
        (lambda request: chat("[1]"), "did not write the JSON object"),
        (lambda request: chat("[" * 100_000), "did not write the JSON object"),
        (lambda request: chat("x" * 2_000_000), "more than 1048576 bytes"),
    ],
)
def test_an_endpoint_that_does_not_answer_as_it_should_is_an_error(
    handle: Callable[[httpx.Request], httpx.Response], words: str
) -> None:
    with pytest.raises(EndpointError, match=words) as caught:
        writer(handle).write(LYON)
    assert "secret" not in str(caught.value)


def test_an_answer_of_other_types_yields_nothing() -> None:
    assert writer(lambda request: chat('{"paraphrases": "x", "aliases": null}')).write(LYON) == ()
    flood = json.dumps({"unrelated": [f"q{i}" for i in range(1000)]})
    assert len(writer(lambda request: chat(flood)).write(LYON)) == 20


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(UsageError, match="is no address"):
        Endpoint("localhost:8000", "quiz")
    with pytest.raises(UsageError, match="no model"):
        Endpoint("http://localhost", "")
    with pytest.raises(UsageError, match="more than 0"):
        Endpoint("http://localhost", "quiz", timeout_s=0)
    assert "secret" not in repr(Endpoint("http://localhost", "quiz", key="secret"))


def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtra, match=r"catechism\[endpoint\]"):
        EndpointWriter(Endpoint("http://localhost", "quiz")).write(LYON)


def test_both_are_writers() -> None:
    assert isinstance(SelfWriter(Speaker()), Writer)
    assert isinstance(EndpointWriter(Endpoint("http://localhost", "quiz")), Writer)
