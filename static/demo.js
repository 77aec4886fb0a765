// The comparison page: every transport side by side, on the same events.
//
//   Lane    one connection and its card (what it received: meter.js; its charts: charts.js)
//   Auto    the lane that chooses for itself, and proves that nothing is lost or repeated
//   load    publishes numbered events at the rate of the slider, which starts at none
//   draw    at most four times a second, and only what has changed
//
// A lane keeps its counters as long as the page lives: what is disconnected goes on at its cursor when it is connected
// again. Everything that came over the wire is shown by `textContent`.
'use strict';

const ABOUT = {
  ws: 'One socket, both ways. The least overhead.',
  sse: 'One response that never ends, parsed by the browser.',
  stream: 'The same, a line of JSON an event, read by fetch.',
  longpoll: 'A request held until there is an event.',
  iframe: 'A hidden page that never finishes loading. For old browsers.',
  jsonp: 'A script tag a request: crosses origins without CORS.',
  'iframe-poll': 'A hidden page a request.',
  poll: 'Asks every second. ETags make silence cheap.',
  'jsonp-poll': 'A script tag every second.',
};
const HELD = ['sse', 'stream', 'longpoll', 'iframe', 'jsonp'];   // each keeps one HTTP connection busy
const CONNECTIONS = 6;                 // that a browser opens to one host over HTTP/1.1
const FULL = 'Your browser opens six connections to one host over HTTP/1.1, and five are held already. Disconnect a lane first.';
const FIRST = ['ws', 'sse', 'longpoll', 'poll'];
const PAUSE_MS = 5000;
const REPLAYED = 20;                   // events of "Replay the last 20"
const LOG = 100;                       // lines
const DRAW_MS = 250;
const TOPIC = 'demo.' + Math.random().toString(36).slice(2, 10);   // this page's own: a second tab is another demo

const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Writing what is there already costs a layout all the same.
function show(node, text) { if (node.shown !== text) { node.shown = text; node.textContent = text; } }

function say(...parts) {
  const time = new Date().toLocaleTimeString([], { hour12: false });
  $('log').prepend(element('li', {}, time + '  ' + parts.join(' ')));
  while ($('log').children.length > LOG) $('log').lastChild.remove();
}

const charts = new Charts(() => draw.soon());

// ---------------------------------------------------------------- Lane

class Lane {
  constructor(name, parent) {
    this.name = name;
    this.meter = new Meter();
    this.connection = null;
    this.past = { requests: 0, bytes: 0, switches: 0 };   // of this lane's earlier connections
    this.supported = Switchback.supported().includes(name);
    this.build(parent);
  }

  build(parent) {
    this.state = element('span', { class: 'state', 'data-state': 'closed' }, 'closed');
    this.ticks = element('canvas', { class: 'ticks', role: 'img', 'aria-label': 'Events of the last 20 seconds over ' + this.name });
    this.plot = element('canvas', { class: 'plot', role: 'img', 'aria-label': 'Latency over ' + this.name });
    this.trouble = element('p', { class: 'trouble', role: 'status' });
    this.facts = element('dl', { class: 'facts' });
    this.values = {};
    for (const fact of ['received', 'lost', 'repeated', 'gaps', 'median', 'p99', 'requests', 'bytes', 'cursor', 'overhead']) {
      this.values[fact] = element('dd', {}, '–');
      this.facts.append(element('div', { class: fact }, element('dt', fact === 'overhead' ? { title: 'What came besides the data, an event' } : {}, fact === 'overhead' ? 'overhead each' : fact), this.values[fact]));
    }
    this.values.cursor.className = 'mono';
    this.toggle = element('button', { type: 'button' }, 'Connect');
    this.toggle.setAttribute('aria-label', 'Connect ' + this.name);
    this.toggle.addEventListener('click', () => (this.connection ? this.disconnect() : this.connect()));
    this.card = element('article', { class: 'card lane idle', 'data-lane': this.name },
      element('div', { class: 'head' }, element('h3', {}, this.name), this.state),
      element('p', { class: 'about' }, this.supported ? ABOUT[this.name] : 'This browser does not support it.'),
      this.ticks, this.facts, this.plot, this.trouble, element('div', { class: 'buttons' }, this.toggle));
    parent.append(this.card);
    charts.add(this.ticks);
    charts.add(this.plot);
    this.toggle.disabled = !this.supported;
  }

  options() { return { topics: TOPIC, transports: [this.name], interval: 1000, wait: this.name === 'iframe-poll' ? 0 : 20, token: PageToken.value }; }

  // At the cursor where it was disconnected, so that its counters go on.
  connect() {
    if (this.connection || !this.supported) return;
    if (HELD.includes(this.name) && lanesHolding() >= CONNECTIONS - 1) { this.remark(FULL, true); return; }
    this.open(this.at);
  }

  open(cursor) {
    this.remark('');
    this.wanted = true;
    this.connection = Switchback.connect('', { ...this.options(), cursor });
    this.listen(this.connection);
    this.showState('connecting');
  }

  // There is another token: a connection has the one that it was opened with.
  renew() {
    if (!this.wanted) return;
    this.close();
    this.connect();
  }

  // By names, not '*': EventSource can tell only the names that were asked for.
  listen(connection) {
    connection.on('tick', (item) => { this.meter.receive(item); draw.soon(); });
    connection.on('note', (item) => { this.meter.receive(item); this.note(item); draw.soon(); });
    connection.on('$open', ({ cursor }) => { this.meter.opened(cursor); this.remark(''); clearNotice(); this.showState('open'); });
    connection.on('$gap', (gap) => { this.meter.gap(gap); say(this.name + ':', 'gap,', gap.reason, 'from', gap.from, 'to', gap.to); });
    connection.on('$error', (error) => {
      this.remark(error.message, true);
      this.showState('connecting');
      if (PageToken.refused(error)) holdLanes(); else notice(error);
    });
    connection.on('$close', () => {
      this.at = connection.cursor || this.at;
      for (const count of Object.keys(this.past)) this.past[count] += connection.stats[count];
      this.connection = null;
      this.showState('closed');
    });
  }

  note() { /* the lane on auto says it */ }

  close() { if (this.connection) this.connection.close(); }

  disconnect() {
    this.wanted = false;
    if (!this.connection) return;
    this.close();
    this.remark(this.at ? 'Closed at ' + this.at + '. Connecting goes on there; the counters stay.' : '');
  }

  remark(text, isTrouble) {
    this.trouble.classList.toggle('bad', !!isTrouble);
    show(this.trouble, text);
  }

  showState(state) {
    this.state.dataset.state = state;
    this.state.textContent = state;
    this.toggle.textContent = this.connection ? 'Disconnect' : 'Connect';
    this.toggle.setAttribute('aria-label', this.toggle.textContent + ' ' + this.name);
    draw.soon();
  }

  total(count) { return this.past[count] + (this.connection ? this.connection.stats[count] : 0); }

  overhead() { return this.meter.received ? Math.max(0, this.total('bytes') - this.meter.payload) / this.meter.received : undefined; }

  settle() { if (this.connection) this.meter.settle(this.connection.cursor); }

  refresh() {
    const { meter, values } = this;
    this.card.classList.toggle('idle', !this.connection && !meter.received);
    this.settle();
    show(values.received, number(meter.received));
    for (const fault of ['lost', 'repeated', 'gaps']) {
      show(values[fault], number(meter[fault]));
      values[fault].classList.toggle('bad', meter[fault] > 0);
    }
    show(values.median, ms(meter.quantile(0.5)));
    show(values.p99, ms(meter.quantile(0.99)));
    show(values.requests, number(this.total('requests')));
    show(values.bytes, bytes(this.total('bytes')));
    show(values.overhead, bytes(this.overhead()));
    show(values.cursor, (this.connection && this.connection.cursor) || this.at || '–');
    charts.arrivals(this.ticks, meter);
    charts.latency(this.plot, meter);
  }
}

// ---------------------------------------------------------------- Auto

class Auto extends Lane {
  build() {
    super.build(document.createElement('div'));
    const card = $('auto');
    const heading = element('h2', { id: 'auto-title' }, 'Auto: it picks, and may change its mind');
    this.on = element('span', { class: 'mono' }, '');
    this.select = element('select', { id: 'switch-to', 'aria-label': 'Switch to' },
      ...['auto', ...Switchback.supported()].map((name) => element('option', { value: name }, name)));
    const go = element('button', { type: 'button', id: 'switch' }, 'Switch');
    const random = element('button', { type: 'button', id: 'switch-random', 'aria-pressed': 'false' }, 'Keep switching at random');
    go.addEventListener('click', () => this.switchTo(this.select.value));
    random.addEventListener('click', () => this.wander(random));
    const proof = element('dl', { class: 'proof' });
    this.proof = {};
    for (const name of ['lost', 'repeated', 'received', 'switches', 'replayed']) {
      this.proof[name] = element('dd', { id: 'auto-' + name }, '0');
      proof.append(element('div', {}, element('dt', {}, name), this.proof[name]));
    }
    card.append(element('div', { class: 'head' }, element('div', { class: 'name' }, heading, this.on), this.state), proof,
      this.ticks, this.trouble, element('div', { class: 'row' }, this.select, go, random, this.toggle));
    this.card = card;
  }

  options() { return { topics: TOPIC, interval: 500, wait: 20, token: PageToken.value }; }

  listen(connection) {
    super.listen(connection);
    connection.on('$switch', ({ from, to }) => say('auto: switched from', from, 'to', to));
    connection.on('$open', ({ transport }) => say('auto: open over', transport));
  }

  note(item) {
    show($('published'), 'Received: “' + String(item.data) + '” at ' + item.cursor);
    say('received “' + String(item.data) + '” at', item.cursor);
  }

  switchTo(name) {
    if (!this.connection) return;
    if (!this.fits(name)) { this.remark(FULL, true); return; }
    this.remark('');
    this.connection.switchTo(name, (error) => { if (error) say('auto: could not switch to', name + ':', error.message); });
  }

  fits(name) { return !HELD.includes(name) || HELD.includes(this.connection.transport) || lanesHolding() < CONNECTIONS - 1; }

  wander(button) {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(on));
    button.textContent = on ? 'Stop switching' : 'Keep switching at random';
    clearInterval(this.wandering);
    if (!on) return;
    this.wandering = setInterval(() => {
      const names = Switchback.supported().filter((name) => this.connection && name !== this.connection.transport && this.fits(name));
      if (names.length) this.switchTo(names[Math.floor(Math.random() * names.length)]);
    }, 1500);
  }

  /*
   * What follows closes the connection and opens the next one at a cursor: what a page would do that was reloaded, or
   * whose network went. The events between arrive then, so the counters go on.
   */
  cut() {
    if (!this.connection) return;
    this.close();
    say('auto: cut at', this.at || 'the start', '– the next connection goes on there');
    this.open(this.at);
  }

  pause(button) {
    if (!this.connection) return;
    this.close();
    button.disabled = this.toggle.disabled = true;
    this.showState('paused');
    this.remark('Away for ' + PAUSE_MS / 1000 + ' s. What is published meanwhile arrives then.');
    say('auto: paused at', this.at || 'the start');
    setTimeout(() => {
      button.disabled = this.toggle.disabled = false;
      say('auto: back, from', this.at || 'the start');
      if (this.wanted && !this.connection) this.open(this.at);
    }, PAUSE_MS);
  }

  replay() {
    if (!this.connection || !this.connection.cursor) return;
    this.close();
    const [epoch, position] = this.at.split('-');
    const from = Math.max(0, Number(position) - REPLAYED);
    this.meter.replayFrom(from);
    say('auto: once more from', epoch + '-' + from, '– counted as replayed');
    this.open(epoch + '-' + from);
  }

  refresh() {
    super.refresh();
    for (const fault of ['lost', 'repeated']) {
      show(this.proof[fault], number(this.meter[fault]));
      this.proof[fault].className = this.meter[fault] ? 'nonzero' : 'zero';
    }
    show(this.proof.received, number(this.meter.received));
    show(this.proof.replayed, number(this.meter.replayed));
    show(this.proof.switches, number(this.total('switches')));
    show(this.on, this.connection && this.connection.transport ? 'on ' + this.connection.transport : '');
  }
}

// ---------------------------------------------------------------- load

const load = {
  n: 0,
  waiting: 0,

  rate() { return Number($('rate').value); },

  // At most a few under way: a slow server must slow the load, not fill this page's memory.
  tick(connection) {
    const rate = PageToken.asking ? 0 : this.rate();
    const now = performance.now();
    const due = this.since === undefined ? 0 : ((now - this.since) / 1000) * rate + (this.rest || 0);
    this.since = now;
    const whole = Math.min(Math.floor(due), 50);
    this.rest = Math.min(due - whole, 1);
    for (let i = 0; i < whole && this.waiting < 100 && connection; i++) this.send(connection);
  },

  send(connection) {
    this.waiting += 1;
    const n = this.n++;
    connection.publish(TOPIC, { n, sent: performance.now() }, { event: 'tick' }).then(
      (result) => { this.waiting -= 1; every.forEach((lane) => lane.meter.expect(n, positionOf(result.cursor))); },
      (error) => { this.waiting -= 1; if (!PageToken.refused(error) && connection.state !== 'closed') say('publishing', n, 'failed:', error.message); },
    );
  },

  describe() {
    show($('rate-out'), String(this.rate()));
    show($('load'), this.rate() ? 'Published to ' + TOPIC + ' over the lane on auto.' : 'Nothing is published until you move this.');
  },
};

// ---------------------------------------------------------------- draw

const draw = {
  last: 0,

  // While there is a tick in the charts' 20 seconds they move on, with or without another event.
  soon(again) {
    if (!again) this.until = performance.now() + (SECONDS + 1) * 1000;
    if (this.waiting) return;
    this.waiting = true;
    // A hidden page has no animation frames, and draws nothing.
    setTimeout(() => requestAnimationFrame(() => this.now()), Math.max(0, this.last + DRAW_MS - performance.now()));
  },

  now() {
    this.waiting = false;
    this.last = performance.now();
    every.forEach((lane) => lane.refresh());
    drawCosts();
    showHeld();
    if (this.last < this.until) this.soon(true);
  },
};

const costs = new Map();               // of each lane that received anything: its row, and the row's cells

function makeCosts(lane, count) {
  const cells = Array.from({ length: count }, () => element('td'));
  return { cells, row: element('tr', {}, element('th', { scope: 'row' }, lane.name), ...cells) };
}

function drawCosts() {
  const rows = lanes.filter((lane) => lane.meter.received);
  for (const lane of rows) {
    const { meter } = lane;
    const texts = [number(meter.received), ms(meter.quantile(0.5)), ms(meter.quantile(0.99)), number(lane.total('requests')),
      (lane.total('requests') / meter.received).toFixed(2), bytes(lane.total('bytes')), bytes(lane.overhead())];
    if (!costs.has(lane)) costs.set(lane, makeCosts(lane, texts.length));
    costs.get(lane).cells.forEach((cell, i) => show(cell, texts[i]));
  }
  if ($('costs').children.length < rows.length) $('costs').append(...rows.map((lane) => costs.get(lane).row));
  $('no-costs').hidden = rows.length > 0;
  charts.comparison($('chart'), rows.filter((lane) => lane.meter.timed).map(({ name, meter }) => ({ name, median: meter.quantile(0.5), p99: meter.quantile(0.99) })));
}

// ---------------------------------------------------------------- the page

function notice(error) {
  show($('notice'), error.message + (error.retry === undefined ? '' : ' Trying again.'));
  $('notice').classList.add('shown');
}

function clearNotice() {
  $('notice').classList.remove('shown');
  show($('notice'), '');
}

// Without a token every lane is refused, but a socket and an EventSource are given no reason, and would go on trying.
function holdLanes() {
  clearNotice();
  for (const lane of every) if (lane.connection && lane.connection.state !== 'open') lane.close();
}

PageToken.changed = () => { clearNotice(); every.forEach((lane) => lane.renew()); };

const multiplexed = () => (performance.getEntriesByType('navigation')[0] || {}).nextHopProtocol === 'h2';

function lanesHolding() {
  return multiplexed() ? 0 : every.filter((lane) => lane.connection && HELD.includes(lane === auto ? lane.connection.transport : lane.name)).length;
}

function showHeld() {
  show($('slots'), multiplexed() ? 'Over HTTP/2 all lanes share one connection.'
    : lanesHolding() + ' of the ' + CONNECTIONS + ' connections that a browser opens to one host over HTTP/1.1 are held. A WebSocket does not count.');
}

const lanes = Switchback.transports.map((name) => new Lane(name, $('lanes')));
const auto = new Auto('auto', null);
auto.supported = true;
auto.toggle.disabled = false;
const every = [auto, ...lanes];
charts.add($('chart'));

// The load goes out over the auto lane: a socket takes none of the six connections.
const publisher = () => (auto.connection ? auto.connection : (every.find((lane) => lane.connection) || {}).connection);

$('rate').addEventListener('input', () => load.describe());
$('all').addEventListener('click', () => every.forEach((lane) => lane.connect()));
$('none').addEventListener('click', () => every.forEach((lane) => lane.disconnect()));
$('cut').addEventListener('click', () => auto.cut());
$('pause').addEventListener('click', (event) => auto.pause(event.currentTarget));
$('replay').addEventListener('click', () => auto.replay());
$('publish').addEventListener('submit', (event) => {
  event.preventDefault();
  const connection = publisher();
  if (!connection) { show($('published'), 'Connect a lane first.'); return; }
  show($('published'), 'Publishing …');
  connection.publish(TOPIC, $('text').value, { event: 'note' }).then(
    // The event may be here before its answer, and says more.
    (result) => { if (!$('published').textContent.includes(result.cursor)) show($('published'), 'Stored at ' + result.cursor); },
    (error) => { show($('published'), error.message); PageToken.refused(error); },
  );
});

every.filter((lane) => lane === auto || FIRST.includes(lane.name)).forEach((lane) => lane.connect());
load.describe();
setInterval(() => load.tick(publisher()), 50);
draw.soon();
