// Three of the four tasks (ranking has a module of its own). Each is made from an assignment and offers:
//   element    what is shown below the prompt
//   payload()  what would be saved, in the item's own numbers of answers; null while something is missing
//   missing    says what, for people
//   press(event)      handles a key; true where it did
//   restore(payload)  shows a label that was taken back
//   keys       [keys, what they do] for the help
//   start()    where the focus goes at first
// They call `changed()` after every change.

import { key, make } from './dom.js';
import { Draft } from './outbox.js';

export const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ';

/** The keys of a task in one line, where there is a keyboard: [keys, what they do] each. */
export function hints(...pairs) {
  return make('p', { class: 'hints' }, ...pairs.map(([names, what]) =>
    make('span', {}, ...names.split(' ').map(name => (name === '…' ? '…' : key(name))), ` ${what}`)));
}

/** One answer with its letter; `text` is shown as it is, white space and all. */
export function card(text, letter, ...extra) {
  return make('article', { class: 'card answer' },
    make('header', {}, make('span', { class: letter ? 'letter badge' : 'letter', text: letter || 'Answer' }), ...extra),
    make('div', { class: 'text', text, dir: 'auto' }));
}

function choice(name, value, ...content) {
  const input = make('input', { type: 'radio', name, value, class: 'unseen' });
  return { input, label: make('label', { class: 'choice' }, input, ...content) };
}

export function rate(assignment, changed) {
  const { low, high, anchors } = assignment.scale;
  const many = high - low > 10;
  const group = make('fieldset', { class: many ? 'scale wide' : 'scale' },
    make('legend', { text: 'How good is this answer?' }));
  const inputs = new Map();
  let slider = null;
  let chosen = null;
  const choose = value => {
    chosen = value;
    if (inputs.has(value)) { inputs.get(value).checked = true; inputs.get(value).focus({ preventScroll: true }); }
    if (slider) { slider.value = value; shown.textContent = value; }
    changed();
  };
  const shown = make('output', { class: 'number', text: '–' });
  if (many) {
    slider = make('input', { type: 'range', min: low, max: high, step: 1, 'aria-label': 'Score',
      oninput: () => choose(Number(slider.value)) });
    group.append(shown, slider, make('div', { class: 'ends' }, ...Object.entries(anchors).map(([value, text]) =>
      make('span', { text: `${value} ${text}` }))));
  } else {
    const steps = make('div', { class: 'steps' });
    for (let value = low; value <= high; value += 1) {
      const { input, label } = choice('score', value, make('span', { class: 'number', text: value }),
        make('span', { class: 'anchor', text: anchors[value] ?? '' }));
      input.addEventListener('change', () => choose(value));
      inputs.set(value, input);
      steps.append(label);
    }
    group.append(hints(high === 10 ? ['1 … 0', 'choose'] : [`${low} … ${high}`, 'choose'], ['← →', 'change']), steps);
  }
  return {
    element: make('div', {}, card(assignment.answers[0].text, ''), group),
    payload: () => (chosen === null ? null : { score: chosen }),
    missing: 'Choose a number first.',
    press(event) {
      const value = event.key === '0' && high === 10 ? 10 : Number(event.key);
      if (!/^[0-9]$/.test(event.key) || many || value < low || value > high) return false;
      choose(value);
      return true;
    },
    restore: payload => choose(payload.score),
    keys: many ? [['← →', 'change the score']] : [[`${low} … ${high === 10 ? 0 : high}`, 'choose a score'], ['← →', 'one less, one more']],
    start: () => {},
  };
}

const MARGINS = [['much better', 3], ['better', 2], ['slightly better', 1]];

export function compare(assignment, changed) {
  const numbers = assignment.order;
  const places = [
    ...MARGINS.map(([text, margin]) => ({ text: `A ${text}`, side: 0, margin })),
    { text: 'about equal', side: null, margin: 0 },
    ...MARGINS.toReversed().map(([text, margin]) => ({ text: `B ${text}`, side: 1, margin })),
  ];
  let at = null;
  const cards = assignment.answers.map((answer, side) => {
    const element = card(answer.text, LETTERS[side]);
    element.addEventListener('click', () => {
      if (!getSelection().toString()) choose(side === 0 ? 1 : 5);
    });
    return element;
  });
  const steps = make('div', { class: 'steps seven' });
  const inputs = places.map((place, index) => {
    const { input, label } = choice('preference', index, make('span', { class: `mark mark${index}`, 'aria-hidden': 'true' }),
      make('span', { class: 'anchor', text: place.text }));
    input.addEventListener('change', () => choose(index));
    steps.append(label);
    return input;
  });
  const bad = make('input', { type: 'checkbox', id: 'both-bad', onchange: () => { if (at === null) choose(3); changed(); } });
  const choose = index => {
    at = index;
    inputs[index].checked = true;
    inputs[index].focus({ preventScroll: true });
    cards.forEach((element, side) => element.classList.toggle('preferred', places[index].side === side));
    changed();
  };
  const toward = side => {
    const step = side === 0 ? -1 : 1;
    choose(at === null ? 3 + step : Math.max(0, Math.min(6, at + step)));
  };
  const actions = {
    arrowleft: () => toward(0), arrowright: () => toward(1), a: () => choose(1), b: () => choose(5),
    t: () => choose(3), '=': () => choose(3),
    x: () => { bad.checked = !bad.checked; bad.dispatchEvent(new Event('change')); },
  };
  return {
    element: make('div', {}, make('div', { class: 'pair' }, ...cards),
      make('fieldset', { class: 'scale' }, make('legend', { text: 'Which answer is better?' }),
        hints(['← →', 'towards A or B'], ['t', 'equal']), steps,
        make('label', { class: 'tick' }, bad, make('span', {}, 'Both are bad ', key('x'))))),
    payload: () => (at === null ? null : {
      preferred: places[at].side === null ? null : numbers[places[at].side],
      margin: places[at].margin,
      both_bad: bad.checked,
    }),
    missing: 'Choose first which answer is better.',
    press(event) {
      const digit = Number(event.key);
      const action = digit >= 1 && digit <= 7 ? () => choose(digit - 1) : actions[event.key.toLowerCase()];
      if (!action) return false;
      action();
      return true;
    },
    restore(payload) {
      bad.checked = payload.both_bad;
      if (payload.preferred === null) return choose(3);
      const side = numbers.indexOf(payload.preferred);
      choose(places.findIndex(place => place.side === side && place.margin === Math.max(1, payload.margin)));
    },
    keys: [['← →', 'a step towards A or B'], ['a b', 'A or B is better'], ['t', 'about equal'], ['1 … 7', 'from left to right'],
      ['x', 'both are bad']],
    start: () => {},
  };
}

export function demonstrate(assignment, changed, rater) {
  const draft = new Draft(rater, assignment.id);
  const count = make('span', { class: 'soft', text: '' });
  const area = make('textarea', { id: 'answer', rows: 7, spellcheck: 'true', dir: 'auto', maxlength: 100000,
    placeholder: 'Write the answer here…', 'aria-label': 'Your answer' });
  const show = () => {
    const words = area.value.trim().split(/\s+/).filter(Boolean).length;
    count.textContent = words === 1 ? '1 word' : `${words} words`;
    area.style.height = 'auto';
    area.style.height = `${Math.min(Math.max(area.scrollHeight + 2, 160), 0.6 * innerHeight)}px`;
    changed();
  };
  area.addEventListener('input', () => { draft.text = area.value; show(); });
  const write = text => { area.value = text; show(); };
  return {
    element: make('div', { class: 'card answer write' },
      make('header', {}, make('span', { class: 'letter', text: 'Your answer' }), count), area),
    payload: () => (area.value.trim() ? { text: area.value } : null),
    missing: 'Write an answer first.',
    press: () => false,
    restore: payload => { draft.text = payload.text; write(payload.text); },
    saved: () => draft.drop(),
    keys: [['Ctrl ↵', 'save'], ['Esc', 'leave the text, for the other keys']],
    start: () => { write(draft.text); area.focus({ preventScroll: true }); },
  };
}
