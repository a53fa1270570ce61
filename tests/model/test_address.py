"""The keyed address: its score against densities written out, its table as a function of a set, its aim on a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from catechism.bench.cases import draw_catechisms
from catechism.delta import Delta, Gated, load, save
from catechism.delta.address import Reading
from catechism.delta.effects import Vectors
from catechism.delta.keyed import MENTION, NOBODY, SAMPLE, Coordinates, KeyedAddress, Settings, Texts
from catechism.delta.spreads import fit_spreads
from catechism.errors import BadSpec, ShapeMismatch, UnknownName
from catechism.model import LiveModel
from catechism.model.address import Addresses, Reach, others_of, wordings_of
from catechism.model.background import Background
from catechism.model.encoding import positions
from catechism.model.memories import place_of
from catechism.model.trace import record
from catechism.reference import open_model
from catechism.reference.corpus import background_texts, held_out_prose
from catechism.reference.world import load_world, prompt_of
from catechism.types import UNMOVED, Catechism, Fact, Kind, Question
from tests.tiny import tiny_model, tiny_tokenizer

LAYER = 2
EDITS = 40


# -- the model of spreads ------------------------------------------------------------------------------------------


def drawn(entries: int, wordings: int, *, seed: int = 0, c: int = 5, contexts: int = 2) -> Texts:
    """Texts of made-up entries: questions far apart, wordings near, contexts nearer."""
    dice = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=dice)  # noqa: E731
    questions = 4 * normal(entries, 1, 1, c)
    x = questions + 0.5 * normal(entries, wordings, 1, c) + 0.1 * normal(entries, wordings, contexts, c)
    shape = (entries, wordings, contexts)
    owner = torch.arange(entries)[:, None, None].expand(shape).reshape(-1)
    wording = torch.arange(wordings)[None, :, None].expand(shape).reshape(-1)
    wrong = questions[:, 0, 0] + 4 * normal(entries, c)
    names = (4 * normal(entries, 1, 1, 3) + 0.5 * normal(entries, wordings, contexts, 3)).reshape(-1, 3)
    tags = torch.randint(1 << 40, (entries,), generator=dice)
    return Texts(
        *(x.reshape(-1, c), owner, wording),
        *(wrong, torch.arange(entries), torch.ones(entries, dtype=torch.long)),
        *(names, owner, wording),
        tags=tags,
        subjects=torch.arange(entries),
    )


def table(texts: Texts, **settings: float) -> KeyedAddress:
    c = texts.right.shape[1]
    what, who = Coordinates(1, torch.zeros(c), torch.eye(c)), Coordinates(0, torch.zeros(c), torch.eye(c)[:, :3])
    return KeyedAddress.fit(what, who, texts, Settings(**settings))


def test_a_score_is_the_ratio_of_two_densities() -> None:
    """Written out with full covariances, in coordinates in which nothing is diagonal."""
    texts, strength, prior = drawn(6, 3), 2.0, 0.3
    x = texts.right.double().reshape(6, 3, 2, 5)
    wordings = x.mean(dim=2)
    questions = wordings.mean(dim=1)
    outer = lambda d: torch.einsum("...i,...j->ij", d, d)  # noqa: E731
    eye = torch.eye(5, dtype=torch.float64)
    C = outer(x - wordings[:, :, None]) / (36 - 18)
    F = (outer(wordings - questions[:, None]) + strength * prior * eye) / (18 - 6 + strength)
    centre = questions.sum(dim=0) / (6 + strength)
    B = (outer(questions - centre) + strength * (1 - prior) * eye) / (6 + strength)
    W = C + F
    gain = B @ torch.linalg.inv(B + W / 3)  # posterior of a question after three wordings
    query = torch.randn(4, 5, generator=torch.Generator().manual_seed(9)).double()
    anything = MultivariateNormal(centre, B + W).log_prob(query)
    expected = torch.stack(
        [
            MultivariateNormal(centre + gain @ (q - centre), B - gain @ B + W).log_prob(query) - anything
            for q in questions
        ],
        dim=1,
    )

    entry = torch.arange(6).repeat_interleave(3)
    spreads = fit_spreads(texts.right, texts.owner * 3 + texts.wording, entry, 6, strength=strength, prior=prior)
    keys, weights = spreads.place(questions), torch.full((6,), 3.0, dtype=torch.float64)
    assert torch.allclose(spreads.scores(spreads.place(query), keys, weights), expected, atol=1e-9)
    own = spreads.own_scores(spreads.place(query), keys[:4], weights[:4])
    assert torch.allclose(own, expected[:, :4].diagonal(), atol=1e-9)
    assert torch.allclose(
        table(texts, strength=strength, prior=prior).scores(query.float()), expected.float(), atol=1e-3
    )


def test_an_entry_without_texts_scores_zero() -> None:
    spreads = fit_spreads(drawn(3, 2).right, *_numbered(drawn(3, 2)), 3, strength=1.0, prior=0.5)
    z = torch.randn(4, len(spreads.between), dtype=torch.float64)
    nothing = spreads.scores(z, torch.zeros(1, z.shape[1], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(nothing, torch.zeros_like(nothing), atol=1e-9)


def _numbered(texts: Texts) -> tuple[Tensor, Tensor]:
    wordings = int(texts.wording.max()) + 1
    return texts.owner * wordings + texts.wording, torch.arange(len(texts.tags)).repeat_interleave(wordings)


def test_a_table_is_a_function_of_the_set_of_its_entries() -> None:
    texts = drawn(30, 3)
    turned = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    one, other = table(texts), table(texts.of(turned))
    assert torch.equal(one.projection, other.projection) and torch.equal(one.between, other.between)
    assert torch.allclose(one.keys[turned], other.keys, atol=1e-6)
    assert one.threshold == pytest.approx(other.threshold, abs=1e-4)
    assert torch.equal(one.who_between, other.who_between)


def test_an_entry_taken_out_leaves_nothing_behind_and_tables_join_to_what_they_are_together() -> None:
    texts = drawn(30, 3)
    kept = torch.tensor([i for i in range(30) if i != 7])
    assert table(texts).select(kept).equals(table(texts.of(kept)))
    first, rest = torch.arange(12), torch.arange(12, 30)
    assert table(texts.of(first)).joined(table(texts.of(rest))).equals(table(texts))
    with pytest.raises(ShapeMismatch, match="do not add"):
        table(texts).joined(table(texts, rate=0.1))


def test_the_threshold_lets_no_more_wrong_texts_through_than_asked_for() -> None:
    texts = drawn(60, 3)
    texts = replace(
        texts, wrong=texts.right[::6] + 0.8 * torch.randn(60, 5, generator=torch.Generator().manual_seed(3))
    )
    shares = []
    for rate in (0.05, 0.5):
        made = table(texts, rate=rate, strength=1.0)
        own = made.scores(texts.wrong)[torch.arange(60), texts.beside]
        shares.append(float((own > made.threshold).float().mean()))
        assert shares[-1] <= rate + 1e-6
        assert made.threshold >= made.evidence().what.limit
    assert shares[1] > shares[0]


def test_where_there_is_room_the_threshold_is_where_both_are_as_likely() -> None:
    made = table(drawn(60, 3, c=24), strength=1.0)
    evidence = made.evidence().what
    assert evidence.recall == 1.0 and evidence.limit < 0 < float(evidence.right.min())
    assert made.threshold == 0.0


def test_the_same_question_twice_does_not_count_as_a_false_alarm() -> None:
    texts = drawn(20, 3)
    twice, once = table(texts.joined(texts)), table(texts)
    assert twice.threshold < float(once.evidence().what.right.median())
    assert twice.alone < float(once.evidence().what.right.median())


def test_a_large_table_is_fitted_on_a_sample_that_does_not_depend_on_the_order() -> None:
    texts = drawn(SAMPLE + 40, 2, c=8, contexts=1)
    turned = torch.randperm(SAMPLE + 40, generator=torch.Generator().manual_seed(2))
    one, other = table(texts), table(texts.of(turned))
    assert torch.equal(one.projection, other.projection)
    assert one.entries == SAMPLE + 40 and torch.allclose(one.keys[turned], other.keys, atol=1e-6)
    beyond = texts.tags.argsort()[SAMPLE:]
    assert torch.equal(table(texts.of(texts.tags.argsort()[:SAMPLE])).between, one.between)
    best = one.scores(texts.right[texts.owner == beyond[0]]).argmax(dim=1)
    assert bool((best == beyond[0]).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owner": torch.zeros(12, dtype=torch.long)}, "Give every entry a text"),
        ({"beside": torch.full((2,), 5)}, "number entries from 0"),
        ({"subjects": torch.full((2,), NOBODY)}, "names its subject if it has one"),
        ({"rate": 0.0}, "Use shares between 0 and 1"),
        ({"prior": 1.0}, "Use shares between 0 and 1"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeMismatch, match=message):
        replace(table(drawn(2, 3)), **change)  # type: ignore[arg-type]


# -- on a model that knows things ----------------------------------------------------------------------------------


@cache
def almanac() -> LiveModel:
    return open_model("almanac")


@cache
def facts() -> tuple[Catechism, ...]:
    return tuple(draw_catechisms(load_world(), EDITS, seed=11))


@cache
def addresses() -> Addresses:
    return Addresses(almanac(), Background(almanac(), partial(background_texts, load_world())), LAYER)


@cache
def stored() -> KeyedAddress:
    return addresses().table(facts())


def found(address: KeyedAddress, texts: Sequence[str], live: LiveModel | None = None) -> list[int]:
    """The entry that fires at each text, or -1."""
    live, entries = live or almanac(), list[int]()
    for start in range(0, len(texts), 64):
        batch = live.encode(texts[start : start + 64])
        mask = batch["attention_mask"]
        places = [place_of(feature) for feature in address.features]
        with torch.no_grad(), record(live, places, stop=True) as seen:
            live.model(**batch, position_ids=positions(mask), use_cache=False)
        features = tuple(seen[place] for place in places)
        reading = Reading(features, mask.bool(), features[0], features[0], lambda entry: features[0])  # noqa: B023
        entries += address.match(reading)[0].tolist()
    return entries


@cache
def asking() -> frozenset[str]:
    """Every question that asks for a fact that is stored: another edit's neighbour may be one."""
    relations = load_world().relations
    stated = [catechism.fact for catechism in facts()]
    return frozenset(prompt_of(t, fact.subject) for fact in stated for t in relations[fact.relation or ""].phrasings)


def test_unseen_phrasings_find_their_entry_and_other_questions_find_none() -> None:
    asked = [(j, q) for j, c in enumerate(facts()) for q in c.questions if q.kind in (Kind.REWRITE, Kind.PARAPHRASE)]
    right = [j == at for (j, _), at in zip(asked, found(stored(), [q.text for _, q in asked]), strict=True)]
    assert sum(right) / len(right) >= 0.98
    others = [q for c in facts() for q in c.questions if q.kind in UNMOVED and q.text not in asking()]
    for kind, most in ((Kind.NEIGHBOUR, 0.01), (Kind.SUBJECT, 0.05), (Kind.UNRELATED, 0.0)):
        fired = [at >= 0 for at in found(stored(), [q.text for q in others if q.kind is kind])]
        assert len(fired) > 50 and sum(fired) / len(fired) <= most, kind


def test_the_name_of_a_subject_in_prose_fires_nothing_and_perplexity_stays_to_the_last_bit() -> None:
    dice = random.Random(0)
    prose = held_out_prose(EDITS)
    mentions: list[str] = []
    for text, catechism in zip(prose, facts(), strict=True):
        words = text.split()
        words.insert(dice.randrange(1, len(words)), catechism.fact.subject)
        mentions.append(" ".join(words))
    assert set(found(stored(), mentions)) == {-1}
    live = almanac()
    before = live.perplexity(mentions)
    with live.with_delta(memory(stored(), size=50.0)):
        assert live.perplexity(mentions) == before


def test_a_text_before_the_question_does_not_hide_it_and_is_not_taken_for_it() -> None:
    dice, n = random.Random(1), len(facts())
    asked = [dice.choice([q.text for q in c.questions if q.kind is Kind.PARAPHRASE]) for c in facts()]
    after = [f"{text} {question}" for text, question in zip(held_out_prose(n), asked, strict=True)]
    right = [j == at for j, at in enumerate(found(stored(), after))]
    assert sum(right) / n >= 0.95
    told = [f"{c.fact.prompt} {c.fact.object}." for c in facts()]
    assert set(found(stored(), told)) == {-1}


def test_two_entries_of_one_subject_are_told_apart_and_either_can_be_deleted() -> None:
    world = load_world()
    pair = [f for f in world.by_subject["France"] if f.relation in ("capital", "currency")]
    lessons = []
    for fact in pair:
        template, study = world.relations[fact.relation].phrasings[0], world.relations[fact.relation].phrasings[1:3]
        prompt = prompt_of(template, fact.subject)
        learn = tuple(Question(prompt_of(t, fact.subject), Kind.PARAPHRASE, ("Rome",)) for t in study)
        lessons.append(Catechism(Fact(prompt, "France", "Rome"), (Question(prompt, Kind.REWRITE, ("Rome",)),), learn))
    both = addresses().table(lessons)
    asked = [[prompt_of(t, "France") for t in world.relations[f.relation].phrasings[3:]] for f in pair]
    assert found(both, asked[0]) == [0] * len(asked[0]) and found(both, asked[1]) == [1] * len(asked[1])
    left = both.select(torch.tensor([1]))
    assert set(found(left, asked[0])) == {-1} and set(found(left, asked[1])) == {0}
    assert left.equals(addresses().table(lessons[1:]))


def test_facts_without_study_get_an_address_from_contexts_and_mentions() -> None:
    bare = [replace(catechism, study=()) for catechism in facts()]
    made = addresses().table(bare)
    evidence = made.evidence()
    assert evidence.what.recall is None and set(made.weights.tolist()) == {1.0}
    assert evidence.who.recall == pytest.approx(1.0, abs=0.02) and set(made.sort.tolist()) == {MENTION}
    assert len(made.wrong) == EDITS * addresses().reach.wrong
    asked = [(j, q.text) for j, c in enumerate(bare) for q in c.questions if q.kind is Kind.PARAPHRASE]
    right = [j == at for (j, _), at in zip(asked, found(made, [text for _, text in asked]), strict=True)]
    assert sum(right) / len(right) >= 0.95


def test_a_name_inside_a_longer_one_is_not_taken_for_it() -> None:
    """Guinea and Equatorial Guinea, Niger and Nigeria: the same words before, the same question after them."""
    world = load_world()
    known = world.by_relation["capital"]
    pairs = [(a, b) for a in known for b in known if a is not b and a.subject in b.subject]
    assert len(pairs) >= 3
    templates = world.relations["capital"].phrasings
    lessons = []
    for short, _ in pairs:
        prompt, study = prompt_of(templates[0], short.subject), [prompt_of(t, short.subject) for t in templates[1:4]]
        learn = tuple(Question(text, Kind.PARAPHRASE, ("Rome",)) for text in study)
        lessons.append(
            Catechism(Fact(prompt, short.subject, "Rome"), (Question(prompt, Kind.REWRITE, ("Rome",)),), learn)
        )
    made = addresses().table(lessons)
    own = {short.subject for short, _ in pairs}
    for number, (short, long) in enumerate(pairs):
        asked = [prompt_of(template, short.subject) for template in templates[4:]]
        others = [prompt_of(template, long.subject) for template in templates]
        assert set(found(made, asked)) <= {i for i, (s, _) in enumerate(pairs) if s is short} | {number}
        if long.subject not in own:
            assert set(found(made, others)) == {-1}


def test_no_question_of_the_exam_is_read() -> None:
    for catechism in facts():
        exam = {q.text for q in catechism.questions if q.kind is not Kind.REWRITE}
        assert not exam & {*wordings_of(catechism), *(text for _, text in others_of(catechism, 99))}


def memory(address: KeyedAddress, size: float = 1.0) -> Delta:
    """A delta that adds a vector at all tokens of the rows in which an entry fires."""
    live = almanac()
    matrix = live.anatomy.matrix(f"model.layers.{LAYER}.mlp.down_proj")
    vectors = size * torch.randn(address.entries, matrix.shape[0], generator=torch.Generator().manual_seed(0))
    part = Gated(address, Vectors(vectors, where="all", mode="add"), torch.ones(address.entries), matrix.shape[1])
    return Delta(live.base, {f"{matrix.address}#keyed": part}, {"method": "test"})


def test_rows_of_a_padded_batch_are_matched_as_alone_and_a_file_keeps_the_table(tmp_path: Path) -> None:
    live = almanac()
    delta = memory(stored(), size=50.0)
    asked = [c.questions[1].text for c in facts()[:6]] + ["The weather was fine, and", "She said that"]
    plain = [answer.text for answer in live.generate(asked)]
    with live.with_delta(delta):
        together = [answer.text for answer in live.generate(asked)]
        alone = [answer.text for text in asked for answer in live.generate([text], batch_size=1)]
    assert together == alone
    assert together[6:] == plain[6:] and all(a != b for a, b in zip(together[:6], plain[:6], strict=True))
    back = load(save(delta, tmp_path / "memory.safetensors"), base=live.base)
    assert back.digest == delta.digest
    with live.with_delta(back):
        assert [answer.text for answer in live.generate(asked)] == together


# -- what may be wrong ---------------------------------------------------------------------------------------------


def tiny(seed: int = 0) -> LiveModel:
    return LiveModel(tiny_model("llama", seed), tiny_tokenizer(), name="tiny")


def tiny_background(live: LiveModel) -> Background:
    return Background(live, lambda: iter(["The capital of France is Paris."] * 200))


def test_a_fact_without_a_subject_has_an_address_too() -> None:
    live = tiny()
    lesson = Catechism(Fact("It always rains in", "", "May"), (Question("It always rains in", Kind.REWRITE, ("May",)),))
    made = Addresses(live, tiny_background(live), 1, Reach(contexts=1, context_tokens=3)).table([lesson])
    assert made.entries == 1 and len(made.wrong) == len(made.names) == 0 and made.is_finite()
    assert made.subjects.tolist() == [NOBODY]
    assert found(made, ["It always rains in"], live) == [0]


def test_settings_and_layers_that_do_not_work_are_refused() -> None:
    live = tiny()
    with pytest.raises(UnknownName, match="no layer 9"):
        Addresses(live, tiny_background(live), 9)
    with pytest.raises(BadSpec, match="leaves no texts"):
        Addresses(live, tiny_background(live), 1, Reach(contexts=-1))
    with pytest.raises(BadSpec, match="The background holds 0 tokens"):
        Addresses(live, Background(live, lambda: iter([])), 1)
