// The dashboard: asks for its parts every few seconds and shows those that changed. The server draws them, and escapes every text.

import { byId, make } from './dom.js';

const EVERY_SECONDS = 3;
const shown = {};
let timer = null;

/** Show what differs from what is shown: nothing moves under the reader's eyes for no reason. */
function show(html) {
  const parts = [...new DOMParser().parseFromString(html, 'text/html').body.children];
  for (const part of parts) {
    if (shown[part.id] === part.innerHTML) continue;
    shown[part.id] = part.innerHTML;
    byId(part.id).replaceChildren(...part.childNodes);
  }
  const ready = parts.some(part => part.id === 'tiles');
  for (const id of ['tiles', 'grid']) byId(id).hidden = !ready;
  byId('waiting').hidden = ready;
  byId('main').setAttribute('aria-busy', ready ? 'false' : 'true');
  byId('live').className = ready ? 'live on' : 'live';
}

function notice(...content) {
  byId('notice').replaceChildren(...content);
  byId('notice').hidden = content.length === 0;
  if (content.length) byId('live').className = 'live';
}

async function look() {
  clearTimeout(timer);
  try {
    // Times are shown as the reader's clock has them.
    const url = `/dashboard/parts?minutes_behind=${new Date().getTimezoneOffset()}`;
    const response = await fetch(url, { cache: 'no-store', credentials: 'same-origin', signal: AbortSignal.timeout(15000) });
    if (response.status === 401) {
      return notice('Your session has ended. ', make('a', { href: '/signin?next=/dashboard', text: 'Sign in again' }));
    }
    if (!response.ok) throw new TypeError(`The server answered ${response.status}.`);
    show(await response.text());
    notice();
  } catch (error) {
    if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
    notice(`${error.message.startsWith('The server') ? error.message : 'No connection to the server.'} Trying again…`);
  }
  if (!document.hidden) timer = setTimeout(look, 1000 * EVERY_SECONDS);
}

document.addEventListener('visibilitychange', () => (document.hidden ? clearTimeout(timer) : look()));
look();
