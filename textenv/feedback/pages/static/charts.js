// Figures as SVG. Positions are percentages, so that drawings follow the width of the page without being drawn again; colours
// come from the style sheet.

import { make } from './dom.js';

const SVG = 'http://www.w3.org/2000/svg';

/** An SVG element with attributes, a `text`, and children. */
export function draw(tag, fields = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || value === null) continue;
    if (name === 'text') node.textContent = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

const per = share => `${Math.round(1e4 * share) / 100}%`;

export const percent = value => (value === null ? '–' : `${Math.round(100 * value)} %`);
export const decimal = value => (value === null ? '–' : value.toFixed(2).replace('-', '−'));
export const whole = value => Math.round(value).toLocaleString('en');

/** `61 % [52, 70]`, or the same with decimals; the interval in softer ink. */
export function figure(found, format = percent) {
  const known = found.low !== null && found.low !== undefined;
  const bare = value => format(value).replace(' %', '');
  return make('span', { class: 'figure' }, make('b', { text: format(found.value) }),
    known ? make('span', { class: 'between', text: ` [${bare(found.low)}, ${bare(found.high)}]` }) : null);
}

/** A scale from `low` to `high` that values are put on. */
export class Axis {
  constructor(low, high, ticks, format = percent) {
    Object.assign(this, { low, high, ticks, format });
  }

  /** Where a value lies, 0…1; what lies outside is put at the end. */
  at(value) {
    return Math.min(1, Math.max(0, (value - this.low) / (this.high - this.low)));
  }

  /** The scale's numbers, below the rows that share it. */
  legend() {
    const texts = this.ticks.map((tick, i) => draw('text', { x: per(this.at(tick)), y: 12, text: this.format(tick),
      'text-anchor': i === 0 ? 'start' : i === this.ticks.length - 1 ? 'end' : 'middle' }));
    return draw('svg', { class: 'legend', height: 16, 'aria-hidden': 'true' }, ...texts);
  }

  /** A value with its interval; `band` is a wider range that is drawn faintly, `mark` a value to compare with. */
  whisker(found, { band = null, mark = null, tone = '', label = '' } = {}) {
    const lines = this.ticks.map(tick => draw('line', { class: 'tick', x1: per(this.at(tick)), x2: per(this.at(tick)), y1: 2, y2: 22 }));
    const known = found.low !== null && found.low !== undefined;
    const parts = [
      band ? draw('rect', { class: 'band', x: per(this.at(band[0])), width: per(this.at(band[1]) - this.at(band[0])), y: 6, height: 12, rx: 3 }) : null,
      mark === null ? null : draw('line', { class: 'mark', x1: per(this.at(mark)), x2: per(this.at(mark)), y1: 0, y2: 24 }),
      known ? draw('line', { class: 'reach', x1: per(this.at(found.low)), x2: per(this.at(found.high)), y1: 12, y2: 12 }) : null,
      found.value === null ? null : draw('circle', { cx: per(this.at(found.value)), cy: 12, r: 5 }),
    ];
    const words = known ? `${this.format(found.value)}, between ${this.format(found.low)} and ${this.format(found.high)}` : this.format(found.value);
    return draw('svg', { class: `whisker ${tone}`, height: 24, role: 'img', 'aria-label': `${label} ${words}`.trim() }, draw('title', { text: words }), ...lines, ...parts);
  }
}

/** Bars of labels per hour. */
export function bars(pace) {
  const height = 300, base = 276, top = 18;
  const rates = pace.per_hour;
  const most = nice(Math.max(...rates, 1));
  const slot = 1 / rates.length;
  const y = rate => base - (base - top) * rate / most;
  const parts = [0, most / 2, most].map(rate => draw('line', { class: 'tick', x1: '0', x2: '100%', y1: y(rate), y2: y(rate) }));
  parts.push(draw('text', { x: 0, y: top - 6, text: `${most < 1 ? most.toFixed(1) : whole(most)} per hour` }));
  rates.forEach((rate, i) => {
    const running = i === rates.length - 1;
    const words = `${when(pace.begins[i], pace.width)}: ${whole(pace.labels[i])} labels${running ? ', still running' : ''}`;
    parts.push(draw('rect', { class: running ? 'bar running' : 'bar', x: per(i * slot + 0.1 * slot), width: per(0.8 * slot),
      y: rate > 0 ? Math.min(y(rate), base - 1.5) : base, height: rate > 0 ? Math.max(1.5, base - y(rate)) : 0, rx: 2 }, draw('title', { text: words })));
  });
  for (const { bar, text } of ticks(pace)) {
    const place = (bar + (pace.width < 86400 ? 0 : 0.5)) * slot;
    parts.push(draw('line', { class: 'tick', x1: per(place), x2: per(place), y1: base, y2: base + 5 }),
      draw('text', { x: per(place), y: base + 18, text, 'text-anchor': place < 0.05 ? 'start' : place > 0.95 ? 'end' : 'middle' }));
  }
  const words = `Labels per hour from ${when(pace.begins[0], pace.width)} to now, at most ${whole(Math.max(...rates))}`;
  return draw('svg', { class: 'bars', height, role: 'img', 'aria-label': words }, ...parts);
}

/** Parts of a whole side by side. */
export function stacked(parts) {
  const total = parts.reduce((sum, part) => sum + part.value, 0) || 1;
  let begun = 0;
  const drawn = parts.filter(part => part.value > 0).map(part => {
    const found = draw('rect', { class: part.tone, x: per(begun / total), width: per(part.value / total), y: 0, height: 12 },
      draw('title', { text: `${part.name}: ${whole(part.value)}` }));
    begun += part.value;
    return found;
  });
  const words = parts.map(part => `${whole(part.value)} ${part.name}`).join(', ');
  return draw('svg', { class: 'stacked', height: 12, role: 'img', 'aria-label': words }, ...drawn);
}

/** The next round number. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 6, 8, 10].map(step => step * power).find(step => step >= value - 1e-9);
}

/** Bars that get their time written below: some six of them; of several days where each day begins. */
function ticks({ begins, width }) {
  const dates = begins.map(seconds => new Date(1000 * seconds));
  const days = width < 86400 && begins.length * width > 1.5 * 86400;
  const found = [];
  dates.forEach((date, bar) => {
    if (days && !(bar > 0 && date.getDate() !== dates[bar - 1].getDate())) return;
    const text = days ? date.toLocaleDateString('en-GB', { weekday: 'short', day: 'numeric', month: 'short' })
      : width < 86400 ? date.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' })
        : date.toLocaleDateString('en-GB', { day: 'numeric', month: 'short' });
    found.push({ bar, text });
  });
  const step = Math.ceil(found.length / 6);
  return found.filter((_, i) => i % step === 0);
}

function when(seconds, width) {
  const date = new Date(1000 * seconds), end = new Date(1000 * (seconds + width));
  const day = date.toLocaleDateString('en-GB', { weekday: 'short', day: 'numeric', month: 'short' });
  const time = each => each.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' });
  if (width < 86400) return `${day}, ${time(date)}–${time(end)}`;
  return width === 86400 ? day : `${day} and ${Math.round(width / 86400) - 1} days after`;
}
