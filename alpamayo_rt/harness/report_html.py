# SPDX-License-Identifier: Apache-2.0
"""One HTML page that needs nothing else: no script, no network, pictures inside."""

from __future__ import annotations

import base64
import json
from html import escape

import numpy as np

from alpamayo_rt.harness.charts import Line, bars, line_chart, scene
from alpamayo_rt.harness.compare_runs import Comparison
from alpamayo_rt.harness.page_style import STYLE
from alpamayo_rt.harness.report_data import RunView
from alpamayo_rt.harness.report_tables import Table, all_tables
from alpamayo_rt.harness.run_folder import Record
from alpamayo_rt.plot_scene import colour_of

_STAGES = ("preprocess", "vision", "prefill", "decode", "expert")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(views: list[RunView], comparisons: list[Comparison]) -> str:
    """The report of some runs; the first is what the others are compared with."""
    title = "Evaluation: " + ", ".join(view.name for view in views)
    tables = {table.title: table for table in all_tables(views, comparisons)}
    early = [t for name, t in tables.items() if name in ("Runs", "Accuracy") or " against " in name]
    late = [t for t in tables.values() if t not in early]
    body = [f"<h1>{escape(title)}</h1>", _verdict_line(comparisons), *map(_table, early[:1])]
    body += ['<div class="charts">', _distribution(views), _horizon(views), _stages(views), "</div>"]
    body += map(_table, early[1:])
    body += map(_table, late)
    for view in views:
        body.append(_clips(view))
    for view in views:
        shown = json.dumps(view.header, indent=1)
        body.append(
            f"<details><summary>How {escape(view.name)} was made</summary><pre>{escape(shown)}</pre></details>"
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _verdict_line(comparisons: list[Comparison]) -> str:
    said = [
        f'<li><span class="verdict {escape(c.verdict.verdict)}">{escape(c.verdict.verdict)}</span> '
        f"{escape(_name(c.b))} against {escape(_name(c.a))}, {escape(c.main)}: {100 * c.verdict.change:+.2f} % "
        f"({100 * c.verdict.low:+.2f} to {100 * c.verdict.high:+.2f} %)</li>"
        for c in comparisons
    ]
    return f'<ul class="verdicts">{"".join(said)}</ul>' if said else ""


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    inner = (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'
    )
    return f"<section><h2>{escape(table.title)}</h2>{inner}</section>"


def _cell(text: str) -> str:
    word = text.split(" ")[0].rstrip(",")
    if word in ("equivalent", "worse", "better", "undecided", "different"):
        return f'<td><span class="verdict {word}">{word}</span>{escape(text[len(word) :])}</td>'
    return f'<td class="long">{escape(text)}</td>' if len(text) > 40 else f"<td>{escape(text)}</td>"


def _figure(title: str, drawing: str, views: list[RunView], note: str = "") -> str:
    legend = "".join(
        f'<li><span class="key" style="background:{colour_of(n)}"></span>{escape(v.name)}</li>'
        for n, v in enumerate(views)
    )
    key = f'<ul class="legend">{legend}</ul>' if len(views) > 1 else ""
    about = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}{key}{about}</figure>"


def _distribution(views: list[RunView]) -> str:
    lines = []
    for n, view in enumerate(views):
        errors = view.errors()
        if len(errors):
            share = np.arange(1, len(errors) + 1) / len(errors) * 100
            lines.append(Line(view.name, colour_of(n), [0.0, *errors], [0.0, *share]))
    if not lines:
        return ""
    # The axis ends where the first run's tail does: a baseline would leave it no room.
    x_max = float(np.quantile(views[0].errors() if len(views[0].errors()) else [1.0], 0.99)) * 1.5
    chart = line_chart("error distribution", lines, "ADE of the best candidate, m", "clips, %", x_max, 100)
    return _figure("Error distribution", chart, views, "Share of clips with at most this error.")


def _horizon(views: list[RunView]) -> str:
    lines, top = [], 0.0
    for n, view in enumerate(views):
        h = view.horizon
        if h is not None:
            band = list(zip(h.low.tolist(), h.high.tolist(), strict=True))
            lines.append(Line(view.name, colour_of(n), h.seconds.tolist(), h.mean.tolist(), band))
            top = max(top, float(h.high.max())) if n == 0 else max(top, min(float(h.high.max()), 3 * top))
    if not lines:
        return ""
    chart = line_chart("minADE over horizon", lines, "horizon, s", "minADE, m", 6.4, top * 1.05)
    return _figure("minADE over horizon", chart, views, "Mean over clips, with its 95 % interval.")


def _stages(views: list[RunView]) -> str:
    rows = []
    for view in views:
        ms = view.summary["milliseconds"]
        parts = [(stage, ms[stage]["median"], colour_of(i)) for i, stage in enumerate(_STAGES) if stage in ms]
        if parts:
            rows.append((view.name, parts))
    if not rows:
        return ""
    keys = "".join(
        f'<li><span class="key" style="background:{colour_of(i)}"></span>{stage}</li>'
        for i, stage in enumerate(_STAGES)
    )
    chart = bars("milliseconds per stage", rows, "ms")
    title = "Median milliseconds per stage"
    return f'<figure><figcaption>{title}</figcaption>{chart}<ul class="legend">{keys}</ul></figure>'


def _clips(view: RunView) -> str:
    cards = [_card(view, record, "worst") for record in view.worst()]
    cards += [_card(view, record, "best") for record in view.best()]
    if not cards:
        return ""
    about = "Dashed black: what the driver did. Coloured: the candidates, from above, forward is up."
    return (
        f"<section><h2>Worst and best clips of {escape(view.name)}</h2>"
        f'<p class="note">{about}</p><div class="cards">{"".join(cards)}</div></section>'
    )


def _card(view: RunView, record: Record, kind: str) -> str:
    m = record["metrics"]
    picture = view.picture(record)
    cameras = ""
    if picture is not None:
        data = base64.b64encode(picture).decode()
        cameras = f'<img alt="what the cameras saw" src="data:image/jpeg;base64,{data}">'
    facts = [f"ADE {m['ade_best']:.2f} m best, {m['ade_mean']:.2f} m mean"]
    if record.get("true_cause"):
        facts.append(f"true cause: {record['true_cause'].replace('_', ' ')}")
    if record.get("navigation"):
        facts.append(f"told: “{record['navigation']}”")
    facts.append(f"seed {record['seed']}")
    said = "".join(f"<blockquote>{escape(text)}</blockquote>" for text in record["reasoning"][:3])
    drawing = scene(np.array(record["pred_xy"]), np.array(record["true_xy"]))
    return (
        f'<article class="{kind}"><h3><span class="tag">{kind}</span> {escape(record["clip_id"])} '
        f"at {record['t0_us'] / 1e6:.1f} s</h3>{said}"
        f'<div class="look">{cameras}{drawing}</div><p class="note">{escape("; ".join(facts))}</p></article>'
    )
