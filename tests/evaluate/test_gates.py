from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from catechism.errors import BadPolicy
from catechism.evaluate import DEFAULT_GATES, METRICS, Gate, Report, Status, judge, read_policy, wilson
from catechism.evaluate.gates import SEVERITY
from catechism.types import Rate

DOCS = Path(__file__).parents[2] / "docs"


def report_of(errors: dict[str, str] | None = None, **metrics: Rate | float | None) -> Report:
    return Report(n_facts=1, metrics={**dict.fromkeys(METRICS), **metrics}, errors=errors or {})


def policy(folder: Path, text: str, name: str = "policy.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def status(report: Report, *gates: Gate) -> Status:
    return judge(report, gates).status


@pytest.mark.parametrize(
    ("value", "gate", "expected"),
    [
        (wilson(99, 100), Gate("efficacy", at_least=0.99), Status.PASS),
        (wilson(98, 100), Gate("efficacy", at_least=0.99), Status.FAIL),
        (wilson(1, 1), Gate("efficacy", at_least=0.99), Status.PASS),
        (wilson(4, 4), Gate("efficacy", at_least=0.99, min_n=5), Status.INCONCLUSIVE),
        (wilson(3, 4), Gate("efficacy", at_least=0.9, min_n=5), Status.INCONCLUSIVE),
        (wilson(0, 4), Gate("efficacy", at_least=0.99, min_n=5), Status.FAIL),
        (wilson(4, 4), Gate("efficacy", at_least=0.3, min_n=5), Status.PASS),
        (wilson(3, 100), Gate("efficacy", at_most=0.05), Status.PASS),
        (wilson(6, 100), Gate("efficacy", at_most=0.05), Status.FAIL),
        (wilson(6, 10), Gate("efficacy", at_least=0.5, at_most=0.55), Status.FAIL),
        (wilson(95, 100, before=0.97), Gate("efficacy", max_drop=0.02), Status.PASS),
        (wilson(94, 100, before=0.97), Gate("efficacy", max_drop=0.02), Status.FAIL),
        (wilson(94, 100), Gate("efficacy", max_drop=0.02), Status.INCONCLUSIVE),
        (None, Gate("efficacy", at_least=0.0), Status.INCONCLUSIVE),
    ],
)
def test_a_gate_judges_a_rate(value: Rate | None, gate: Gate, expected: Status) -> None:
    assert status(report_of(efficacy=value), gate) is expected


def test_a_gate_judges_a_plain_figure() -> None:
    gate = Gate("perplexity_ratio", at_most=1.05)
    assert status(report_of(perplexity_ratio=1.05), gate) is Status.PASS
    assert status(report_of(perplexity_ratio=1.06), gate) is Status.FAIL
    assert status(report_of({"perplexity_ratio": "it is nan"}), gate) is Status.ERROR
    assert status(report_of(perplexity_ratio=float("nan")), gate) is Status.ERROR


def test_the_worst_outcome_is_the_verdict() -> None:
    found = report_of({"reversed": "broken"}, efficacy=wilson(1, 1), alias=wilson(0, 9))
    gates = {
        Status.FAIL: Gate("alias", at_least=0.9),
        Status.ERROR: Gate("reversed", at_least=0.9),
        Status.INCONCLUSIVE: Gate("one_hop", at_least=0.9),
        Status.PASS: Gate("efficacy", at_least=0.9),
    }
    for i, worst in enumerate(SEVERITY):
        some = [gates[s] for s in reversed(SEVERITY[i:])]
        verdict = judge(found, some)
        assert verdict.status is worst
        assert {r.status for r in verdict.results} == set(SEVERITY[i:])
    assert [judge(found, [gates[s]]).exit_code for s in SEVERITY] == [1, 1, 5, 0]


def test_no_gates_and_no_data_never_pass() -> None:
    assert judge(report_of(efficacy=wilson(9, 9)), []).status is Status.INCONCLUSIVE
    assert judge(report_of()).status is Status.INCONCLUSIVE


def test_the_default_gates_pass_one_good_edit_and_fail_a_bad_one() -> None:
    good = report_of(
        efficacy=wilson(1, 1),
        paraphrase_mean=wilson(1, 1),
        paraphrase_worst=wilson(1, 1),
        locality_neighbour=wilson(10, 10),
        locality_unrelated=wilson(20, 20),
        perplexity_ratio=1.001,
    )
    assert judge(good).status is Status.PASS
    assert judge(replace(good, metrics={**good.metrics, "efficacy": wilson(0, 1)})).status is Status.FAIL
    few = replace(good, metrics={**good.metrics, "locality_unrelated": wilson(3, 3)})
    assert judge(few).status is Status.INCONCLUSIVE


def test_a_task_that_failed_is_an_error_of_its_metrics() -> None:
    found = report_of({"harness/arc_easy": "offline"})
    assert status(found, Gate("harness/arc_easy/acc", max_drop=0.01)) is Status.ERROR
    assert status(found, Gate("harness/arc/acc", max_drop=0.01)) is Status.INCONCLUSIVE


def test_a_verdict_is_json() -> None:
    row = json.loads(json.dumps(judge(report_of(efficacy=wilson(1, 1))).json(), allow_nan=False))
    assert row["status"] == "INCONCLUSIVE"
    assert row["gates"][0]["metric"] == "efficacy"
    assert row["gates"][0]["status"] == "PASS"
    assert row["gates"][1]["reason"] == "not measured"


def test_a_policy_is_read_from_toml_and_json(tmp_path: Path) -> None:
    toml = policy(
        tmp_path,
        "[gates.efficacy]\nat_least = 1\n[gates.perplexity_ratio]\nat_most = 1.1\n"
        '[gates."harness/arc_easy/acc"]\nmax_drop = 0.02\nmin_n = 100\n',
    )
    expected = (
        Gate("efficacy", at_least=1.0),
        Gate("perplexity_ratio", at_most=1.1),
        Gate("harness/arc_easy/acc", max_drop=0.02, min_n=100),
    )
    assert read_policy(toml) == expected
    table = {"gates": {"efficacy": {"at_least": 1}, "perplexity_ratio": {"at_most": 1.1},
                       "harness/arc_easy/acc": {"max_drop": 0.02, "min_n": 100}}}  # fmt: skip
    assert read_policy(policy(tmp_path, json.dumps(table), "policy.json")) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds nothing at its top"),
        ("[gates]", "holds no gate"),
        ("gates = 3", "must be a table"),
        ("[gates]\nefficacy = 0.9", "'efficacy' must be a table"),
        ("[gate.efficacy]\nat_least = 1", "'gate' at its top"),
        ("[gates.eficacy]\nat_least = 1", "Did you mean 'efficacy'"),
        ("[gates.zzz]\nat_least = 1", "Use one of: efficacy, "),
        ("[gates.efficacy]\natleast = 1", "Did you mean 'at_least'"),
        ("[gates.efficacy]\nat_least = '1'", "at_least of the gate on 'efficacy' must be a number, got '1'"),
        ("[gates.efficacy]\nat_least = true", "must be a number, got True"),
        ("[gates.efficacy]\nat_least = nan", "Set a number between 0 and 1"),
        ("[gates.efficacy]\nat_least = 99", "is 99.*Set a number between 0 and 1"),
        ("[gates.perplexity_ratio]\nat_most = inf", "Set a finite number"),
        ("[gates.perplexity_ratio]\nmax_drop = 0.1", "Use at_most"),
        ("[gates.efficacy]\nmin_n = 3", "has no bound"),
        ("[gates.efficacy]\nat_least = 1\nmin_n = 0", "Set 1 or more"),
        ("[gates.efficacy]\nat_least = 1\nmin_n = 1.5", "must be a whole number"),
        ("[gates.efficacy]\nat_least = 0.9\nat_most = 0.8", "which no value is"),
        ("[gates.efficacy\n", "is not TOML"),
    ],
)
def test_a_policy_that_cannot_be_used_says_what_to_write(tmp_path: Path, text: str, words: str) -> None:
    path = policy(tmp_path, text)
    with pytest.raises(BadPolicy, match=words) as caught:
        read_policy(path)
    assert str(path) in str(caught.value)


def test_a_policy_that_cannot_be_opened_or_decoded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match=re.escape("none.toml cannot be read")):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(BadPolicy, match="not UTF-8 at byte 6"):
        read_policy(tmp_path / "latin.toml")
    with pytest.raises(BadPolicy, match="is not JSON"):
        read_policy(policy(tmp_path, "{", "policy.json"))


def test_teacher_forced_magnitude_may_be_negative() -> None:
    assert Gate("tf_magnitude", at_least=-0.5).at_least == -0.5
    assert Gate("tf_magnitude", max_drop=1.5).max_drop == 1.5


def test_the_documented_default_policy_is_the_default(tmp_path: Path) -> None:
    page = (DOCS / "gates.md").read_text(encoding="utf-8")
    block = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
    assert read_policy(policy(tmp_path, block)) == DEFAULT_GATES
