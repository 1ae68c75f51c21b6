// Tooltips: marks with data-tip speak for themselves, under the pointer or when focused; lines show the values nearest to
// the pointer. Listens to the whole page, so that what is drawn later speaks too.
{
  const tip = document.createElement('div');
  tip.id = 'tip';
  document.body.append(tip);
  const hide = () => { tip.style.display = 'none'; document.querySelectorAll('.cursor, .pick').forEach(mark => mark.remove()); };
  const say = (text, x, y) => {
    tip.textContent = text;
    tip.style.display = 'block';
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, x + box.width + 18 > innerWidth ? x - box.width - 12 : x + 14)}px`;
    tip.style.top = `${Math.max(4, y - box.height - 10)}px`;
  };
  const draw = (svg, name, kind, values) => {
    const mark = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [attribute, value] of Object.entries({ class: kind, ...values })) mark.setAttribute(attribute, value);
    svg.append(mark);
  };
  const read = line => ({ name: line.dataset.name, color: line.parentNode.getAttribute('class').match(/c-\w+/) || '',
    tips: JSON.parse(line.dataset.tips), points: [...line.points].map(point => [point.x, point.y]) });
  const known = new WeakMap();
  const follow = (svg, event) => {
    if (!known.has(svg)) known.set(svg, [...svg.querySelectorAll('polyline[data-tips]')].map(read));
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const flat = svg.dataset.nearest === 'x';
    let hits = known.get(svg).map(line => {
      let best = 0, least = Infinity;
      line.points.forEach(([x, y], i) => {
        const far = Math.hypot(x - at.x, flat ? 0 : y - at.y);
        if (far < least) { least = far; best = i; }
      });
      return { line, best, least };
    }).filter(hit => hit.least < 40).sort((a, b) => a.least - b.least);
    if (!hits.length) return;
    if (!flat) hits = hits.slice(0, 1);
    const first = hits[0].line.points[hits[0].best];
    if (flat) draw(svg, 'line', 'cursor', { x1: first[0], x2: first[0], y1: 8, y2: svg.viewBox.baseVal.height - 36 });
    for (const { line, best } of hits) draw(svg, 'circle', `pick ${line.color}`, { cx: line.points[best][0], cy: line.points[best][1], r: 4 });
    const here = hits[0].line.tips[hits[0].best][0];
    const said = hits.map(({ line, best }) => {
      const [x, y] = line.tips[best];
      if (svg.dataset.say) return `${line.name}: ${svg.dataset.say.replace('{x}', x).replace('{y}', y)}`;
      return `${line.name}: ${y}${x === here ? '' : ` (at ${x})`}`;
    });
    if (flat) said.unshift(`at ${here}`);
    say(said.join('\n'), event.clientX, event.clientY);
  };
  const pointed = event => {
    if (!event.target.closest) return;
    const own = event.target.closest('[data-tip]'), svg = event.target.closest('svg.chart');
    if (tip.style.display !== 'none') hide();
    if (own) say(own.dataset.tip, event.clientX, event.clientY);
    else if (svg && svg.dataset.nearest !== 'none') follow(svg, event);
  };
  document.addEventListener('pointermove', pointed);
  document.addEventListener('pointerdown', pointed);
  document.documentElement.addEventListener('pointerleave', hide);
  document.addEventListener('focusin', event => {
    if (!event.target.matches('[data-tip]')) return;
    const box = event.target.getBoundingClientRect();
    say(event.target.dataset.tip, box.right, box.top);
  });
  document.addEventListener('focusout', hide);
  document.addEventListener('keydown', event => { if (event.key === 'Escape') hide(); });
  addEventListener('scroll', hide, { passive: true });
}
