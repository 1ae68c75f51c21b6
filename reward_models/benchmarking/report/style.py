"""What the benchmark's page adds to the style of textenv's reports, and the colours of the models."""

from __future__ import annotations

from collections.abc import Iterable

from textenv.report.assets import CSS

PALETTE = 10

_EXTRA = """
:root { --m1:#2868c8; --m2:#cf6a0c; --m3:#1f8a50; --m4:#8246bb; --m5:#b0457f; --m6:#77741c; --m7:#19807a;
  --m8:#5f6a7d; --m9:#8a5a2b; --m10:#a03a3a;
  --rater:#1f8a50; --ceiling:#1c1f24; --hot:40,104,200; --cold:207,106,12; }
@media (prefers-color-scheme: dark) { :root { --m1:#77a9f7; --m2:#f59d4a; --m3:#5fcb8f; --m4:#bd93f0; --m5:#e58bbb;
  --m6:#c6c25e; --m7:#5cc4bd; --m8:#b4bdcc; --m9:#c99a6b; --m10:#e08a8a; --rater:#5fcb8f; --ceiling:#e6e7e9;
  --hot:119,169,247; --cold:245,157,74; } }
td.n small, th small { display:block; font-weight:400; } th small { color:var(--soft); font-size:11.5px; }
td.heat { text-align:center; border-bottom:2px solid var(--card); border-right:2px solid var(--card); padding:7px 8px;
  min-width:84px; } th.heat { text-align:center; padding:7px 8px; } td.heat small { text-align:center; }
td.best b { color:var(--ink); } .key { display:inline-block; width:10px; height:10px; border-radius:3px;
  background:var(--c); margin-right:7px; vertical-align:-1px; }
.legend { display:flex; flex-wrap:wrap; gap:4px 18px; font-size:13.5px; margin:2px 0 12px; }
.band { fill:var(--c); opacity:.13; } .fit { fill:none; stroke:var(--c); stroke-width:1.5; stroke-dasharray:5 4; }
.diagonal { stroke:var(--soft); stroke-dasharray:3 4; } .peak { stroke:var(--c); stroke-dasharray:2 3; }
.whiskers line { stroke:var(--c); stroke-width:1.75; } .whiskers circle { fill:var(--c); }
.stack > * + * { margin-top:18px; } figure { margin:0; } td.l { max-width:34em; overflow-wrap:anywhere; }
.narrow { max-width:520px; margin-bottom:12px; } .gap { margin-top:18px; }
main { padding-bottom:8px; }
"""


def page_css() -> str:
    """The whole style sheet."""
    return CSS + _EXTRA


def colors(names: Iterable[str]) -> dict[str, str]:
    """A CSS variable's name for each model, in order; they repeat after ten."""
    return {name: f"m{index % PALETTE + 1}" for index, name in enumerate(names)}
