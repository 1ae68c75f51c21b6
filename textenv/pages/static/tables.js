// Sortable tables and a searchable one in pages: comfort only, without it the page is complete.
{
  document.documentElement.classList.add('js');
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const key = cell => (cell.dataset.v === undefined ? cell.textContent.trim().toLowerCase() : parseFloat(cell.dataset.v));
  const compare = (a, b) => (typeof a === 'number' && typeof b === 'number' ? (isNaN(a) ? 1 : isNaN(b) ? -1 : a - b) : String(a).localeCompare(String(b)));

  // A click on a column's head sorts, a second click turns the order round.
  for (const head of all('table.sortable thead th')) {
    const button = document.createElement('button');
    button.append(...head.childNodes);
    button.tabIndex = 0;
    button.title = 'Sort by this column';
    head.append(button);
    button.addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') === 'descending' || (!head.hasAttribute('aria-sort') && !head.matches('.n, [data-down]'));
      for (const other of head.parentNode.children) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const body = head.closest('table').tBodies[0];
      const rows = [...body.rows].map(row => [key(row.cells[head.cellIndex]), row]);
      rows.sort(([a], [b]) => (Number.isNaN(a) || Number.isNaN(b) ? compare(a, b) : (up ? 1 : -1) * compare(a, b)));
      body.append(...rows.map(row => row[1]));
      body.dispatchEvent(new Event('sorted'));
    });
  }

  for (const box of all('.paged')) {
    const body = all('tbody', box)[0], input = all('input', box)[0], count = all('.count', box)[0];
    const [back, on] = all('.tools button', box), size = 20;
    let page = 0;
    const show = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const matching = [...body.rows].filter(row => {
        const text = row.textContent.toLowerCase();
        row.hidden = true;
        return words.every(word => text.includes(word));
      });
      page = Math.max(0, Math.min(page, Math.ceil(matching.length / size) - 1));
      const part = matching.slice(page * size, page * size + size);
      for (const row of part) row.hidden = false;
      count.textContent = matching.length ? `${page * size + 1}–${page * size + part.length} of ${matching.length}` : 'nothing found';
      back.disabled = page === 0;
      on.disabled = (page + 1) * size >= matching.length;
    };
    input.addEventListener('input', () => { page = 0; show(); });
    body.addEventListener('sorted', () => { page = 0; show(); });
    back.addEventListener('click', () => { page -= 1; show(); });
    on.addEventListener('click', () => { page += 1; show(); });
    show();
  }
}
