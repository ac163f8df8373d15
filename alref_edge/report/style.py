"""How the page looks: one column of cards, light or dark as the reader's system is."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --ink: #191c20; --soft: #566070; --rule: #dadfe6; --shade: #e7eaee;
  --j: #1c5fc4; --f: #a84a00; --warn: #7a4b00; --warn-page: #fff4dc; --good: #0b6b3a; --good-page: #e2f4e9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121519; --card: #1b1f25; --ink: #e7eaee; --soft: #a2adba; --rule: #343b45; --shade: #2a3038;
    --j: #7fb2ff; --f: #ffb068; --warn: #ffd48a; --warn-page: #362a13; --good: #86d9a8; --good-page: #16301f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 40px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; line-height: 1.35; margin: 0 0 12px; overflow-wrap: anywhere; }
h3 { font-size: 13px; font-weight: 600; color: var(--soft); margin: 20px 0 8px; }
p { margin: 0 0 8px; }
small, .soft { color: var(--soft); font-size: 13px; }
code { font: 13px/1.5 ui-monospace, "Liberation Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
section {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 18px 20px;
  margin-top: 16px;
}
.badge {
  display: inline-block; border-radius: 999px; padding: 1px 10px; font-size: 13px;
  font-weight: 500; background: var(--shade); vertical-align: 1px;
}
.badge.good { color: var(--good); background: var(--good-page); }
.badge.bad, .warnings { color: var(--warn); background: var(--warn-page); }
.warnings { border-color: currentColor; }
.warnings ul { margin: 0; padding-left: 20px; }
.warnings li { overflow-wrap: anywhere; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); gap: 12px;
  margin: 18px 0 0;
}
.tiles div {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 10px 16px;
}
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 0; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td {
  text-align: left; vertical-align: top; padding: 6px 12px 6px 0;
  border-bottom: 1px solid var(--rule);
}
tr:last-child td, tr:last-child th { border-bottom: 0; }
thead th { color: var(--soft); font-size: 13px; font-weight: 500; }
td:first-child, tbody th { overflow-wrap: anywhere; min-width: 130px; font-weight: inherit; }
.number { text-align: right; white-space: nowrap; }
tr.mean { font-weight: 600; }
tr.taken td { font-weight: 600; }
.swatch { width: 14px; height: 14px; margin-right: 8px; vertical-align: -1px; }
.swatch rect { stroke: var(--soft); stroke-width: 1; }
.strip, .pivots { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); }
.pivots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: var(--shade); }
.pivots img { width: auto; max-width: 100%; }
figcaption {
  font-size: 13px; color: var(--soft); margin-top: 4px; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere;
}
figcaption strong { color: var(--ink); font-weight: 600; }
.strip figcaption strong { display: block; }
.strip + p { margin-top: 8px; }
.chart {
  display: grid; grid-template-columns: max-content 1fr; gap: 4px 8px; font-size: 13px;
  color: var(--soft);
}
.chart .y {
  display: flex; flex-direction: column; justify-content: space-between; text-align: right;
  margin: -9px 0; font-variant-numeric: tabular-nums;
}
.chart .plot svg { display: block; width: 100%; height: 130px; overflow: visible; }
.chart .x { grid-column: 2; display: flex; justify-content: space-between; }
.chart .legend { grid-column: 2; display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0; }
.legend span { display: inline-flex; align-items: center; gap: 6px; }
svg * { vector-effect: non-scaling-stroke; }
.rule { stroke: var(--rule); stroke-width: 1; }
.absent { fill: var(--shade); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.j { stroke: var(--j); }
.line.f { stroke: var(--f); stroke-dasharray: 5 3; }
.pivot { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 2 3; }
.timeline {
  display: grid; grid-template-columns: minmax(56px, max-content) minmax(0, 1fr); gap: 3px 10px; align-items: center;
}
.timeline > div { min-width: 0; font-size: 13px; line-height: 1.3; overflow-wrap: anywhere; }
.timeline > div:nth-child(odd) { max-width: 170px; }
.timeline svg, .timeline img { display: block; width: 100%; height: 22px; }
.timeline img { height: 128px; border-radius: 4px; }
.timeline .hertz {
  height: 128px; display: flex; flex-direction: column; justify-content: space-between; color: var(--soft);
}
.timeline .swatch { display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px; }
.timeline .axis { height: 18px; overflow: visible; font-size: 13px; fill: var(--soft); }
path.rule { fill: none; }
.border { fill: none; stroke: var(--soft); stroke-width: 1.5; }
.segment { fill: var(--soft); fill-opacity: 0.75; }
.segment.other { fill-opacity: 0.35; }
.tag { fill: var(--j); }
.sounds { stroke: var(--soft); stroke-width: 0.5; }
.truth { fill: var(--ink); }
.silence { fill: var(--soft); }
.timeline + p { margin-top: 8px; }
.counts.whole { columns: 1; }
.counts.whole dt { white-space: nowrap; }
h2.part { font-size: 22px; margin: 36px 0 0; }
.bars { display: grid; grid-template-columns: max-content 1fr; gap: 6px 16px; margin: 0; }
.bars dt small { display: block; line-height: 1.2; }
.bars dd { margin: 0; display: grid; grid-template-columns: 1fr 112px; gap: 12px; align-items: center; }
.bars dd svg { width: 100%; height: 12px; }
.bars dd span {
  font-variant-numeric: tabular-nums; display: flex; justify-content: space-between;
  white-space: nowrap;
}
.bar { fill: var(--j); }
.counts { columns: 3 260px; column-gap: 32px; margin: 0; }
.counts div {
  display: flex; justify-content: space-between; gap: 12px; border-bottom: 1px solid var(--rule);
  padding: 3px 0; break-inside: avoid;
}
.counts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; text-align: right; }
section > :last-child { margin-bottom: 0; }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; font-weight: 600; }
summary:focus-visible { outline: 2px solid var(--j); outline-offset: 3px; border-radius: 3px; }
details > .wide, details > dl { margin-top: 8px; }
@media (max-width: 560px) {
  main { padding: 18px 12px 28px; }
  section { padding: 14px; }
  h1 { font-size: 22px; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: 8px; }
  .beside { display: none; }
  .timeline > div:nth-child(odd) { max-width: 92px; }
  .bars { grid-template-columns: 1fr; gap: 0; }
  .bars dd { margin-bottom: 8px; }
  .bars dt small { display: inline; margin-left: 8px; }
}
"""
