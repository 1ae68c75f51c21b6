"""The heat map's page: style sheet, frame and script, kept in Python so that a page needs no file beside itself.

Colours: blue below and orange above 0 (told apart by colour-blind people, and different in lightness from the middle),
one purple for what has no sign; once for a light and once for a dark screen. Every number can also be read.
"""

_STYLE = """
:root { color-scheme: light dark; --bg:#f7f7f4; --card:#fff; --ink:#1c1f24; --soft:#5d6470; --line:#dcddd8;
  --focus:#2868c8; --shade:#f0f0ec; }
@media (prefers-color-scheme: dark) { :root { --bg:#131519; --card:#1b1e24; --ink:#e6e7e9; --soft:#a0a7b3;
  --line:#31363f; --focus:#77a9f7; --shade:#252931; } }
* { box-sizing:border-box; } [hidden] { display:none !important; }
body { margin:0; background:var(--bg); color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue","Noto Sans",sans-serif; -webkit-text-size-adjust:100%; }
header, main { max-width:980px; margin:0 auto; padding:0 20px; }
h1 { font-size:clamp(20px,2.6vw,26px); line-height:1.3; margin:30px 0 2px; letter-spacing:-.01em; }
p { margin:0; } .soft { color:var(--soft); } header p { font-size:14.5px; }
#bar { position:sticky; top:0; z-index:3; background:var(--bg); border-bottom:1px solid var(--line); margin-top:16px; }
#bar > div { max-width:980px; margin:0 auto; padding:10px 20px 9px; display:grid; gap:8px 22px; align-items:start;
  grid-template-columns:minmax(0,1fr) minmax(200px,300px); }
fieldset { border:0; margin:0; padding:0; min-width:0; display:flex; flex-wrap:wrap; gap:6px; }
legend { float:left; width:1px; height:1px; overflow:hidden; position:absolute; }
.pill input { position:absolute; opacity:0; pointer-events:none; }
.pill span { display:block; padding:3px 12px; border:1px solid var(--line); border-radius:20px; background:var(--card);
  font-size:14px; cursor:pointer; white-space:nowrap; }
.pill input:checked + span { background:var(--ink); color:var(--bg); border-color:var(--ink); }
.pill input:focus-visible + span { outline:2px solid var(--focus); outline-offset:2px; }
#scale { height:14px; border-radius:4px; border:1px solid var(--line); }
#ticks { display:flex; justify-content:space-between; font-size:12.5px; color:var(--soft);
  font-variant-numeric:tabular-nums; }
#meaning { font-size:13.5px; color:var(--soft); grid-column:1/-1; line-height:1.4; }
.tools { display:flex; flex-wrap:wrap; gap:6px 18px; font-size:14px; align-items:center; margin:16px 0 12px;
  color:var(--soft); }
label.tool { display:inline-flex; gap:7px; align-items:center; } select { font:inherit; color:var(--ink);
  background:var(--card); border:1px solid var(--line); border-radius:7px; padding:3px 6px; max-width:100%; }
.card { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:14px 16px; margin:0 0 14px; }
.card h2 { font-size:15px; font-weight:600; margin:0 0 4px; overflow-wrap:anywhere; line-height:1.45; }
.meta { display:flex; flex-wrap:wrap; gap:3px 14px; font-size:13px; color:var(--soft);
  font-variant-numeric:tabular-nums; margin-bottom:9px; } .meta b { color:var(--ink); font-weight:600; }
.tokens { line-height:2; overflow-wrap:anywhere; }
.t { border-radius:3px; padding:3px 0; cursor:default; white-space:pre-wrap; box-decoration-break:clone;
  -webkit-box-decoration-break:clone; box-shadow:inset 0 0 0 .5px color-mix(in srgb, currentColor 13%, transparent); }
.t:focus-visible, .t.on { outline:2px solid var(--focus); outline-offset:1px; }
.t.off { opacity:.55; text-decoration:underline dotted; } .id { font:12.5px ui-monospace,Menlo,Consolas,monospace;
  padding:3px 3px; } .ghost { opacity:.6; }
.numbers .tokens { line-height:1.25; display:flex; flex-wrap:wrap; gap:5px 3px; }
.numbers .t { display:inline-flex; flex-direction:column; padding:2px 4px; align-items:center; min-width:2.6em; }
.numbers .t::after { content:attr(data-n); font-size:11px; font-variant-numeric:tabular-nums; opacity:.85; }
.numbers br { display:none; }
button { font:inherit; font-size:14.5px; color:var(--ink); background:var(--card); border:1px solid var(--line);
  border-radius:8px; padding:7px 16px; cursor:pointer; margin:0 0 40px; }
button:focus-visible, select:focus-visible, .tool input:focus-visible { outline:2px solid var(--focus);
  outline-offset:2px; }
#tip { position:fixed; z-index:9; pointer-events:none; background:var(--ink); color:var(--bg); font-size:13px;
  line-height:1.4; padding:8px 11px; border-radius:8px; max-width:min(280px,calc(100vw - 16px)); display:none;
  font-variant-numeric:tabular-nums; box-shadow:0 2px 10px #0003; }
#tip b { display:block; overflow-wrap:anywhere; white-space:pre-wrap; } #tip dl { display:grid; margin:4px 0 0;
  grid-template-columns:auto auto; gap:1px 16px; } #tip dt, #tip dd { margin:0; } #tip dd { text-align:right; }
#tip .now { font-weight:700; }
@media (max-width:640px) { header, main, #bar > div { padding-left:12px; padding-right:12px; }
  #bar > div { grid-template-columns:minmax(0,1fr); gap:8px; } #meaning { display:none; }
  fieldset { flex-wrap:nowrap; overflow-x:auto; scrollbar-width:none; padding:3px; margin:-3px; }
  .card { padding:12px; } h1 { margin-top:18px; } }
@media print { #bar { position:static; } button, .tools { display:none; } }
"""

_SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent);
const find = name => document.getElementById(name);
const make = (tag, text, kind) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind; return e; };
const dark = matchMedia('(prefers-color-scheme: dark)');
const mid = () => dark.matches ? [27, 30, 36] : [255, 255, 255];
const ends = () => dark.matches ? { low: [74, 144, 217], high: [224, 122, 31], one: [150, 110, 214] } :
  { low: [59, 130, 199], high: [224, 123, 20], one: [136, 92, 200] };
const mix = (a, b, s) => a.map((x, i) => Math.round(x + (b[i] - x) * s));
const css = c => `rgb(${c.join(',')})`;
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const inkOn = c => light(c) > .19 ? '#111318' : '#f6f7f8';
const digits = size => size >= 100 ? 0 : size >= 10 ? 1 : size && size < .1 ? 3 : 2;
const fixed = (v, plus) => v === null || v === undefined ? '–' :
  ((plus && v > 0 ? '+' : '') + v.toFixed(digits(Math.abs(v)))).replace('-', '−');
let chosen = data.quantities[0], shown = 0, reach = {};
const step = 20;

// The end of each scale: 98 of 100 tokens lie inside; what lies beyond has the end's colour.
for (const q of data.quantities) {
  const all = data.answers.flatMap(a => a.q[q.key] || []).filter(v => v !== null).map(Math.abs).sort((a, b) => a - b);
  const last = all.length - 1;
  reach[q.key] = all.length ? all[Math.min(last, Math.floor(.98 * all.length))] || all[last] || 1 : 1;
}
const colour = (q, v) => {
  if (v === null || v === undefined) return null;
  const s = Math.min(1, Math.abs(v) / reach[q.key]);
  return mix(mid(), q.scale === 'positive' ? ends().one : v < 0 ? ends().low : ends().high, s);
};

// One answer.
const visible = text => text.replace(/\\n/g, '⏎').replace(/\\t/g, '⇥');
function card(answer, number) {
  const box = make('article', undefined, 'card');
  box.append(make('h2', answer.prompt));
  box.append(make('div', undefined, 'meta'));
  if (!answer.tokens) box.append(make('p', answer.response));
  const row = make('div', undefined, 'tokens');
  row.setAttribute('role', 'group');
  row.setAttribute('aria-label', `Answer ${number + 1}: ${answer.ids.length} tokens; arrow keys go through them`);
  answer.ids.forEach((id, i) => {
    const text = answer.tokens ? answer.tokens[i] : String(id);
    const t = make('span', visible(text) || '◌', answer.tokens ? 't' : 't id');
    if (!text) t.classList.add('ghost');
    if (answer.mask && !answer.mask[i]) t.classList.add('off');
    t.tabIndex = i ? -1 : 0;
    t.dataset.i = i;
    row.append(t);
    if (text.includes('\\n')) row.append(make('br'));
    else if (!answer.tokens) row.append(' ');
  });
  if (!answer.ids.length) row.append(make('span', 'empty answer', 'soft'));
  row.answer = answer;
  box.append(row);
  paint(box);
  return box;
}
function paint(box) {
  const row = box.querySelector('.tokens'), answer = row.answer, values = answer.q[chosen.key];
  for (const t of row.querySelectorAll('.t')) {
    const own = !answer.mask || answer.mask[t.dataset.i], v = values && own ? values[t.dataset.i] : null;
    const c = colour(chosen, v);
    t.style.background = c ? css(c) : '';
    t.style.color = c ? inkOn(c) : '';
    t.dataset.n = fixed(v);
    const name = answer.tokens ? answer.tokens[t.dataset.i] : answer.ids[t.dataset.i];
    t.setAttribute('aria-label', `${name}: ${chosen.title} ${fixed(v)}`);
  }
  const parts = [];
  if (answer.score !== null) parts.push(['score', fixed(answer.score, true)]);
  parts.push([chosen.total ? `sum of ${chosen.title}` : `mean ${chosen.title}`, fixed(summary(answer))]);
  parts.push(['tokens', answer.ids.length], ['ended by', answer.finish], ['policy version', answer.version]);
  const meta = box.querySelector('.meta');
  meta.replaceChildren(...parts.map(([name, value]) => { const s = make('span', name + ' ');
    s.append(make('b', value)); return s; }));
}
function summary(answer) {
  const known = (answer.q[chosen.key] || []).filter((v, i) => v !== null && (!answer.mask || answer.mask[i]));
  if (!known.length) return null;
  const sum = known.reduce((a, b) => a + b, 0);
  return chosen.total ? sum : sum / known.length;
}

// What is shown, and in which order.
function order() {
  const rows = data.answers.map((answer, i) => [answer, i]), by = find('order').value;
  if (by === 'stored') return rows;
  const key = by === 'score' ? a => a.score : summary, sign = by === 'low' ? 1 : -1;
  return rows.map(r => [...r, key(r[0])]).sort((a, b) =>
    a[2] === null ? 1 : b[2] === null ? -1 : sign * (a[2] - b[2]) || a[1] - b[1]);
}
function more() {
  const rows = order();
  find('cards').append(...rows.slice(shown, shown + step).map(([answer, i]) => card(answer, i)));
  shown = Math.min(rows.length, shown + step);
  find('more').hidden = shown >= rows.length;
  find('more').textContent = `Show ${Math.min(step, rows.length - shown)} more of ${rows.length - shown}`;
}
function again() { shown = 0; find('cards').replaceChildren(); more(); }
function legend() {
  const q = chosen, stops = [];
  for (let i = 0; i <= 20; i++) {
    const v = (q.scale === 'positive' ? i / 20 : i / 10 - 1) * reach[q.key];
    stops.push(css(colour(q, v)));
  }
  find('scale').style.background = `linear-gradient(90deg, ${stops.join(',')})`;
  const r = reach[q.key], unit = q.unit ? ' ' + q.unit : '';
  const ticks = q.scale === 'positive' ? ['0', fixed(r / 2), '≥ ' + fixed(r) + unit] :
    ['≤ ' + fixed(-r), '0', '≥ ' + fixed(r) + unit];
  find('ticks').replaceChildren(...ticks.map(text => make('span', text)));
  find('meaning').textContent = q.meaning + ' No colour: not known, or not chosen by the policy.';
}
function choose(q) {
  chosen = q;
  hide();
  legend();
  if (find('order').value === 'high' || find('order').value === 'low') again();
  else document.querySelectorAll('.card').forEach(paint);
}

// Tooltip: pointer, keyboard, touch.
const tip = find('tip');
let at = null;
const hide = () => { tip.style.display = 'none'; if (at) at.classList.remove('on'); at = null; };
function tell(t) {
  hide();
  at = t;
  t.classList.add('on');
  const answer = t.parentNode.answer, i = +t.dataset.i, own = !answer.mask || answer.mask[i];
  const list = make('dl');
  const line = (name, value, now) => list.append(make('dt', name, now), make('dd', value, now));
  line('token', `${i + 1} of ${answer.ids.length}`);
  line('id', answer.ids[i]);
  if (!own) line('chosen by', 'not the policy');
  for (const q of data.quantities) {
    const v = (answer.q[q.key] || [])[i];
    const name = q.title + (q.unit ? `, ${q.unit}` : '');
    if (v !== undefined) line(name, fixed(v, q.scale === 'signed'), q === chosen ? 'now' : '');
  }
  tip.replaceChildren(make('b', answer.tokens ? `“${visible(answer.tokens[i])}”` : `token ${answer.ids[i]}`), list);
  tip.style.display = 'block';
  const spot = t.getClientRects()[0] || t.getBoundingClientRect(), size = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(spot.left, innerWidth - size.width - 8)) + 'px';
  tip.style.top = (spot.bottom + 8 + size.height < innerHeight ? spot.bottom + 8 :
    Math.max(8, spot.top - size.height - 8)) + 'px';
}
const cards = find('cards');
cards.addEventListener('pointerover', e => { if (e.target.matches('.t')) tell(e.target); });
cards.addEventListener('pointerout', e => { if (e.pointerType === 'mouse') hide(); });
cards.addEventListener('focusin', e => { if (e.target.matches('.t')) tell(e.target); });
cards.addEventListener('focusout', hide);
addEventListener('scroll', hide, { passive: true });
document.addEventListener('click', e => { if (!e.target.closest('.t')) hide(); });
cards.addEventListener('keydown', e => {
  if (!e.target.matches('.t')) return;
  if (e.key === 'Escape') return hide();
  const rows = [...document.querySelectorAll('.tokens')], row = e.target.parentNode, i = +e.target.dataset.i;
  const all = [...row.querySelectorAll('.t')], near = rows[rows.indexOf(row) + (e.key === 'ArrowDown' ? 1 : -1)];
  const to = { ArrowLeft: all[i - 1], ArrowRight: all[i + 1], Home: all[0], End: all[all.length - 1],
    ArrowDown: near && near.querySelector('.t'), ArrowUp: near && near.querySelector('.t') };
  if (!(e.key in to)) return;
  e.preventDefault();
  if (!to[e.key]) return;
  e.target.tabIndex = -1;
  to[e.key].tabIndex = 0;
  to[e.key].focus();
});

// Controls.
for (const q of data.quantities) {
  const pill = make('label', undefined, 'pill'), input = make('input');
  input.type = 'radio'; input.name = 'quantity'; input.checked = q === chosen;
  input.addEventListener('change', () => choose(q));
  pill.append(input, make('span', q.title));
  find('quantities').append(pill);
}
find('order').addEventListener('change', again);
find('numbers').addEventListener('change', e => cards.classList.toggle('numbers', e.target.checked));
find('more').addEventListener('click', more);
dark.addEventListener('change', () => { legend(); document.querySelectorAll('.card').forEach(paint); });
const wanted = new URLSearchParams(location.hash.slice(1));
const q = data.quantities.find(entry => entry.key === wanted.get('by'));
if (q) { chosen = q; document.querySelectorAll('#quantities input')[data.quantities.indexOf(q)].checked = true; }
if (wanted.has('numbers')) { find('numbers').checked = true; cards.classList.add('numbers'); }
find('count').textContent = `${data.answers.length} answer${data.answers.length === 1 ? '' : 's'}, ` +
  `${data.answers.reduce((n, a) => n + a.ids.length, 0).toLocaleString('en')} tokens`;
legend();
more();
"""

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{{{title}}}}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{{{{title}}}}</h1>
<p class="soft"><span id="count"></span>. Point at a token, tap it, or go from token to token with Tab and the arrow
keys to read its numbers.</p>
</header>
<div id="bar"><div>
<fieldset id="quantities"><legend>Colour tokens by</legend></fieldset>
<div><div id="scale" aria-hidden="true"></div><div id="ticks"></div></div>
<p id="meaning" aria-live="polite"></p>
</div></div>
<main>
<div class="tools">
<label class="tool">Order <select id="order"><option value="stored">as stored</option>
<option value="score">best score first</option><option value="high">highest of this quantity first</option>
<option value="low">lowest of this quantity first</option></select></label>
<label class="tool"><input type="checkbox" id="numbers"> numbers under the tokens</label>
</div>
<div id="cards"></div>
<button id="more" type="button" hidden></button>
</main>
<div id="tip" role="tooltip"></div>
<noscript><p style="padding:20px">This page needs JavaScript to draw the tokens; nothing is loaded from
elsewhere.</p></noscript>
<script id="data" type="application/json">{{{{data}}}}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""
"""The page with ``{{title}}`` and ``{{data}}`` to fill in."""
