// Elements without markup: every text becomes a text node, whatever it contains.

export const byId = id => document.getElementById(id);

/** An element with attributes, listeners (`onclick`, …), a `text`, and children. */
export function make(tag, fields = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') node.textContent = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

const TAGS = new Set(['p', 'ul', 'ol', 'li', 'blockquote', 'hr', 'br', 'strong', 'em', 'code', 'pre', 'a', 'table',
  'thead', 'tbody', 'tr', 'th', 'td', 'h3', 'h4', 'h5', 'h6']);

/** Instructions as the server sends them: a list of texts and of elements of known kinds. */
export function grow(nodes) {
  return nodes.map(node => {
    if (typeof node === 'string') return document.createTextNode(node);
    if (!TAGS.has(node.tag)) return document.createTextNode('');
    const link = node.tag === 'a' && /^(https?|mailto):/.test(node.href);
    const found = make(node.tag, link ? { href: node.href, target: '_blank', rel: 'noopener noreferrer' } : {});
    if (node.start !== undefined) found.setAttribute('start', node.start);
    found.append(...grow(node.children));
    return found;
  });
}

/** A key as it stands on the keyboard. */
export const key = name => make('kbd', { text: name });

/** An identifier that nobody else makes; `crypto.randomUUID` is missing on pages without TLS. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
}
