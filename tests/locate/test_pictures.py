"""Pictures are SVG elements that parse, say what they show, and are the same every time."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import pytest

from catechism.locate.locate import Ranking
from catechism.locate.patching import Gain, Where
from catechism.locate.pictures import heat_map_svg, ranking_svg
from catechism.locate.tracing import CausalTrace
from catechism.model import BlockSite, Part
from catechism.types import Locus, Role, Site

TRACE = CausalTrace(
    part=Part.MLP,
    window=2,
    tokens=("<bos>", "The", " $_{x}$", " <&>", " 漢", "\n"),
    subject=(2, 3),
    clean=0.9,
    corrupted=0.25,
    effects=((0.0, 0.1, 0.5, 0.0, -0.1, 0.0), (0.0, 0.0, 0.2, 0.3, 0.0, 0.6)),
    sigma=0.1,
)


def locus(layer: int, role: Role, gain: float, *, confirmed: bool = True, expert: int | None = None) -> Locus:
    evidence = {"confirmed": float(confirmed)}
    if confirmed:
        evidence |= {"logprob_gain_subject": gain / 2, "logprob_gain_last": gain}
    return Locus(Site(layer, role, expert), gain, evidence)


RANKING = Ranking(
    loci=(
        locus(3, Role.ATTN_OUT, 8.8),
        locus(2, Role.EXPERT_OUT, 1.5, expert=7),
        locus(0, Role.MLP_OUT, -0.4),
        locus(1, Role.MLP_OUT, 0.2, confirmed=False),
    ),
    closed_form=None,
    distill=3,
    blocks=(Gain(BlockSite(3), Where.PROMPT, 0.5, 8.8, 0.01, 0.51),),
    narrowness=None,
    before=0.01,
    teacher=0.51,
)


def words(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_heat_map_names_its_tokens_and_marks_the_subject() -> None:
    said = words(heat_map_svg(TRACE))
    for word in ("<bos>", "The", "$_{x}$*", "<&>*", "漢", "'\\n'", "layer", "indirect effect"):
        assert word in said
    assert "mlp restored, 2 layers together: 0.25 corrupted, 0.90 clean" in said


def test_the_bars_name_the_confirmed_loci() -> None:
    said = words(ranking_svg(RANKING))
    for word in ("3 attn_out", "2 expert_out 7", "0 mlp_out"):
        assert word in said
    assert "1 mlp_out" not in said
    assert "the teacher says it with 0.51, the student with 0.01" in said
    assert "2 expert_out 7" not in words(ranking_svg(RANKING, most=1))


@pytest.mark.parametrize("draw", [lambda: heat_map_svg(TRACE), lambda: ranking_svg(RANKING)])
def test_a_picture_is_the_same_text_every_time_and_leaves_the_settings_alone(draw) -> None:
    before = dict(matplotlib.rcParams)
    assert draw() == draw()
    assert dict(matplotlib.rcParams) == before


def test_a_trace_without_any_effect_can_be_drawn() -> None:
    assert words(heat_map_svg(replace(TRACE, effects=((0.0,) * 6,))))
