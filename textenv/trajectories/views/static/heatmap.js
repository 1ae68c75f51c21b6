// Answers token by token: colours, tooltip, keys, order. Every text becomes a text node, whatever it contains.
const data = JSON.parse(document.getElementById('data').textContent);
const find = name => document.getElementById(name);
const make = (tag, text, kind) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind; return e; };
const dark = matchMedia('(prefers-color-scheme: dark)');
const dyes = () => {
  const style = getComputedStyle(document.documentElement);
  const read = name => { const hex = style.getPropertyValue(`--${name}`).trim().slice(1), size = hex.length / 3;
    return [0, 1, 2].map(i => parseInt(hex.slice(size * i, size * (i + 1)).repeat(3 - size), 16)); };
  return { mid: read('card'), low: read('low'), high: read('high'), one: read('one') };
};
let dye = dyes();
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
  return mix(dye.mid, q.scale === 'positive' ? dye.one : v < 0 ? dye.low : dye.high, s);
};

// One answer.
const visible = text => text.replace(/\n/g, '⏎').replace(/\t/g, '⇥');
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
    if (text.includes('\n')) row.append(make('br'));
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
dark.addEventListener('change', () => { dye = dyes(); legend(); document.querySelectorAll('.card').forEach(paint); });
const wanted = new URLSearchParams(location.hash.slice(1));
const q = data.quantities.find(entry => entry.key === wanted.get('by'));
if (q) { chosen = q; document.querySelectorAll('#quantities input')[data.quantities.indexOf(q)].checked = true; }
if (wanted.has('numbers')) { find('numbers').checked = true; cards.classList.add('numbers'); }
find('count').textContent = `${data.answers.length} answer${data.answers.length === 1 ? '' : 's'}, ` +
  `${data.answers.reduce((n, a) => n + a.ids.length, 0).toLocaleString('en')} tokens`;
legend();
more();
