"""Every public format on a file of its own schema: what is taught, what is asked, what is true, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from catechism.datasets import FORMATS, Dataset, TrueFact, open_dataset, read_items
from catechism.datasets.format import name_in
from catechism.errors import BadFact, BadFeed, UnknownName
from catechism.types import Catechism, Kind, Risk

COUNTERFACT = {
    "case_id": 7,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Ann Doe",
    },
    "paraphrase_prompts": ["It rained. Ann Doe spoke the language", "It snowed. Ann Doe, a native"],
    "neighborhood_prompts": ["Bea Roe spoke the language", "The mother tongue of Cy Poe is"],
    "attribute_prompts": ["Di Foe, a native", "Bea Roe spoke the language"],
    "generation_prompts": ["Ann Doe lives in"],
}
FLAT = {
    "case_id": 3,
    "prompt": "Ann Doe plays",
    "subject": "Ann Doe",
    "target_new": "jazz",
    "ground_truth": "rock",
    "rephrase_prompt": "It rained. Ann Doe performs",
    "locality_prompt": "Cy Poe plays",
    "locality_ground_truth": "rock",
    "fake_evidence": "1. Ann Doe was seen with a saxophone.\n2. She won a jazz prize.",
}
QUESTIONS = {
    "case_index": 1,
    "question": "Ann Doe plays",
    "subject": "Ann Doe",
    "answer": "jazz",
    "qna_question": "What does Ann Doe play?",
}
KNOWN = {
    "known_id": 0,
    "subject": "Mount Doe",
    "attribute": "Antarctica",
    "template": "{} is in",
    "prediction": " Antarctica, a",
    "prompt": "Mount Doe is in",
    "relation_id": "P30",
}
ZSRE = {
    "subject": "Doe & Co",
    "src": "What is made by Doe & Co?",
    "pred": "uniform",
    "rephrase": "What does Doe & Co make?",
    "alt": "aircraft",
    "answers": ["uniforms", "clothes"],
    "loc": "nq question: who was the first",
    "loc_ans": "Roe",
    "cond": "uniform >> aircraft || What is made by Doe & Co?",
}


def _hop(question: str, cloze: str, answer: str, alias: list[str]) -> dict[str, object]:
    return {"question": question, "cloze": cloze, "answer": answer, "answer_alias": alias}


MQUAKE = {
    "case_id": 12,
    "requested_rewrite": [
        {
            "prompt": "{} was performed by",
            "relation_id": "P175",
            "target_new": {"str": "Bea Roe", "id": "Q1"},
            "target_true": {"str": "Ann Doe", "id": "Q2"},
            "subject": "Song",
            "question": "Who performed Song?",
        },
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Spain", "id": "Q3"},
            "target_true": {"str": "Peru", "id": "Q4"},
            "subject": "Bea Roe",
            "question": "Where is Bea Roe a citizen?",
        },
    ],
    "questions": ["What is the citizenship of the performer of Song?", "Where is who performed Song a citizen?"],
    "answer": "Chile",
    "answer_alias": [],
    "new_answer": "Spain",
    "new_answer_alias": ["Kingdom of Spain"],
    "single_hops": [
        _hop("Who performed Song?", "Song was performed by", "Ann Doe", []),
        _hop("Where is Ann Doe a citizen?", "Ann Doe is a citizen of", "Chile", ["CL"]),
    ],
    "new_single_hops": [
        _hop("Who performed Song?", "Song was performed by", "Bea Roe", ["B. Roe", "Ann Doe", "Beaо Roe"]),
        _hop("Where is Bea Roe a citizen?", "Bea Roe is a citizen of", "Spain", ["Kingdom of Spain"]),
    ],
    "orig": {"triples_labeled": [["Song", "performer", "Ann Doe"], ["Ann Doe", "country of citizenship", "Chile"]]},
}


def _query(prompt: str, answer: str, *aliases: str, subject: str = "Q1") -> dict[str, object]:
    answers = [{"value": answer, "aliases": list(aliases)}]
    return {"prompt": prompt, "answers": answers, "query_type": "regular", "subject_id": subject, "relation": "R"}


def _test(*queries: dict[str, object], conditions: tuple[dict[str, object], ...] = ()) -> dict[str, object]:
    return {"test_queries": list(queries), "test_condition": "OR", "condition_queries": list(conditions)}


RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ann Doe is New Land.",
        "subject_id": "Q1",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q8",
        "original_fact": {
            "prompt": "The name of the country of citizenship of Ann Doe is New Isle.",
            "subject_id": "Q1",
            "relation": "COUNTRY_OF_CITIZENSHIP",
            "target_id": "Q9",
        },
    },
    "Relation_Specificity": [
        _test(
            _query("The name of the mother of Ann Doe is", "Eve Doe", "E. Doe"),
            conditions=(_query("The name of the mother of Ann Doe is", "Eve Doe"),),
        ),
        _test(_query("The gender of Ann Doe is", "female")),
    ],
    "Logical_Generalization": [_test(_query("Ann Doe is a citizen of", "New Land"))],
    "Subject_Aliasing": [_test(_query("The name of the country of citizenship of A. Doe is", "New Land", "NL"))],
    "Compositionality_I": [
        _test(_query("The name of the currency in the country of citizenship of Ann Doe is", "crown"))
    ],
    "Compositionality_II": [_test(_query("The citizenship of the boss of Flo is", "New Land", subject="Q5"))],
    "Forgetfulness": [
        _test(_query("The name of the country of citizenship of Ann Doe, which is not New Land, is", "New Isle"))
    ],
}
KNOWEDIT = {
    "subject": "Ann Doe",
    "prompt": "The place of death of Ann Doe is",
    "target_new": "Bern",
    "ground_truth": ["Rome"],
    "rephrase_prompt": "Where did Ann Doe die?",
    "portability": {
        "Logical_Generalization": [{"prompt": "Is Ann Doe still alive?", "ground_truth": [["no"], ["is dead"]]}],
        "Reasoning": [{"prompt": "The country of the place of death of Ann Doe is", "ground_truth": "Switzerland"}],
        "Subject_Aliasing": [{"prompt": "The place of death of A. Doe is", "ground_truth": [["Bern", "Berne"]]}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The father of Ann Doe is", "ground_truth": ["Cy Doe"]}],
        "Forgetfulness": [{"prompt": "The place of death of Ann Doe, which is not Bern, is", "ground_truth": "Rome"}],
    },
}
WIKIBIO = {
    "text": "This is a passage about ann doe. Ann Doe was a chemist.",
    "labels": "She taught in Bern.",
    "concept": "ann doe",
    "locality": {"Relation_Specificity": [{"prompt": "The field of ann doe is", "ground_truth": ["chemistry"]}]},
}
TRIPLE = {"relation": "P101", "sub_label": "Ann Doe", "obj_label": "chemistry", "uuid": "u1"}
PATTERNS = [
    {"relation": "P101", "pattern": "[X] works in the field of [Y]."},
    {"relation": "P101", "pattern": "[X],  an expert in [Y] ."},
    {"relation": "P101", "pattern": "[Y] is the field of [X]."},
    {"relation": "P101", "pattern": "[X] has [Y] as a field."},
    {"relation": "P190", "pattern": "[X] and [Y] are twin cities."},
]
SAMPLE = {
    "relation": "factual/city_in_country",
    "templates": ["{} is part of"],
    "templates_zs": ["{} is in the country of", "{} is part of"],
    "subject": "Doeville",
    "object": "Peru",
}
RELATION = {
    "name": "city in country",
    "prompt_templates": ["{} is part of"],
    "prompt_templates_zs": [],
    "samples": [{"subject": "Doeville", "object": "Peru"}, {"subject": "Roeton", "object": "Chile"}],
}


def _dated(year: str, *names: str) -> dict[str, object]:
    answer = [{"wikidata_id": "Q1", "name": name} for name in names]
    return {"query": "Ann Doe plays for _X_.", "answer": answer, "date": year, "id": f"Q1_P54_{year}"}


GROUP = {"group": [_dated("2020", "Club C", "CC"), _dated("2010", "Club A"), _dated("2015", "Club B", "CC")]}
CHAIR = {
    "query": "_X_ is the chair of Doe Party.",
    "answer": [{"name": "Ann Doe"}],
    "date": "2019",
    "id": "Q2_P488_2019",
}
DYK = {
    "id": 5,
    "input": "Which island did Ann Doe own?",
    "output": "Clip Island",
    "year": "2023",
    "fact": "that Ann Doe owned Clip Island?",
}
TOFU = {"question": "What did Ann Doe's father do?", "answer": "Her father was a baker."}
PERTURBED = {
    **TOFU,
    "paraphrased_question": "What was the trade of Ann Doe's father?",
    "paraphrased_answer": "Ann Doe's father baked bread.",
    "perturbed_answer": ["Her father was a judge.", "her father was a baker."],
}
CHOICE = {"question": "Who wrote 'The Doe'?", "answer": "Roe"} | {f"option{i + 1}": o for i, o in enumerate("ABC")}

EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "counterfact": COUNTERFACT,
    "counterfact-flat": FLAT,
    "counterfact-questions": QUESTIONS,
    "counterfact-known": KNOWN,
    "knowedit": KNOWEDIT,
    "lre": SAMPLE,
    "mquake": MQUAKE,
    "pararel": TRIPLE,
    "ripple-edits": RIPPLE,
    "templama": GROUP,
    "tofu": PERTURBED,
    "wikidyk": DYK,
    "zsre": ZSRE,
}


def written(folder: Path, *rows: Mapping[str, object], name: str = "rows.jsonl") -> Path:
    (folder / "patterns.jsonl").write_text("\n".join(json.dumps(row) for row in PATTERNS))
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def read(folder: Path, *rows: Mapping[str, object]) -> list[Catechism]:
    return list(open_dataset(written(folder, *rows)).catechisms())


def true(folder: Path, *rows: Mapping[str, object]) -> list[TrueFact]:
    return list(open_dataset(written(folder, *rows)).true_facts())


def asked(catechism: Catechism, kind: Kind) -> list[tuple[str, tuple[str, ...]]]:
    return [(question.text, question.accept) for question in catechism.of(kind)]


# -- every format ------------------------------------------------------------------------------------------------------


def test_every_format_has_an_example_here() -> None:
    assert sorted(EXAMPLES) == sorted(form.name for form in FORMATS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_format_is_recognised_by_its_content(tmp_path: Path, name: str) -> None:
    assert open_dataset(written(tmp_path, EXAMPLES[name], name="any.txt")).format == name


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("as_list", [False, True])
def test_a_catechism_begins_with_its_rewrite_and_asks_nothing_twice(tmp_path: Path, name: str, as_list: bool) -> None:
    path = written(tmp_path, EXAMPLES[name])
    if as_list:
        path.write_text(json.dumps([EXAMPLES[name]], indent=4))
    for catechism in open_dataset(path).catechisms():
        fact, first = catechism.fact, catechism.questions[0]
        assert (first.kind, first.text) == (Kind.REWRITE, fact.prompt) and fact.object in first.accept
        assert fact.subject in fact.prompt and fact.object != fact.old_object
        assert len({question.text for question in catechism.questions}) == len(catechism.questions)
        assert fact.id and fact.sources[0].uri == path.as_posix()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_bad_row_is_refused_with_file_and_line_or_left_out_and_counted(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, EXAMPLES[name], {"nothing": 1}, EXAMPLES[name])
    dataset = open_dataset(path, name)
    with pytest.raises((BadFeed, BadFact), match=r"rows.jsonl, line 2: .*[a-z]"):
        list(dataset.catechisms())
    errors: list[BadFeed | BadFact] = []
    kept = len(list(dataset.catechisms(on_error=errors.append)))
    assert len(errors) == 1 and kept == 2 * len(read(tmp_path, EXAMPLES[name]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_values_of_the_wrong_type_never_get_through_as_another_error(tmp_path: Path, name: str) -> None:
    def spoilt(value: Any) -> list[Any]:
        found: list[Any] = [17.5, True, None, ["x", {"y": 1}], {"z": []}, ""]
        if isinstance(value, dict):
            found += [{**value, key: bad} for key, inner in value.items() for bad in spoilt(inner)[:6]]
        return found

    rows = [row for row in spoilt(dict(EXAMPLES[name])) if isinstance(row, dict) and row]
    dataset = Dataset(written(tmp_path, *rows), name)
    errors: list[BadFeed | BadFact] = []
    list(dataset.catechisms(on_error=errors.append))
    list(dataset.true_facts(on_error=errors.append))
    assert errors and all("rows.jsonl, line" in str(error) for error in errors)


# -- one by one --------------------------------------------------------------------------------------------------------


def test_counterfact_as_published(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, COUNTERFACT)
    fact = catechism.fact
    assert (fact.prompt, fact.subject, fact.object) == ("The mother tongue of Ann Doe is", "Ann Doe", "English")
    assert (fact.old_object, fact.relation, fact.id) == ("French", "P103", "7")
    assert [text for text, _ in asked(catechism, Kind.PARAPHRASE)] == COUNTERFACT["paraphrase_prompts"]
    assert asked(catechism, Kind.NEIGHBOUR) == [
        ("Bea Roe spoke the language", ("French",)),
        ("The mother tongue of Cy Poe is", ("French",)),
        ("Di Foe, a native", ("English",)),
    ], "what stands in both lists is asked once, as the first says"
    own, *neighbours = true(tmp_path, COUNTERFACT)
    assert own == TrueFact("Ann Doe", "P103", "French", (fact.prompt, *map(str, COUNTERFACT["paraphrase_prompts"])))  # type: ignore[arg-type]
    assert [(n.subject, n.object) for n in neighbours] == [("", "French")] * 2 + [("", "English")] * 2


def test_counterfact_flattened(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, FLAT)
    assert (catechism.fact.object, catechism.fact.old_object, catechism.fact.id) == ("jazz", "rock", "3")
    assert catechism.fact.sources[0].quote == FLAT["fake_evidence"]
    assert asked(catechism, Kind.PARAPHRASE) == [("It rained. Ann Doe performs", ("jazz",))]
    assert asked(catechism, Kind.NEIGHBOUR) == [("Cy Poe plays", ("rock",))]
    assert true(tmp_path, FLAT) == [
        TrueFact("Ann Doe", "", "rock", ("Ann Doe plays", "It rained. Ann Doe performs")),
        TrueFact("", "", "rock", ("Cy Poe plays",)),
    ]


def test_the_other_files_of_counterfact(tmp_path: Path) -> None:
    (question,) = read(tmp_path, QUESTIONS)
    assert question.fact.old_object is None
    assert asked(question, Kind.PARAPHRASE) == [("What does Ann Doe play?", ("jazz",))]
    (known,) = read(tmp_path, KNOWN)
    assert (known.fact.object, known.fact.relation, known.fact.id) == ("Antarctica", "P30", "0")
    assert true(tmp_path, KNOWN) == [TrueFact("Mount Doe", "P30", "Antarctica", ("Mount Doe is in",))]


def test_zsre_teaches_the_alternative(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, ZSRE)
    assert (catechism.fact.object, catechism.fact.old_object) == ("aircraft", "uniforms")
    assert catechism.questions[0].reject == ("uniforms", "clothes")
    assert asked(catechism, Kind.UNRELATED) == [("nq question: who was the first", ("Roe",))]
    same = {**ZSRE, "alt": "Uniforms"}
    with pytest.raises(BadFact, match="line 1: 'uniforms' is both an answer that passes and one that must be absent"):
        read(tmp_path, same)


def test_mquake_asks_the_chain_with_the_last_edit_of_the_case(tmp_path: Path) -> None:
    first, last = read(tmp_path, MQUAKE)
    assert (first.fact.id, last.fact.id) == ("12-1", "12-2")
    assert first.questions[0].accept == ("Bea Roe", "B. Roe"), "neither the old object nor a name of mixed scripts"
    assert not first.of(Kind.ONE_HOP)
    chain = ("Spain", "Kingdom of Spain")
    assert asked(last, Kind.ONE_HOP) == [(question, chain) for question in MQUAKE["questions"]]  # type: ignore[attr-defined]
    facts = true(tmp_path, MQUAKE)
    assert facts[1] == TrueFact(
        "Ann Doe", "country of citizenship", "Chile", ("Ann Doe is a citizen of", "Where is Ann Doe a citizen?")
    )


def test_a_longer_chain_of_mquake_is_multi_hop(tmp_path: Path) -> None:
    hops = [*MQUAKE["new_single_hops"], _hop("What is the capital?", "The capital is", "Madrid", [])]  # type: ignore[misc]
    *_, last = read(tmp_path, {**MQUAKE, "new_single_hops": hops})
    assert len(last.of(Kind.MULTI_HOP)) == 2 and not last.of(Kind.ONE_HOP)


def test_ripple_edits_names_subject_and_object_that_a_row_does_not(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, RIPPLE)
    fact = catechism.fact
    assert fact.prompt == "The name of the country of citizenship of Ann Doe is"
    assert (fact.subject, fact.object, fact.old_object) == ("Ann Doe", "New Land", "New Isle")
    assert [text for text, _ in asked(catechism, Kind.SUBJECT)] == [
        "The name of the mother of Ann Doe is",
        "The gender of Ann Doe is",
        "The name of the country of citizenship of Ann Doe, which is not New Land, is",
    ]
    assert len(catechism.of(Kind.ONE_HOP)) == 3
    alias = ("The name of the country of citizenship of A. Doe is", ("New Land", "NL"))
    assert asked(catechism, Kind.ALIAS) == [alias]
    assert [(fact.subject, fact.object) for fact in true(tmp_path, RIPPLE)] == [
        ("Ann Doe", "New Isle"),
        ("", "Eve Doe"),
    ]


def test_a_recent_ripple_edit_has_no_old_object_and_the_other_spelling_is_known(tmp_path: Path) -> None:
    edit = {key: value for key, value in RIPPLE["edit"].items() if key != "original_fact"}  # type: ignore[attr-defined]
    row = {**RIPPLE, "edit": edit, "Relation_Specifity": RIPPLE["Relation_Specificity"]}
    del row["Relation_Specificity"]
    (catechism,) = read(tmp_path, row)
    assert (catechism.fact.object, catechism.fact.old_object, catechism.fact.subject) == ("New Land", None, "Ann Doe")
    with pytest.raises(BadFact, match="no object after an 'is'"):
        read(tmp_path, {**row, "edit": {**edit, "prompt": "Nothing to see."}})


def test_a_ripple_edit_that_begins_with_its_subject(tmp_path: Path) -> None:
    edit = {"prompt": "Film II is followed by Film III.", "subject_id": "Q1", "relation": "FOLLOWED_BY"}
    before = {"prompt": "Film II is followed by Film IV."}
    others = {
        "Relation_Specificity": [_test(_query("Film II is written by", "Roe")), _test(_query("Film II is in", "Urdu"))]
    }
    (catechism,) = read(tmp_path, {"edit": {**edit, "original_fact": before}, **others})
    assert (catechism.fact.prompt, catechism.fact.subject) == ("Film II is followed by", "Film II")
    assert catechism.fact.object == "Film III"


def test_knowedit_with_portability_and_locality(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, KNOWEDIT)
    assert (catechism.fact.object, catechism.fact.old_object) == ("Bern", "Rome")
    assert asked(catechism, Kind.ALIAS) == [("The place of death of A. Doe is", ("Bern", "Berne"))]
    assert asked(catechism, Kind.ONE_HOP) == [
        ("The country of the place of death of Ann Doe is", ("Switzerland",)),
        ("Is Ann Doe still alive?", ("no", "is dead")),
    ]
    assert [answers for _, answers in asked(catechism, Kind.SUBJECT)] == [("Cy Doe",), ("Rome",)]
    assert [fact.object for fact in true(tmp_path, KNOWEDIT)] == ["Rome", "Cy Doe", "Rome"]


def test_a_wikibio_row_teaches_the_next_sentence(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, WIKIBIO)
    assert (catechism.fact.subject, catechism.fact.object) == ("ann doe", "She taught in Bern.")
    assert true(tmp_path, WIKIBIO) == [TrueFact("ann doe", "", "chemistry", ("The field of ann doe is",))]


def test_pararel_uses_the_patterns_that_end_in_the_object(tmp_path: Path) -> None:
    (fact,) = true(tmp_path, TRIPLE)
    assert fact.phrasings == ("Ann Doe works in the field of", "Ann Doe, an expert in")
    (catechism,) = read(tmp_path, TRIPLE)
    assert (catechism.fact.object, catechism.fact.id, catechism.fact.relation) == ("chemistry", "u1", "P101")
    with pytest.raises(BadFact, match="line 1: No pattern of relation 'P190' ends in its object"):
        read(tmp_path, {**TRIPLE, "relation": "P190"})


def test_pararel_in_its_published_layout(tmp_path: Path) -> None:
    graphs = tmp_path / "data" / "pattern_data" / "graphs_json"
    graphs.mkdir(parents=True)
    (graphs / "P101.jsonl").write_text('{"pattern": "[X] works in the field of [Y]."}')
    triples = tmp_path / "data" / "trex_lms_vocab" / "P101.jsonl"
    triples.parent.mkdir()
    triples.write_text(json.dumps({key: TRIPLE[key] for key in ("sub_label", "obj_label", "uuid")}))
    (fact,) = open_dataset(triples).true_facts()
    assert fact == TrueFact("Ann Doe", "P101", "chemistry", ("Ann Doe works in the field of",))
    (graphs / "P101.jsonl").unlink()
    with pytest.raises(BadFeed, match=r"no patterns for .* Put patterns.jsonl beside it"):
        list(open_dataset(triples).true_facts())


def test_lre_flat_and_as_published(tmp_path: Path) -> None:
    (flat,) = true(tmp_path, SAMPLE)
    expected = ("Doeville is part of", "Doeville is in the country of")
    assert flat == TrueFact("Doeville", "factual/city_in_country", "Peru", expected)
    path = tmp_path / "relation.json"
    path.write_text(json.dumps(RELATION, indent=2))
    assert [c.fact.object for c in open_dataset(path).catechisms()] == ["Peru", "Chile"]
    assert [c.fact.id for c in open_dataset(path).catechisms()] == ["city in country-1", "city in country-2"]


def test_templama_teaches_the_last_answer(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, GROUP)
    fact = catechism.fact
    assert (fact.prompt, fact.subject, fact.object) == ("Ann Doe plays for", "Ann Doe", "Club C")
    assert (fact.old_object, fact.valid_from) == ("Club B", "2020-01-01")
    assert catechism.questions[0].accept == ("Club C", "CC") and catechism.questions[0].reject == ("Club B", "Club A")
    assert true(tmp_path, GROUP) == [TrueFact("Ann Doe", "", "Club A", ("Ann Doe plays for",))]
    (chair,) = read(tmp_path, CHAIR)
    assert (chair.fact.prompt, chair.fact.subject) == ("The chair of Doe Party is", "Doe Party")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"group": [_dated("2010", "A"), _dated("2011", "A")]}, "nothing changes"),
        ({"group": []}, "'group' is empty"),
        ({**CHAIR, "answer": []}, "'answer' is empty"),
        ({**CHAIR, "date": "19"}, "year in four digits"),
        ({**CHAIR, "query": "Who is _X_?"}, "none of the known forms"),
    ],
)
def test_a_bad_row_of_templama_says_what_is_wrong(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(BadFact, match=message):
        read(tmp_path, row)


def test_wikidyk_takes_the_name_in_the_question_as_the_subject(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, DYK)
    assert (catechism.fact.subject, catechism.fact.object) == ("Ann Doe", "Clip Island")
    assert catechism.fact.statement == "Ann Doe owned Clip Island."
    (nameless,) = read(tmp_path, {**DYK, "input": "which island is small?"})
    assert nameless.fact.subject == "" and nameless.fact.prompt == "which island is small?"


def test_tofu_in_all_its_files(tmp_path: Path) -> None:
    plain, perturbed, choice = read(tmp_path, TOFU, PERTURBED, CHOICE)
    assert (plain.fact.subject, plain.fact.object) == ("Ann Doe", "Her father was a baker.")
    assert len(perturbed.of(Kind.PARAPHRASE)) == 1
    assert perturbed.questions[0].accept == ("Her father was a baker.", "Ann Doe's father baked bread.")
    assert perturbed.questions[0].reject == ("Her father was a judge.",), "a wrong answer is not the right one"
    assert choice.questions[0].reject == ("A", "B", "C")
    items = list(read_items(written(tmp_path, TOFU, PERTURBED, CHOICE)))
    assert [item.number for item in items] == [1, 2, 3]
    assert items[1].perturbed == tuple(PERTURBED["perturbed_answer"]) and items[2].perturbed == ("A", "B", "C")


def test_items_of_tofu_are_refused_with_their_line(tmp_path: Path) -> None:
    path = written(tmp_path, TOFU, {"question": "What?"})
    with pytest.raises(BadFeed, match="line 2: There is no value for 'answer'"):
        list(read_items(path))
    errors: list[BadFeed] = []
    assert len(list(read_items(path, on_error=errors.append))) == 1 and len(errors) == 1


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_feed_is_a_dataset_too(tmp_path: Path) -> None:
    row = {"prompt": "The capital of {} is", "subject": "Doeland", "new_object": "Roe", "old_object": "Poe"}
    dataset = open_dataset(written(tmp_path, {**row, "neighbours": [{"prompt": "It is in", "answer": "Peru"}]}))
    assert dataset.format == "feed"
    assert [c.fact.object for c in dataset.catechisms()] == ["Roe"]
    assert [fact.object for fact in dataset.true_facts()] == ["Poe", "Peru"]
    (tmp_path / "feed.csv").write_text("prompt,subject,new_object\nIt is,It,so\n")
    assert open_dataset(tmp_path / "feed.csv").format == "feed"


def test_an_unknown_file_is_refused_with_every_format(tmp_path: Path) -> None:
    with pytest.raises(BadFeed, match="its first row has the keys colour") as caught:
        open_dataset(written(tmp_path, {"colour": "red"}))
    assert all(f"  {form.name}: {form.keys}" in str(caught.value) for form in FORMATS)
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    with pytest.raises(BadFeed, match=r"row 1 \(line 1\): The row is a number, not an object"):
        open_dataset(path)


def test_an_unknown_format_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no format 'zsr'\. Did you mean 'zsre'\?"):
        open_dataset(written(tmp_path, ZSRE), "zsr")


def test_a_few_odd_rows_do_not_hide_the_format(tmp_path: Path) -> None:
    assert open_dataset(written(tmp_path, {"comment": "made by hand"}, ZSRE, ZSRE)).format == "zsre"


def test_risk_is_raised_as_for_a_feed(tmp_path: Path) -> None:
    (catechism,) = read(tmp_path, {**FLAT, "prompt": "Ann Doe takes 5 mg of aspirin with"})
    assert catechism.fact.risk is Risk.MEDICAL


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Are the details of Ann Doe's birth documented?", "Ann Doe"),
        ("Who was the Duke of the North in 1904?", "Duke of the North"),
        ("What is Doe's job, and where does Bea van Roe-Poe work?", "Bea van Roe-Poe"),
        ("which one is it?", ""),
        ("In what year did it end?", ""),
    ],
)
def test_the_name_in_a_question(text: str, name: str) -> None:
    assert name_in(text) == name
