// The labelling page: gets an item, lets somebody answer it by mouse, finger or keys, and sees to it that the answer
// reaches the server exactly once.

import { byId, grow, key, make, newId } from './dom.js';
import { Outbox } from './outbox.js';
import { rank } from './ranking.js';
import { compare, demonstrate, rate } from './tasks.js';

const TASKS = { demonstrate, rate, rank, compare };
const TITLES = {
  demonstrate: 'Write an answer', rate: 'Rate the answer', rank: 'Order the answers', compare: 'Compare two answers',
};
const REASONS = ['I do not understand the prompt', 'I do not know enough about this', 'The text is broken, or in another language',
  'It is harmful or disturbing', 'Another reason'];
const COMMON_KEYS = [['↵', 'save'], ['s', 'skip, with a reason'], ['z', 'take the last one back'], ['i', 'instructions'], ['?', 'these keys']];

const rater = document.querySelector('meta[name=rater]').content;
const kinds = new URLSearchParams(location.search).get('kinds') ?? '';
let csrf = document.querySelector('meta[name=csrf]').content;
let current = null;  // {assignment, task, clock}
let last = null;  // the newest label, which undo takes back
let busy = true;
let retry = 0;
let timer = null;

// --- the server ----------------------------------------------------------------------------------------------------------

async function ask(path, body) {
  const options = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body),
    headers: { 'content-type': 'application/json', 'x-csrf-token': csrf } };
  const response = await fetch(path, { cache: 'no-store', credentials: 'same-origin', ...options, signal: AbortSignal.timeout(15000) });
  const content = await response.json().catch(() => ({}));
  return { status: response.status, content, wait: Number(response.headers.get('retry-after')) || 0 };
}

async function renewToken() {
  const { status, content } = await ask('/api/session');
  if (status === 200) csrf = content.csrf;
  return status === 200;
}

/** What becomes of a request: saved, refused for good, to be sent again later, or stopped until somebody opens their link. */
async function send(path, body) {
  try {
    let answer = await ask(path, body);
    if (answer.status === 403 && await renewToken()) answer = await ask(path, body);
    const { status, content, wait } = answer;
    const message = typeof content.error === 'string' ? content.error : `The server answered ${status}.`;
    if (status >= 200 && status < 300) return { state: 'saved', content };
    if (status === 401 || status === 403) return { state: 'stopped', message };
    if (status >= 500 || [408, 421, 425, 429].includes(status)) return { state: 'later', message, wait };
    return { state: 'refused', message };
  } catch (error) {
    if (error instanceof DOMException || error instanceof TypeError) return { state: 'later', message: 'No connection to the server.' };
    throw error;
  }
}

const outbox = new Outbox(rater, label => send('/api/labels', label));

// --- from item to item ---------------------------------------------------------------------------------------------------

/** Send what waits, then show the next item; try again until both work. */
async function go(restore = null) {
  clearTimeout(timer);
  busy = true;
  controls();
  let result = await outbox.flush();
  const refused = result.state === 'refused' ? result.message : '';
  if (result.state !== 'later' && result.state !== 'stopped') {
    result = await send(`/label/next?kinds=${encodeURIComponent(kinds)}`);
    if (result.state === 'saved') {
      retry = 0;
      notice(refused ? `The last label was not taken: ${refused}` : '');
      return present(result.content, restore);
    }
  }
  const waiting = outbox.waiting().length;
  const kept = waiting === 0 ? '' : waiting === 1 ? ' Your label is kept here and will be sent.' : ` ${waiting} labels are kept here and will be sent.`;
  if (result.state === 'later') {
    retry += 1;
    const seconds = result.wait || Math.min(10, 0.5 * 2 ** Math.min(retry, 6));
    notice(`${result.message}${kept} Trying again…`);
    timer = setTimeout(() => go(restore), 1000 * seconds);
  } else {
    notice(`${result.message}${kept} Open your own link again.`);
  }
  status(waiting ? 'Not saved yet' : '');
}

function present({ assignment, progress, last: newest }, restore) {
  last = newest;
  busy = false;
  showProgress(progress);
  if (assignment === null) {
    current = null;
    nothingLeft(progress);
    timer = setTimeout(go, 30000);
    return controls();
  }
  const task = TASKS[assignment.kind](assignment, controls, rater);
  current = { assignment, task, clock: stopwatch() };
  const heading = make('h1', { tabindex: -1, text: TITLES[assignment.kind] });
  byId('task').replaceChildren(heading, instructions(assignment.guide), prompt(assignment), task.element);
  byId('task').className = assignment.kind;
  document.title = TITLES[assignment.kind];
  byId('save-key').textContent = assignment.kind === 'demonstrate' ? 'Ctrl ↵' : '↵';
  listKeys(task.keys);
  scrollTo(0, 0);
  heading.focus({ preventScroll: true });
  task.start();
  if (restore && restore.item === assignment.id && restore.skipped === null) task.restore(restore.payload);
  controls();
}

async function finish(skipped = null) {
  if (busy || !current) return;
  const { assignment, task, clock } = current;
  const payload = skipped === null ? task.payload() : {};
  if (payload === null) return status(task.missing, true);
  busy = true;
  outbox.put({ id: newId(), item: assignment.id, payload, seconds: clock(), order: assignment.order, skipped });
  task.saved?.();
  status('Saving…');
  await go();
  if (!busy) status(skipped === null ? 'Saved' : 'Skipped');
}

async function undo() {
  if (busy) return;
  if (last === null) return status('There is nothing to take back.', true);
  const back = last;
  busy = true;
  controls();
  const result = await send('/api/undo', { label: back.id });
  if (result.state === 'saved') {
    await go(back);
    if (!busy) status('Taken back');
    return;
  }
  busy = false;
  notice(`It was not taken back: ${result.message}`);
  controls();
}

// --- what is shown -------------------------------------------------------------------------------------------------------

function prompt({ prompt: text, messages }) {
  if (!messages.length) {
    return make('section', { class: 'prompt' }, make('h2', { class: 'zone', text: 'Prompt' }), make('div', { class: 'text', text, dir: 'auto' }));
  }
  return make('section', { class: 'prompt' }, make('h2', { class: 'zone', text: 'Conversation' }),
    ...messages.map(message => make('div', { class: `turn ${message.role === 'assistant' ? 'assistant' : 'other'}` },
      make('span', { class: 'role', text: message.role }), make('div', { class: 'text', text: message.content, dir: 'auto' }))));
}

/** Instructions stay open until they have been closed once, and open again when they change. */
function instructions(tree) {
  const text = JSON.stringify(tree);
  const name = `textenv:read:${rater}`;
  let read = [];
  try { read = JSON.parse(localStorage.getItem(name) ?? '[]'); } catch { /* none */ }
  const box = make('section', { id: 'guide', class: 'guide', hidden: read.includes(text) });
  const close = make('button', { type: 'button', class: 'quiet', text: 'Got it', onclick: () => toggleGuide() });
  box.append(make('div', { class: 'words' }, ...grow(tree)), close);
  box.dataset.text = text;
  byId('show-guide').setAttribute('aria-expanded', String(!box.hidden));
  return box;
}

function toggleGuide() {
  const box = byId('guide');
  if (!box) return;
  box.hidden = !box.hidden;
  byId('show-guide').setAttribute('aria-expanded', String(!box.hidden));
  if (!box.hidden) return box.scrollIntoView({ block: 'nearest' });
  try {
    const read = JSON.parse(localStorage.getItem(`textenv:read:${rater}`) ?? '[]');
    localStorage.setItem(`textenv:read:${rater}`, JSON.stringify([...new Set([...read, box.dataset.text])].slice(-20)));
  } catch { /* full or forbidden */ }
}

function nothingLeft({ labelled }) {
  document.title = 'All done';
  byId('task').className = 'finished';
  byId('task').replaceChildren(make('div', { class: 'empty' }, make('h1', { text: 'Nothing left for now' }),
    make('p', { text: labelled ? `You have labelled ${labelled}. Thank you! New items appear here by themselves.`
      : 'There is nothing to label yet. New items appear here by themselves.' }),
    make('button', { type: 'button', text: 'Look again', onclick: () => go() })));
}

function showProgress({ labelled, skipped, remaining }) {
  const dealt = labelled + skipped;
  const bar = byId('progress');
  bar.setAttribute('aria-valuemax', dealt + remaining);
  bar.setAttribute('aria-valuenow', dealt);
  byId('done').style.width = `${dealt + remaining ? (100 * dealt) / (dealt + remaining) : 0}%`;
  byId('count').textContent = `${dealt} of ${dealt + remaining}`;
  byId('count').title = `${labelled} labelled, ${skipped} skipped, ${remaining} left`;
}

function controls() {
  byId('task').setAttribute('aria-busy', String(busy));
  byId('actions').hidden = !current && last === null;
  byId('save').hidden = byId('skip').hidden = !current;
  byId('undo').disabled = busy || last === null;
  byId('skip').disabled = busy;
  byId('save').disabled = busy;
  byId('save').classList.toggle('ready', Boolean(current) && current.task.payload() !== null);
  if (!busy) status('');
}

function status(text, warning = false) {
  byId('status').textContent = text;
  byId('status').classList.toggle('warning', warning);
}

function notice(text) {
  byId('notice').textContent = text;
  byId('notice').hidden = !text;
}

function listKeys(own) {
  byId('key-list').replaceChildren(...[...own, ...COMMON_KEYS].flatMap(([names, what]) =>
    [make('dt', {}, ...names.split(' ').map(name => (name === '…' ? ' … ' : key(name)))), make('dd', { text: what })]));
}

/** Seconds that the page was in view. */
function stopwatch() {
  let sum = 0;
  let since = document.hidden ? null : performance.now();
  document.addEventListener('visibilitychange', () => {
    if (document.hidden && since !== null) { sum += performance.now() - since; since = null; }
    if (!document.hidden && since === null) since = performance.now();
  });
  return () => Math.round(sum + (since === null ? 0 : performance.now() - since)) / 1000;
}

// --- skipping ------------------------------------------------------------------------------------------------------------

function openSkip() {
  if (busy || !current) return;
  byId('reasons').replaceChildren(...REASONS.map((text, index) => make('label', { class: 'reason' },
    make('input', { type: 'radio', name: 'reason', value: text, checked: index === 0 }), make('span', { text }), key(String(index + 1)))));
  byId('skip-words').value = '';
  byId('skipping').showModal();
  byId('reasons').querySelector('input').focus();
}

byId('skipping').addEventListener('keydown', event => {
  if (event.target.id === 'skip-words' || !/^[1-5]$/.test(event.key)) return;
  const input = byId('reasons').querySelectorAll('input')[Number(event.key) - 1];
  input.checked = true;
  input.focus();
});
byId('skip-form').addEventListener('submit', () => {
  const reason = byId('reasons').querySelector('input:checked').value;
  const words = byId('skip-words').value.trim();
  finish(words ? `${reason}: ${words}` : reason);
});
byId('skip-cancel').addEventListener('click', () => byId('skipping').close());

// --- keys and buttons ----------------------------------------------------------------------------------------------------

const ACTIONS = { z: undo, s: openSkip, i: toggleGuide, '?': () => byId('keys').showModal() };

document.addEventListener('keydown', event => {
  if (document.querySelector('dialog[open]')) return;
  const command = event.ctrlKey || event.metaKey;
  const writing = event.target.matches('textarea, input[type=text]');
  const pressed = event.key.toLowerCase();
  if (writing && pressed === 'escape') return event.target.blur();
  let done = true;
  if (event.altKey || event.repeat && pressed === 'enter') return;
  if (pressed === 'enter' && (command || !writing && !event.target.matches('button, a'))) finish();
  else if (command && pressed === 'z' && !writing) undo();
  else if (command || writing) return;
  else if (!busy && current?.task.press(event)) done = true;
  else if (ACTIONS[pressed]) ACTIONS[pressed]();
  else done = false;
  if (done) event.preventDefault();
});
byId('save').addEventListener('click', () => finish());
byId('skip').addEventListener('click', openSkip);
byId('undo').addEventListener('click', undo);
byId('show-guide').addEventListener('click', toggleGuide);
byId('show-keys').addEventListener('click', () => byId('keys').showModal());
addEventListener('online', () => { if (busy && timer) go(); });

go();
