"""Pictures of what was located, as SVG text that can stand in a page. The same data give the same text."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from catechism.locate.locate import Ranking
from catechism.locate.patching import Where
from catechism.locate.tracing import CausalTrace
from catechism.types import Locus

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heat_map_svg(trace: CausalTrace) -> str:
    """A causal trace as a map, layers upwards over the prompt's tokens; the subject's tokens carry a star."""
    from matplotlib.figure import Figure

    n_layers, n_tokens = len(trace.effects), len(trace.tokens)
    figure = Figure(figsize=(1.6 + 0.45 * n_tokens, 1.6 + 0.28 * n_layers), layout="constrained")
    axes = figure.add_subplot()
    most = max(max(abs(x) for row in trace.effects for x in row), 1e-9)
    image = axes.imshow(trace.effects, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-most, vmax=most)
    first, last = trace.subject
    words = [(word.strip() or repr(word)) + "*" * (first <= t <= last) for t, word in enumerate(trace.tokens)]
    axes.set_xticks(range(n_tokens), words, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(_ticks(n_layers))
    axes.set_ylabel("layer")
    over = f", {trace.window} layers together" if trace.window > 1 else ""
    axes.set_title(
        f"{trace.part.value} restored{over}: {trace.corrupted:.2f} corrupted, {trace.clean:.2f} clean",
        fontsize="medium",
    )
    figure.colorbar(image, ax=axes, label="indirect effect")
    return svg_of(figure)


def ranking_svg(ranking: Ranking, *, most: int = 12) -> str:
    """The first loci of a ranking as bars: what was confirmed by patching, in nats."""
    from matplotlib.figure import Figure

    loci = [locus for locus in ranking.loci if locus.evidence["confirmed"]][:most]
    figure = Figure(figsize=(6.4, 1.2 + 0.32 * len(loci)), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(loci))
    for shift, where, colour, label in (
        (-0.2, Where.SUBJECT, "#4477aa", "at the subject's last token"),
        (0.2, Where.LAST, "#ee6677", "where the answer is said"),
    ):
        gains = [locus.evidence[f"logprob_gain_{where.value}"] for locus in loci]
        axes.barh([row + shift for row in rows], gains, height=0.38, color=colour, label=label)
    axes.set_yticks(rows, [_name(locus) for locus in loci])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("gain of the answer's log-probability, nats")
    axes.set_title(
        f"the teacher says it with {ranking.teacher:.2f}, the student with {ranking.before:.2f}", fontsize="medium"
    )
    axes.legend(loc="lower right", fontsize="small")
    return svg_of(figure)


def _name(locus: Locus) -> str:
    site = locus.site
    expert = "" if site.expert is None else f" {site.expert}"
    return f"{site.layer} {site.role.value}{expert}"


def _ticks(n: int) -> range:
    """At most about a dozen layer numbers."""
    return range(0, n, max(1, -(-n // 12)))


def svg_of(figure: Figure) -> str:
    """The figure's SVG element, with text as text, without a date and with the same names every time."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "catechism"}), warnings.catch_warnings():
        # the page's font draws the text; that the measuring font lacks a letter does not matter
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
