// Labels on their way to the server. Each is kept in the browser until the server has acknowledged it, and is sent again
// with the same id until then: after a reload, a lost connection or a restart of the server none is lost, none counts twice.

export class Outbox {
  /**
   * @param {string} rater Whose labels; several people may share a browser.
   * @param {(label: object) => Promise<{state: 'saved'|'refused'|'later'|'stopped', message?: string, wait?: number}>} send
   */
  constructor(rater, send) {
    this.prefix = `textenv:label:${rater}:`;
    this.refusedPrefix = `textenv:refused:${rater}:`;
    this.send = send;
    this.memory = new Map();  // for browsers that keep nothing
    this.running = null;
  }

  put(label) {
    const text = JSON.stringify({ ...label, made: Date.now() });
    this.memory.set(label.id, text);
    try { localStorage.setItem(this.prefix + label.id, text); } catch { /* full or forbidden: memory has it */ }
  }

  waiting() {
    const found = new Map(this.memory);
    try {
      for (let i = 0; i < localStorage.length; i += 1) {
        const name = localStorage.key(i);
        if (name.startsWith(this.prefix)) found.set(name.slice(this.prefix.length), localStorage.getItem(name));
      }
    } catch { /* forbidden */ }
    const labels = [];
    for (const text of found.values()) {
      try { labels.push(JSON.parse(text)); } catch { /* not ours */ }
    }
    return labels.sort((a, b) => a.made - b.made);
  }

  /** Send what waits, oldest first; resolves to what became of the last attempt. */
  flush() {
    this.running ??= this.#flush().finally(() => { this.running = null; });
    return this.running;
  }

  async #flush() {
    let last = { state: 'saved' };
    for (const label of this.waiting()) {
      const { made, ...body } = label;
      last = await this.send(body);
      if (last.state === 'later' || last.state === 'stopped') return last;
      if (last.state === 'refused') this.#keepRefused(label, last.message);
      this.memory.delete(label.id);
      try { localStorage.removeItem(this.prefix + label.id); } catch { /* forbidden */ }
    }
    return last;
  }

  /** What the server will not take stays in the browser, where a person can still find it. */
  #keepRefused(label, reason) {
    try { localStorage.setItem(this.refusedPrefix + label.id, JSON.stringify({ ...label, reason })); } catch { /* full */ }
  }
}

/** The text of an answer in progress, kept over a reload. */
export class Draft {
  constructor(rater, item) { this.name = `textenv:draft:${rater}:${item}`; }
  get text() { try { return localStorage.getItem(this.name) ?? ''; } catch { return ''; } }
  set text(value) { try { localStorage.setItem(this.name, value); } catch { /* full */ } }
  drop() { try { localStorage.removeItem(this.name); } catch { /* forbidden */ } }
}
