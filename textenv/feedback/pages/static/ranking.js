// Ranking: answers wait below and are placed above, best first; what shares a place is a tie. By letters and arrows, by
// buttons, or by dragging. The order itself is plain data (levels of answers) with pure functions, the rest draws it.

import { make } from './dom.js';
import { LETTERS, card, hints } from './tasks.js';

const without = (levels, answer) => levels.map(level => level.filter(each => each !== answer)).filter(level => level.length);
const levelOf = (levels, answer) => levels.findIndex(level => level.includes(answer));

/** The answer on a level of its own, before the level that is now at `index`. */
export function insertAt(levels, answer, index) {
  const from = levelOf(levels, answer);
  const gone = from >= 0 && levels[from].length === 1 && from < index ? 1 : 0;
  const rest = without(levels, answer);
  return [...rest.slice(0, index - gone), [answer], ...rest.slice(index - gone)];
}

/** The answer on the level of another. */
export function tieWith(levels, answer, other) {
  if (answer === other) return levels;
  return without(levels, answer).map(level => (level.includes(other) ? [...level, answer] : level));
}

/** One step up (-1) or down (1): out of a tie first, then past the neighbouring level. */
export function moveBy(levels, answer, step) {
  const from = levelOf(levels, answer);
  if (from < 0) return levels;
  if (levels[from].length > 1) return insertAt(levels, answer, step < 0 ? from : from + 1);
  const to = from + step;
  if (to < 0 || to >= levels.length) return levels;
  return insertAt(levels, answer, step < 0 ? to : to + 1);
}

/** Ties with the level above; an answer that is tied already leaves the tie. */
export function toggleTie(levels, answer) {
  const from = levelOf(levels, answer);
  if (from < 0) return levels;
  if (levels[from].length > 1) return insertAt(levels, answer, from + 1);
  return from === 0 ? levels : tieWith(levels, answer, levels[from - 1][0]);
}

/** Competition ranks by answer: after two firsts comes a third. */
export function ranksOf(levels, count) {
  const ranks = new Array(count).fill(null);
  let next = 1;
  for (const level of levels) {
    for (const answer of level) ranks[answer] = next;
    next += level.length;
  }
  return ranks;
}

const ordinal = n => `${n}${n % 100 > 10 && n % 100 < 14 ? 'th' : ['th', 'st', 'nd', 'rd'][n % 10] ?? 'th'}`;

export function rank(assignment, changed) {
  const order = assignment.order;
  const cards = new Map();
  let levels = [];
  let picked = null;
  const placed = make('ol', { class: 'levels', 'aria-label': 'Your order, best first' });
  const tray = make('div', { class: 'tray' });
  const trayTitle = make('h2', { class: 'zone', text: 'Not placed yet' });
  const hint = make('p', { class: 'dropzone', text: 'Best first: drag an answer here, click it, or press its letter.' });

  const change = (next, focus) => {
    const before = new Map([...cards].map(([answer, element]) => [answer, element.getBoundingClientRect().top]));
    levels = next;
    draw();
    if (focus !== undefined) cards.get(focus).focus({ preventScroll: true });
    glide(cards, before);
    changed();
  };
  const place = answer => change([...without(levels, answer), [answer]], answer);
  const button = (name, title, action) => make('button', { type: 'button', class: 'small', 'aria-label': title, title, text: name,
    onclick: event => { event.stopPropagation(); action(); } });

  order.forEach((answer, position) => {
    const letter = LETTERS[position];
    const tools = make('span', { class: 'tools' },
      button('↑', `Move ${letter} up`, () => change(moveBy(levels, answer, -1), answer)),
      button('↓', `Move ${letter} down`, () => change(moveBy(levels, answer, 1), answer)),
      button('=', `Tie ${letter} with the one above`, () => change(toggleTie(levels, answer), answer)),
      button('×', `Take ${letter} out`, () => change(without(levels, answer), answer)));
    const grip = make('span', { class: 'grip', 'aria-hidden': 'true', text: '⠿', title: 'Drag' });
    const element = card(assignment.answers[position].text, letter, make('span', { class: 'spring' }), tools, grip);
    element.tabIndex = 0;
    element.setAttribute('aria-label', `Answer ${letter}`);
    element.dataset.letter = letter;
    element.addEventListener('focus', () => { picked = answer; });
    element.addEventListener('click', () => {
      const free = !element.classList.contains('dropped') && !getSelection().toString();
      if (free && levelOf(levels, answer) < 0) place(answer);
    });
    draggable(element, {
      placed, tray, hint, levels: () => levels,
      drop(target) {
        if (target.out) change(without(levels, answer), answer);
        else if (target.level !== undefined) change(tieWith(levels, answer, levels[target.level].find(each => each !== answer)), answer);
        else if (target.index !== undefined) change(insertAt(levels, answer, target.index), answer);
      },
    });
    cards.set(answer, element);
  });

  function draw() {
    placed.replaceChildren();
    let first = 1;
    for (const level of levels) {
      placed.append(make('li', { class: level.length > 1 ? 'level tied' : 'level' },
        make('span', { class: 'place', text: ordinal(first), 'aria-label': level.length > 1 ? `${ordinal(first)}, shared` : ordinal(first) }),
        make('div', { class: 'shared' }, ...level.map(answer => cards.get(answer)))));
      first += level.length;
    }
    const waiting = order.filter(answer => levelOf(levels, answer) < 0);
    tray.replaceChildren(...waiting.map(answer => cards.get(answer)));
    tray.hidden = trayTitle.hidden = waiting.length === 0;
    hint.hidden = levels.length > 0;
  }
  draw();

  const moves = {
    arrowup: () => moveBy(levels, picked, -1), arrowdown: () => moveBy(levels, picked, 1),
    '=': () => toggleTie(levels, picked), backspace: () => without(levels, picked), delete: () => without(levels, picked),
  };
  return {
    element: make('div', { class: 'ranking' },
      hints([`A … ${LETTERS[order.length - 1]}`, 'place'], ['↑ ↓', 'move'], ['=', 'tie'], ['⌫', 'take out']), hint, placed, trayTitle, tray),
    payload: () => (levels.flat().length < order.length ? null : { ranks: ranksOf(levels, order.length) }),
    missing: 'Place every answer first; what you cannot tell apart may share a place.',
    press(event) {
      const done = this.handle(event);
      if (done && picked !== null) cards.get(picked).scrollIntoView({ block: 'nearest' });
      return done;
    },
    handle(event) {
      const position = event.key.length === 1 ? LETTERS.indexOf(event.key.toUpperCase()) : -1;
      if (position >= 0 && position < order.length) {
        if (levelOf(levels, order[position]) < 0) place(order[position]);
        else cards.get(order[position]).focus();
        return true;
      }
      const focused = document.activeElement;
      if (event.key === ' ' && focused.dataset.letter && levelOf(levels, picked) < 0) { place(picked); return true; }
      const move = moves[event.key.toLowerCase()];
      if (!move || picked === null || levelOf(levels, picked) < 0) return false;
      change(move(), picked);
      return true;
    },
    restore(payload) {
      const values = [...new Set(payload.ranks.filter(value => value !== null))].sort((a, b) => a - b);
      change(values.map(value => order.filter(answer => payload.ranks[answer] === value)));
    },
    keys: [[`A … ${LETTERS[order.length - 1]}`, 'place an answer at the end, or pick a placed one'], ['↑ ↓', 'move the picked answer'],
      ['=', 'tie it with the one above, or part them'], ['⌫', 'take it out again']],
    start: () => {},
  };
}

/** Let cards slide from where they were to where they are. */
function glide(cards, before) {
  if (matchMedia('(prefers-reduced-motion: reduce)').matches) return;
  for (const [answer, element] of cards) {
    const by = before.get(answer) - element.getBoundingClientRect().top;
    if (Math.abs(by) > 1) element.animate([{ transform: `translateY(${by}px)` }, { transform: 'none' }], { duration: 160, easing: 'ease-out' });
  }
}

/** Where a card would land: on a level (tie), between two levels, or back in the tray. */
function targetAt(y, element, { placed, tray, levels }) {
  if (!tray.hidden && y > tray.getBoundingClientRect().top) return { out: true };
  const rows = [...placed.children];
  for (const [index, row] of rows.entries()) {
    const box = row.getBoundingClientRect();
    if (y < box.top + 0.28 * box.height) return { index };
    const alone = levels()[index].length === 1 && row.contains(element);
    if (y < box.top + 0.72 * box.height) return alone ? {} : { level: index, row };
  }
  return { index: rows.length };
}

function showTarget({ placed, hint }, target) {
  document.querySelectorAll('.over, .before, .after').forEach(each => each.classList.remove('over', 'before', 'after'));
  const rows = placed.children;
  if (target.level !== undefined) rows[target.level].classList.add('over');
  else if (target.index === undefined) return;
  else if (!rows.length) hint.classList.add('over');
  else if (rows[target.index]) rows[target.index].classList.add('before');
  else rows[rows.length - 1].classList.add('after');
}

/** Drag a card by its head; fingers take the grip, since they scroll by the rest. */
function draggable(element, zone) {
  const head = element.querySelector('header');
  head.addEventListener('pointerdown', start => {
    if (start.button !== 0 || start.target.closest('button')) return;
    if (start.pointerType === 'touch' && !start.target.closest('.grip')) return;
    let moving = false;
    let target = {};
    head.setPointerCapture(start.pointerId);
    const move = event => {
      const [x, y] = [event.clientX - start.clientX, event.pageY - start.pageY];
      if (!moving && Math.hypot(x, y) < 6) return;
      moving = true;
      element.classList.add('dragging');
      element.style.transform = `translate(${x}px, ${y}px)`;
      target = targetAt(event.clientY, element, zone);
      showTarget(zone, target);
      if (event.clientY < 90) scrollBy(0, -10);
      else if (event.clientY > innerHeight - 110) scrollBy(0, 10);
    };
    const end = event => {
      head.removeEventListener('pointermove', move);
      head.removeEventListener('pointerup', end);
      head.removeEventListener('pointercancel', end);
      element.classList.remove('dragging');
      element.style.transform = '';
      showTarget(zone, {});
      if (!moving) return;
      element.classList.add('dropped');  // the click that ends a drag is no click on the card
      setTimeout(() => element.classList.remove('dropped'), 60);
      if (event.type === 'pointerup') zone.drop(target);
    };
    head.addEventListener('pointermove', move);
    head.addEventListener('pointerup', end);
    head.addEventListener('pointercancel', end);
  });
}
