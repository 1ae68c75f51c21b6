"""The page's style sheet and script, kept in Python so that a report needs no file beside itself.

The style sheet defines all colours as variables, once for light and once for dark; the charts refer to them. The script
adds comfort only: sortable tables, a searchable and paged table of samples, tooltips. Without it the page is complete.
"""

CSS = """
:root { color-scheme: light dark; --bg:#f7f7f4; --card:#fff; --ink:#1c1f24; --soft:#5d6470; --line:#e2e3de;
  --base:#7d838d; --sft:#2868c8; --ppo:#cf6a0c; --human:#1f8a50; --rm:#8246bb; --tfidf:#5f6a7d; --lexicon:#9a7426;
  --task1:#19807a; --task2:#b0457f; --task3:#77741c; --task4:#4d5f96; --bad:#b3261e; --shade:#f0f0ec; }
@media (prefers-color-scheme: dark) { :root { --bg:#131519; --card:#1b1e24; --ink:#e6e7e9; --soft:#a0a7b3;
  --line:#31363f; --base:#a2a9b4; --sft:#77a9f7; --ppo:#f59d4a; --human:#5fcb8f; --rm:#bd93f0; --tfidf:#b4bdcc;
  --lexicon:#d3b36f; --task1:#5cc4bd; --task2:#e58bbb; --task3:#c6c25e; --task4:#9fb0e6; --bad:#ff8a80;
  --shade:#252931; } }
* { box-sizing: border-box; } [hidden] { display:none !important; }
body { margin:0; background:var(--bg); color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue","Noto Sans",sans-serif; -webkit-text-size-adjust:100%; }
main, header, footer { max-width:1120px; margin:0 auto; padding:0 24px; }
header { padding-top:36px; }
.kicker { color:var(--soft); font-size:14px; margin:0; overflow-wrap:anywhere; }
h1 { font-size:clamp(21px,2.6vw,28px); line-height:1.28; font-weight:600; letter-spacing:-.012em; margin:6px 0 22px;
  max-width:36em; text-wrap:pretty; }
h1 b { font-weight:700; color:var(--ppo); }
h2 { font-size:21px; line-height:1.3; margin:52px 0 4px; letter-spacing:-.01em; scroll-margin-top:52px; }
h2 + :not(.lead) { margin-top:12px; }
h3 { font-size:15px; margin:0; line-height:1.4; }
p { margin:6px 0; text-wrap:pretty; } .lead { color:var(--soft); max-width:56em; margin:0 0 16px; }
a { color:inherit; text-underline-offset:3px; text-decoration-color:var(--soft); }
code, pre { font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; overflow-wrap:anywhere; }
nav { position:sticky; top:0; z-index:2; background:var(--bg); border-bottom:1px solid var(--line); margin-top:26px; }
nav div { max-width:1120px; margin:0 auto; padding:9px 24px; display:flex; gap:22px; overflow-x:auto; font-size:14px;
  scrollbar-width:none; } nav a { color:var(--soft); text-decoration:none; white-space:nowrap; }
nav a:hover { color:var(--ink); }
.card, .tile, .sample { background:var(--card); border:1px solid var(--line); border-radius:10px; }
.card { padding:16px 18px; min-width:0; margin:0; }
.tiles { display:grid; grid-template-columns:repeat(5,1fr); gap:14px; }
.tile { padding:14px 16px 12px; min-width:0; }
.tile b { display:block; font-size:27px; line-height:1.2; font-weight:650;
  letter-spacing:-.02em; font-variant-numeric:tabular-nums; } .tile b small { font-size:15px; font-weight:500; }
.tile span { display:block; font-size:14px; line-height:1.4; }
.tile .soft { color:var(--soft); font-size:13px; margin-top:4px; }
.notice { border:1px solid var(--line); border-left:4px solid var(--lexicon); background:var(--card); padding:12px 16px;
  border-radius:8px; margin:0 0 20px; overflow-wrap:anywhere; } .notice ul { margin:4px 0 0; padding-left:20px; }
.missing { color:var(--soft); border:1px dashed var(--line); border-radius:10px; padding:14px 16px; margin:8px 0; }
.two, .three { display:grid; gap:18px; grid-template-columns:repeat(2,minmax(0,1fr)); }
.three { grid-template-columns:repeat(3,minmax(0,1fr)); gap:14px; }
.split { display:grid; gap:18px; grid-template-columns:minmax(0,1.3fr) minmax(0,1fr); align-items:start; }
.three .card { padding:12px 14px 8px; }
figcaption { display:flex; justify-content:space-between; gap:12px; align-items:baseline; margin-bottom:6px; }
figcaption span { color:var(--soft); font-size:13px; text-align:right; }
.aside { font-size:14.5px; color:var(--soft); } .aside p { margin:4px 0 10px; }
.note { color:var(--soft); font-size:13.5px; line-height:1.5; margin:8px 0 0; }
.chart { display:block; width:100%; height:auto; overflow:visible; touch-action:pan-y; }
.chart text { font-size:11.5px; fill:var(--ink); font-variant-numeric:tabular-nums; }
.chart .tick, .chart .axis-title { fill:var(--soft); } .chart .faint { font-size:10.5px; }
.chart .direct { fill:var(--c,var(--ink)); font-weight:600; paint-order:stroke; stroke:var(--card); stroke-width:4px;
  stroke-linejoin:round; } .chart .strong { fill:var(--ink); }
.grid { stroke:var(--line); } .base { stroke:var(--soft); } .grid, .base { stroke-width:1; }
.line polyline { fill:none; stroke:var(--c); stroke-width:2; stroke-linejoin:round; stroke-linecap:round; }
.line circle, .dot { fill:var(--c); } .pale polyline { stroke-width:1.25; opacity:.5; }
.joined polyline { opacity:.35; stroke-width:1.5; } .whisker { stroke:var(--c); stroke-width:1.75; }
.hist polygon { fill:var(--c); opacity:.14; } .hist polyline { fill:none; stroke:var(--c); stroke-width:1.75; }
.leader { stroke:var(--soft); }
.mean { stroke:var(--c); stroke-width:1.5; stroke-dasharray:4 3; }
.final circle { fill:var(--card); stroke:var(--c); stroke-width:2.5; }
[data-tip] { cursor:default; } .cursor { stroke:var(--soft); stroke-dasharray:2 3; }
.pick { fill:var(--c); stroke:var(--card); stroke-width:1.5; }
#tip { position:fixed; z-index:9; pointer-events:none; background:var(--ink); color:var(--bg); font-size:12.5px;
  line-height:1.45; padding:6px 9px; border-radius:6px; max-width:260px; white-space:pre-line; display:none;
  font-variant-numeric:tabular-nums; }
.samples { display:grid; gap:16px; grid-template-columns:repeat(2,minmax(0,1fr)); }
.sample { padding:16px 18px; min-width:0; } .prompt { font-weight:600; margin:0 0 10px; }
.prompt, .words { overflow-wrap:anywhere; unicode-bidi:isolate; white-space:pre-line; }
.answer { border-left:3px solid var(--c); padding:1px 0 1px 12px; margin:12px 0 0; }
.answer .words { margin:2px 0 0; } .empty { color:var(--soft); font-style:italic; }
.who { display:flex; flex-wrap:wrap; gap:4px 10px; align-items:center; font-size:13px; color:var(--soft); }
.who b { color:var(--c); } .chip { display:inline-flex; gap:7px; align-items:center; padding:0 8px; border-radius:20px;
  background:var(--shade); color:var(--ink); font-weight:600; font-variant-numeric:tabular-nums; white-space:nowrap; }
.gauge { position:relative; width:56px; height:8px; } .gauge::before { content:""; position:absolute; inset:3.5px 0;
  background:var(--soft); opacity:.55; }
.gauge::after { content:""; position:absolute; left:var(--zero); top:0; width:1px;
  height:8px; background:var(--soft); } .gauge i { position:absolute; top:0; width:8px; height:8px; border-radius:50%;
  margin-left:-4px; background:var(--c); left:var(--at); }
.scroll { overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-size:14px; font-variant-numeric:tabular-nums; }
th, td { text-align:left; padding:7px 8px 7px 0; border-bottom:1px solid var(--line); vertical-align:top; }
th { font-weight:600; color:var(--soft); } th.n, .all th { white-space:nowrap; } tbody th { color:var(--c,var(--ink)); }
td.n, th.n { text-align:right; padding:7px 0 7px 10px; } tbody tr:last-child > * { border-bottom:0; }
td small { color:var(--soft); display:block; font-size:11.5px; white-space:nowrap; }
th button { all:unset; cursor:pointer; } th button:focus-visible, summary:focus-visible, a:focus-visible,
[data-tip]:focus-visible { outline:2px solid var(--sft); outline-offset:2px; border-radius:3px; }
th[aria-sort=ascending] button::after { content:" ↑"; } th[aria-sort=descending] button::after { content:" ↓"; }
details { margin-top:18px; } summary { cursor:pointer; font-weight:600; padding:8px 0; }
details pre { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:14px 16px; margin:4px 0;
  overflow-x:auto; white-space:pre-wrap; }
.tools { display:none; gap:10px 16px; flex-wrap:wrap; align-items:center; margin:6px 0 10px; color:var(--soft);
  font-size:14px; } .js .tools { display:flex; }
input, .tools button { font:inherit; color:var(--ink); background:var(--card); border:1px solid var(--line);
  border-radius:8px; padding:7px 12px; } input { flex:1 1 240px; min-width:0; max-width:420px; }
.tools button { cursor:pointer; } .tools button:disabled { opacity:.4; cursor:default; }
.all td { overflow-wrap:anywhere; min-width:6em; } .all { table-layout:fixed; } .all .words { font-size:13.5px; }
.all th:nth-child(1) { width:19%; } .all .chip { font-size:12.5px; margin-bottom:3px; }
.bars { display:grid; grid-template-columns:max-content 1fr; gap:9px 14px; align-items:center; font-size:14px; }
.bars div { display:flex; align-items:center; gap:10px; white-space:nowrap; font-variant-numeric:tabular-nums; }
.bars i { height:16px; border-radius:3px; background:var(--c); min-width:2px; flex:0 0 auto; width:calc((100% - 150px)
  * var(--share)); } .bars small { color:var(--soft); }
.checks.card { list-style:none; padding:10px 18px; margin:0; columns:2; column-gap:32px; font-size:14.5px; }
.checks li { break-inside:avoid; padding:5px 0 5px 26px; position:relative; overflow-wrap:anywhere; }
.checks li::before { content:"✓"; position:absolute; left:2px; color:var(--human); font-weight:700; }
.checks .bad::before { content:"✗"; color:var(--bad); } .checks .plain::before { content:"·"; color:var(--soft); }
.checks small { color:var(--soft); }
dl { columns:2; column-gap:36px; margin:0; font-size:14.5px; line-height:1.45; }
dl div { break-inside:avoid; padding:6px 0; }
dt { font-weight:600; } dd { margin:0; } dd code { color:var(--soft); font-size:12px; display:block; }
footer { color:var(--soft); font-size:13px; padding-top:36px; padding-bottom:48px; }
@media (max-width: 1000px) { .tiles { grid-template-columns:repeat(3,1fr); } .split { grid-template-columns:
  minmax(0,1fr); } .three { grid-template-columns:repeat(2,minmax(0,1fr)); } }
@media (max-width: 760px) { main, header, footer { padding-left:12px; padding-right:12px; } header { padding-top:20px; }
  nav div { padding-left:12px; padding-right:12px; } h2 { margin-top:40px; } .two, .samples, .three {
  grid-template-columns:minmax(0,1fr); } .tiles { grid-template-columns:repeat(2,minmax(0,1fr)); gap:10px; }
  .tile:first-child { grid-column:1/-1; } .card, .sample { padding:13px 12px; } .tile b { font-size:24px; }
  .chart text { font-size:13px; } .chart .faint { font-size:11.5px; } .three .chart text { font-size:11px; }
  .checks.card { columns:1; }
  dl { columns:1; }
  .all, .all tbody, .all tr, .all td { display:block; width:100%; } .all thead { display:none; }
  .all tr { padding:12px 0; border-bottom:1px solid var(--line); } .all td { border:0; padding:4px 0; }
  .all td::before { content:attr(data-head); display:block;
    font-size:12px; color:var(--c,var(--soft)); font-weight:600; }
  .all td:first-child .words { font-weight:600; } }
.missing + .missing { margin-top:10px; }
@media print { nav, .tools { display:none !important; } .card, .sample, .tile { break-inside:avoid; } }
"""

SCRIPT = """
document.documentElement.classList.add('js');
const $ = (selector, root = document) => [...root.querySelectorAll(selector)];
const key = cell => cell.dataset.v === undefined ? cell.textContent.trim().toLowerCase() : parseFloat(cell.dataset.v);
const compare = (a, b) => typeof a === 'number' && typeof b === 'number' ?
  (isNaN(a) ? 1 : isNaN(b) ? -1 : a - b) : String(a).localeCompare(String(b));

// Sortable tables: a click on a column's head sorts, a second click turns the order round.
for (const head of $('table.sortable thead th')) {
  const button = document.createElement('button');
  button.append(...head.childNodes);
  button.tabIndex = 0;
  button.title = 'Sort by this column';
  head.append(button);
  button.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') === 'descending' ||
      (!head.hasAttribute('aria-sort') && !head.matches('.n, [data-down]'));
    for (const other of head.parentNode.children) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const body = head.closest('table').tBodies[0];
    const rows = [...body.rows].map(row => [key(row.cells[head.cellIndex]), row]);
    rows.sort((a, b) => Number.isNaN(a[0]) || Number.isNaN(b[0]) ? compare(a[0], b[0]) :
      (up ? 1 : -1) * compare(a[0], b[0]));
    body.append(...rows.map(row => row[1]));
    body.dispatchEvent(new Event('sorted'));
  });
}

// The table of all samples: search and pages.
for (const box of $('.paged')) {
  const body = $('tbody', box)[0], input = $('input', box)[0], count = $('.count', box)[0];
  const [back, on] = $('.tools button', box), size = 20;
  let page = 0;
  const show = () => {
    const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean);
    const found = [...body.rows].filter(row => {
      const text = row.textContent.toLowerCase();
      row.hidden = true;
      return words.every(word => text.includes(word));
    });
    page = Math.max(0, Math.min(page, Math.ceil(found.length / size) - 1));
    const part = found.slice(page * size, page * size + size);
    for (const row of part) row.hidden = false;
    count.textContent = found.length ?
      `${page * size + 1}–${page * size + part.length} of ${found.length}` : 'nothing found';
    back.disabled = page === 0;
    on.disabled = (page + 1) * size >= found.length;
  };
  input.addEventListener('input', () => { page = 0; show(); });
  body.addEventListener('sorted', () => { page = 0; show(); });
  back.addEventListener('click', () => { page -= 1; show(); });
  on.addEventListener('click', () => { page += 1; show(); });
  show();
}

// Tooltips: marks with data-tip speak for themselves; lines show the values nearest to the pointer.
const tip = document.createElement('div');
tip.id = 'tip';
document.body.append(tip);
const hide = () => { tip.style.display = 'none'; $('.cursor, .pick').forEach(mark => mark.remove()); };
const say = (text, x, y) => {
  tip.textContent = text;
  tip.style.display = 'block';
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, x + box.width + 18 > innerWidth ? x - box.width - 12 : x + 14) + 'px';
  tip.style.top = Math.max(4, y - box.height - 10) + 'px';
};
const draw = (svg, name, values, color) => {
  const mark = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [attribute, value] of Object.entries(values)) mark.setAttribute(attribute, value);
  if (color) mark.style.setProperty('--c', color);
  svg.append(mark);
};
for (const svg of $('svg.chart')) {
  const lines = $('polyline[data-tips]', svg).map(line => ({
    name: line.dataset.name, color: line.parentNode.style.getPropertyValue('--c'),
    tips: JSON.parse(line.dataset.tips), points: [...line.points].map(point => [point.x, point.y]) }));
  svg.addEventListener('pointerleave', hide);
  const follow = event => {
    hide();
    const own = event.target.closest('[data-tip]');
    if (own) return say(own.dataset.tip, event.clientX, event.clientY);
    if (!lines.length || svg.dataset.nearest === 'none') return;
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const flat = svg.dataset.nearest === 'x';
    let hits = lines.map(line => {
      let best = 0, least = Infinity;
      line.points.forEach(([x, y], i) => {
        const far = Math.hypot(x - at.x, flat ? 0 : y - at.y);
        if (far < least) { least = far; best = i; }
      });
      return { line, best, least };
    }).filter(hit => hit.least < 40);
    if (!hits.length) return;
    hits.sort((a, b) => a.least - b.least);
    if (!flat) hits = hits.slice(0, 1);
    const first = hits[0].line.points[hits[0].best];
    const floor = svg.viewBox.baseVal.height - 36;
    if (flat) draw(svg, 'line', { class: 'cursor', x1: first[0], x2: first[0], y1: 8, y2: floor });
    for (const { line, best } of hits)
      draw(svg, 'circle', { class: 'pick', cx: line.points[best][0], cy: line.points[best][1], r: 4 }, line.color);
    const here = hits[0].line.tips[hits[0].best][0];
    const said = hits.map(({ line, best }) => {
      const [x, y] = line.tips[best];
      if (!flat) return `${line.name}: reward ${y} at ${x} nats`;
      return `${line.name}: ${y}` + (x === here ? '' : ` (at ${x})`);
    });
    if (flat) said.unshift('at ' + here);
    say(said.join('\\n'), event.clientX, event.clientY);
  };
  svg.addEventListener('pointermove', follow);
  svg.addEventListener('pointerdown', follow);
}
for (const mark of $('[data-tip]')) {
  mark.addEventListener('focus', () => {
    const box = mark.getBoundingClientRect();
    say(mark.dataset.tip, box.right, box.top);
  });
  mark.addEventListener('blur', hide);
}
addEventListener('scroll', hide, { passive: true });
"""
