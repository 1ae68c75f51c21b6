// The dashboard: asks for the figures every few seconds and draws the parts that changed.

import { Axis, bars, decimal, figure, percent, stacked, whole } from './charts.js';
import { byId, make } from './dom.js';

const EVERY_SECONDS = 3;
const KINDS = { demonstrate: 'Write an answer', rate: 'Rate', rank: 'Rank', compare: 'Compare' };
const SHARES = new Axis(0, 1, [0, 0.5, 1]);
const ALPHAS = new Axis(0, 1, [0, 0.5, 1], decimal);
const CEILINGS = new Axis(0.5, 1, [0.5, 0.75, 1]);

const explain = text => make('p', { class: 'explain', text });
const missing = text => make('p', { class: 'missing', text });
const many = (number, one, more = `${one}s`) => `${whole(number)} ${number === 1 ? one : more}`;

/** Rows of a name, a drawing, a figure and what it rests on; the scale below them. */
function rows(axis, entries) {
  const lines = entries.map(({ name, found, format, rest, note, ...drawn }) => make('div', { class: 'row' },
    make('span', { class: 'name' }, ...[name].flat()),
    note ? missing(note) : axis.whisker(found, { label: typeof name === 'string' ? name : '', ...drawn }),
    note ? null : make('span', { class: 'value' }, figure(found, format), make('span', { class: 'rest', text: rest }))));
  const drawn = entries.some(entry => !entry.note);
  return make('div', { class: 'rows' }, ...lines, drawn ? make('div', { class: 'row scale' }, make('span'), axis.legend(), make('span')) : null);
}

// --- the parts -------------------------------------------------------------------------------------------------------------

function tiles(data) {
  const open = data.queue.reduce((sum, kind) => sum + kind.open, 0);
  const left = data.queue.reduce((sum, kind) => sum + kind.labels_left, 0);
  const best = (list, size) => list.filter(each => !each.note).sort((a, b) => size(b) - size(a))[0];
  const agreed = best(data.agreement, each => each.alpha.units);
  const ceiling = best(data.ceiling.filter(each => each.kind !== 'rate'), each => each.pairs);
  const win = data.win_rates[0];
  const tile = (name, value, rest) => make('div', { class: 'tile' }, make('span', { class: 'name', text: name }),
    make('b', { text: value }), make('span', { class: 'rest', text: rest }));
  return [
    tile('Labels', whole(data.labels), data.pace.now ? `${whole(data.pace.now)} in the last hour, by ${many(data.pace.active, 'person', 'people')}` : 'none in the last hour'),
    tile('Open items', whole(open), left ? `${many(left, 'label')} still wanted` : 'nothing is waiting'),
    agreed ? tile('Agreement', decimal(agreed.alpha.value), `Krippendorff’s α, ${KINDS[agreed.kind].toLowerCase()}`)
      : tile('Agreement', '–', 'needs two raters on the same item'),
    ceiling ? tile('Noise ceiling', percent(ceiling.value), 'best accuracy of a reward model')
      : tile('Noise ceiling', '–', 'needs two raters on the same pair'),
    win ? tile('Most compared', percent(win.share.value), `${win.first} against ${win.second}`)
      : tile('Win rates', '–', 'need answers of two policies'),
  ];
}

function pace({ pace: found, labels }) {
  if (!found.labels.length) return [explain('How fast labels come in.'), missing('No labels yet.')];
  const unit = found.width < 3600 ? '10 minutes' : found.width < 86400 ? many(found.width / 3600, 'hour') : many(found.width / 86400, 'day');
  return [explain(`Labels per hour, skips apart; a bar is ${unit}. Of all ${whole(labels)}, ${found.now ? whole(found.now) : 'none'} came in the last hour.`), bars(found)];
}

function queue({ queue: found }) {
  if (!found.length) return [explain('What people are asked.'), missing('No items yet: POST /admin/items, or --make.kind.')];
  const kinds = found.map(each => make('div', { class: 'kind' },
    make('div', { class: 'line' }, make('b', { text: KINDS[each.kind] }),
      make('span', { class: 'rest', text: `${whole(each.done)} of ${whole(each.done + each.open)} done` })),
    stacked([{ name: 'done', value: each.done, tone: 'done' }, { name: 'leased', value: Math.min(each.leased, each.open), tone: 'leased' },
      { name: 'open', value: each.open - Math.min(each.leased, each.open), tone: 'open' }]),
    make('span', { class: 'rest', text: [`${many(each.labels_left, 'label')} wanted`, each.leased ? `${whole(each.leased)} before somebody now` : '',
      each.gold ? `${many(each.gold, 'gold question')}` : '', each.withdrawn ? `${whole(each.withdrawn)} withdrawn` : ''].filter(Boolean).join(' · ') })));
  const keys = [['done', 'done'], ['leased', 'before somebody now'], ['open', 'open']];
  return [explain('Items by what is asked; gold questions are counted apart.'), ...kinds,
    make('div', { class: 'keys' }, ...keys.map(([tone, text]) => make('span', { class: `key ${tone}`, text })))];
}

function wins({ win_rates: found, win_rates_left_out: more, mean_ratings: rated, mean_ratings_left_out: moreRated }) {
  const about = explain('How often the first policy’s answer is preferred: comparisons and pairs of rankings, ties count half. The intervals (95 %) go by the number of prompts.');
  const entries = found.map(each => ({
    name: [make('b', { text: each.first }), make('span', { class: 'against', text: `against ${each.second}` })],
    found: each.share, mark: 0.5, tone: each.share.low > 0.5 ? 'sure' : '',
    rest: [many(each.share.number, 'pair'), many(each.share.clusters, 'prompt'), `${percent(each.ties)} ties`,
      each.both_bad ? `${percent(each.both_bad)} both bad` : ''].filter(Boolean).join(' · '),
  }));
  const left = number => (number ? make('p', { class: 'rest', text: `${whole(number)} more.` }) : null);
  const compared = entries.length ? [rows(SHARES, entries), left(more)] : [missing('Needs comparisons or rankings of answers by two policies.')];
  if (!rated.length) return [about, ...compared];
  const means = rated.map(each => ({ name: each.policy, found: each.share,
    rest: `${many(each.share.number, 'rating')} · ${many(each.share.clusters, 'prompt')}` }));
  return [about, ...compared, make('p', { class: 'explain next', text: 'Mean rating, from the lowest step of the scale (0 %) to the highest.' }), rows(SHARES, means), left(moreRated)];
}

function ceiling({ ceiling: found }) {
  const about = explain('The best accuracy that any reward model could reach against these raters: where they contradict each other, nobody can be right about both.');
  if (!found.length) return [about, missing('Needs comparisons, rankings or ratings.')];
  const choices = found.filter(each => each.kind !== 'rate').map(each => ({
    name: KINDS[each.kind], found: each, band: each.note ? null : [each.least, each.most], note: each.note && `${each.note}.`,
    rest: `${many(each.pairs, 'pair')} · at least ${percent(each.least)}, at most ${percent(each.most)}`,
  }));
  const rated = found.filter(each => each.kind === 'rate').map(each => ({
    name: 'Rate', found: each, format: decimal, note: each.note && `${each.note}.`, rest: `${many(each.pairs, 'item')} · best correlation with a rating`,
  }));
  return [about, choices.length ? rows(CEILINGS, choices) : null, rated.length ? rows(ALPHAS, rated) : null,
    choices.some(each => !each.note) ? make('p', { class: 'rest after', text: 'The faint band needs no assumption; the dot takes opinions to be spread like a Beta distribution.' }) : null];
}

function agreement({ agreement: found }) {
  const about = explain('Krippendorff’s α: 1 is perfect, 0 is chance. Rankings count pair by pair, ratings by their distance.');
  if (!found.length) return [about, missing('Needs comparisons, rankings or ratings.')];
  const entries = found.map(each => ({
    name: KINDS[each.kind], found: each.alpha, format: decimal, note: each.note && `${each.note}.`,
    rest: `${many(each.alpha.units, 'item')} · ${percent(each.same.value)} say the same${each.close ? `, ${percent(each.close.value)} within a step` : ''}`,
  }));
  return [about, rows(ALPHAS, entries)];
}

function position({ position: found }) {
  const about = explain('How often the answer shown first is preferred. The order is random: anything but 50 % is bias.');
  if (!found.length) return [about, missing('Needs comparisons or rankings.')];
  return [about, rows(SHARES, found.map(each => ({
    name: KINDS[each.kind], found: each.share, mark: 0.5, tone: off(each.share) ? 'warn' : '', rest: many(each.share.number, 'pair'),
  })))];
}

function length({ length: found }) {
  const parts = [explain('How often the longer answer is preferred, by how many times longer it is. Longer answers may be better ones, too.')];
  const times = each => (each.to === null ? `${each.from}× and more` : `${each.from} to ${each.to}×`);
  parts.push(found.longer.number ? rows(SHARES, [{ name: 'All', found: found.longer, mark: 0.5, rest: many(found.longer.number, 'pair') },
    ...found.classes.map(each => ({ name: times(each), found: each.share, mark: 0.5, rest: many(each.share.number, 'pair') }))])
    : missing('Needs comparisons or rankings of answers of different lengths.'));
  if (found.ratings.value !== null) {
    const text = `Ratings: rank correlation with length ${decimal(found.ratings.value)} [${decimal(found.ratings.low)}, ${decimal(found.ratings.high)}], ${many(found.ratings.items, 'item')}.`;
    parts.push(make('p', { class: 'rest after', text }));
  }
  return parts;
}

const off = share => share.low > 0.5 || share.high < 0.5;

function raters({ raters: found, raters_left_out: more }) {
  const about = explain('Gold: right answers to gold questions. Others: how often somebody else says the same. First: how often the answer shown first is preferred. A rater is marked only where chance would hardly do it (5 % for all of them together).');
  if (!found.length) return [about, missing('Nobody has labelled yet.')];
  const cell = (name, ...content) => make('td', { 'data-name': name }, ...content);
  const share = (name, found, mark, need) => (found.number
    ? cell(name, make('span', { class: 'mini' }, figure(found), SHARES.whisker(found, { mark, label: name }), make('span', { class: 'rest', text: `of ${whole(found.number)}` })))
    : cell(name, make('span', { class: 'rest', text: need })));
  const line = each => make('tr', {},
    make('th', { scope: 'row' }, make('span', { class: 'rater', text: each.name }),
      each.below ? make('span', { class: 'flag', text: 'agrees less than the others' }) : null,
      each.one_sided ? make('span', { class: 'flag', text: 'prefers one side' }) : null),
    cell('Labels', make('b', { text: whole(each.labels) })),
    cell('Skips', each.skips ? `${percent(each.skips / (each.labels + each.skips))}` : make('span', { class: 'rest', text: 'none' })),
    cell('Time', each.seconds === null ? '–' : duration(each.seconds)),
    share('Gold', each.gold, null, 'none answered'), share('Others', each.agreement, each.usual, 'nothing shared'),
    share('First', each.first_shown, 0.5, 'no pairs'));
  const head = ['Rater', 'Labels', 'Skips', 'Time', 'Gold', 'Others', 'First'].map(text => make('th', { scope: 'col', text }));
  return [about, make('table', {}, make('thead', {}, make('tr', {}, ...head)), make('tbody', {}, ...found.map(line))),
    more ? make('p', { class: 'rest', text: `${many(more, 'rater')} more, with fewer labels.` }) : null];
}

const duration = seconds => (seconds < 99.5 ? `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s` : `${(seconds / 60).toFixed(1)} min`);

// --- keeping up ------------------------------------------------------------------------------------------------------------

const PARTS = { tiles: [tiles, data => [data.labels, data.queue, data.agreement, data.ceiling, data.win_rates[0], data.pace.now, data.pace.active]],
  pace: [pace, data => [data.pace, data.labels]], queue: [queue, data => data.queue], wins: [wins, data => [data.win_rates, data.win_rates_left_out, data.mean_ratings]],
  ceiling: [ceiling, data => data.ceiling], agreement: [agreement, data => data.agreement], 
  position: [position, data => data.position], length: [length, data => data.length],
  raters: [raters, data => [data.raters, data.raters_left_out]] };
const shown = {};
let timer = null;

/** Draw what differs from what is shown: nothing moves under the reader's eyes for no reason. */
function show(data) {
  for (const [id, [part, of]] of Object.entries(PARTS)) {
    const state = JSON.stringify(of(data));
    if (shown[id] === state) continue;
    shown[id] = state;
    byId(id).replaceChildren(...part(data).filter(Boolean));
  }
  for (const id of ['tiles', 'grid']) byId(id).hidden = false;
  byId('waiting').hidden = true;
  byId('main').setAttribute('aria-busy', 'false');
  byId('live').textContent = `as of ${new Date(1000 * data.now).toLocaleTimeString('en-GB')}`;
  byId('live').className = 'live on';
}

function notice(...content) {
  byId('notice').replaceChildren(...content);
  byId('notice').hidden = content.length === 0;
  if (content.length) byId('live').className = 'live';
}

async function look() {
  clearTimeout(timer);
  try {
    const response = await fetch('/admin/dashboard', { cache: 'no-store', credentials: 'same-origin', signal: AbortSignal.timeout(15000) });
    if (response.status === 401) {
      return notice('Your session has ended. ', make('a', { href: '/signin?next=/dashboard', text: 'Sign in again' }));
    }
    if (!response.ok) throw new TypeError(`The server answered ${response.status}.`);
    const data = await response.json();
    if (data.preparing === undefined) show(data);
    else byId('waiting').textContent = `Reading the labels: ${whole(data.preparing)} so far…`;
    notice();
  } catch (error) {
    if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
    notice(`${error.message.startsWith('The server') ? error.message : 'No connection to the server.'} Trying again…`);
  }
  if (!document.hidden) timer = setTimeout(look, 1000 * EVERY_SECONDS);
}

document.addEventListener('visibilitychange', () => (document.hidden ? clearTimeout(timer) : look()));
look();
