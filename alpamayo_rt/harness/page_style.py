# SPDX-License-Identifier: Apache-2.0
"""The look of the report: one column on a phone, more where there is room."""

STYLE = """
:root { color-scheme: light; --ink: #1f2328; --muted: #57606a; --line: #d0d7de; --soft: #f6f8fa;
  --good: #d4f4dd; --good-ink: #0b4a1f; --bad: #ffdcd7; --bad-ink: #82071e; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; color: var(--ink);
  background: #fff; }
main { max-width: 1180px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .3em 0 .6em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 1.6em 0 .5em; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 0 0 .4em; overflow-wrap: anywhere; }

.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 14em; }
tr:last-child td { border-bottom: 0; }
th { background: var(--soft); font-weight: 600; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; min-width: 7.5em;
  max-width: 46vw; white-space: normal; }
th:first-child { background: var(--soft); }
.note { color: var(--muted); font-size: .85rem; margin: .4em 0 0; }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 16px;
  margin-top: 1.4em; }
figure { margin: 0; padding: 12px; border: 1px solid var(--line); border-radius: 6px; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 8px; }
svg { display: block; max-width: 100%; }
svg.chart { width: 100%; height: auto; }
svg .grid { stroke: #e6eaee; }
svg .tick { fill: var(--muted); font-size: 12px; }
svg .axis { fill: var(--ink); font-size: 12.5px; }
.legend { list-style: none; margin: 8px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 14px;
  font-size: .85rem; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }

.verdicts { list-style: none; margin: 0 0 1em; padding: 0; }
.verdicts li { margin: .3em 0; overflow-wrap: anywhere; }
.verdict { display: inline-block; padding: 0 8px; border-radius: 10px; font-size: .85rem; font-weight: 600;
  background: #eaeef2; color: #24292f; }
.verdict.equivalent, .verdict.better { background: var(--good); color: var(--good-ink); }
.verdict.worse { background: var(--bad); color: var(--bad-ink); }
.verdict.undecided { background: #fff3c4; color: #5c4400; }

.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 16px;
  margin-top: 10px; }
article { border: 1px solid var(--line); border-radius: 6px; padding: 12px; min-width: 0; }
.tag { font-size: .75rem; font-weight: 600; padding: 1px 7px; border-radius: 9px; background: var(--bad);
  color: var(--bad-ink); }
.best .tag { background: var(--good); color: var(--good-ink); }
blockquote { margin: 0 0 .6em; padding: 0 0 0 10px; border-left: 3px solid var(--line);
  overflow-wrap: anywhere; }
.look img { width: 100%; height: auto; display: block; border-radius: 4px; margin-bottom: 8px; }
svg.scene { width: 100%; height: 300px; }
details { margin-top: 1.4em; }
summary { cursor: pointer; }
pre { background: var(--soft); padding: 12px; border-radius: 6px; overflow-x: auto; font-size: .8rem; }
"""
