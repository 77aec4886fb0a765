// The comparison page: every transport side by side, on the same events.
//
//   Meter   what one lane has heard: sequence, latency, ticks
//   Lane    one connection and its card
//   Auto    the lane that chooses for itself, and proves that nothing is lost or repeated
//   Load    publishes numbered events at the rate of the slider
//
// Everything that came over the wire is shown by `textContent`.
'use strict';

const ABOUT = {
  ws: 'One socket, both ways. The least overhead.',
  sse: 'One response that never ends, parsed by the browser.',
  stream: 'The same, a line of JSON an event, read by fetch.',
  longpoll: 'A question held until there is something to tell.',
  iframe: 'A hidden page that never finishes loading. For old browsers.',
  jsonp: 'A script tag a question: crosses origins without CORS.',
  'iframe-poll': 'A hidden page a question.',
  poll: 'Asks every second. ETags make silence cheap.',
  'jsonp-poll': 'A script tag every second.',
};
const HELD = ['sse', 'stream', 'longpoll', 'iframe', 'jsonp'];   // each keeps one HTTP connection busy
const SLOTS = 6;                       // that a browser opens to one host over HTTP/1.1
const FULL = 'Your browser opens six connections to one host over HTTP/1.1, and five are held already. Disconnect a lane first.';
const FIRST = ['ws', 'sse', 'longpoll', 'poll'];
const KEPT = 600;                      // latencies a lane remembers
const KEPT_NUMBERS = 5000;
const TOPIC = 'demo.' + Math.random().toString(36).slice(2, 10);   // this page's own: a second tab is another demo

const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();

const number = (value) => Math.round(value).toLocaleString('en');

function bytes(value) {
  if (value < 1000) return value + ' B';
  return value < 1e6 ? (value / 1e3).toFixed(1) + ' kB' : (value / 1e6).toFixed(1) + ' MB';
}

const positionOf = (cursor) => Number(cursor.split('-')[1]);

const ms = (value) => (value === undefined ? '–' : value < 10 ? value.toFixed(1) + ' ms' : number(value) + ' ms');

function say(...parts) {
  const time = new Date().toLocaleTimeString([], { hour12: false });
  $('log').prepend(element('li', {}, time + '  ' + parts.join(' ')));
  while ($('log').children.length > 100) $('log').lastChild.remove();
}

// ---------------------------------------------------------------- Meter

/*
 * Loss and repetition are counted by the page itself, not by the library that it shows. Each
 * event of the load has a number, and its publisher was told its position. So a lane has lost
 * one if it stands past that position and never saw the number. (The numbers alone would not
 * do: a publish that was cut off and tried again is stored behind its successors, rightly.)
 * `sent` is this tab's clock, so latency needs no second one.
 */
class Meter {
  constructor() { this.reset(); }

  reset() {
    Object.assign(this, { heard: 0, payload: 0, lost: 0, repeated: 0, gaps: 0, start: undefined, at: undefined, seen: new Set(), owed: [], latencies: [], ticks: [] });
    this.sorted = undefined;
  }

  hear(item) {
    const { n, sent } = item.data || {};
    const position = positionOf(item.cursor);
    const repeats = this.seen.has(n) || position <= this.at;
    this.heard += 1;
    this.payload += JSON.stringify(item.data).length;
    this.start ??= position - 1;
    this.at = position;
    this.seen.add(n);
    if (this.seen.size > KEPT_NUMBERS) this.seen.delete(this.seen.values().next().value);
    if (repeats) this.repeated += 1;
    else if (typeof sent === 'number') this.time(performance.now() - sent);
    this.tick(repeats ? 'bad' : 'good');
  }

  // Told by the publisher: this number is stored there.
  owe(n, position) {
    this.owed.push({ n, position });
    if (this.owed.length > KEPT_NUMBERS) this.owed.shift();
  }

  // What lies behind the cursor must have been seen, unless it lies before the start.
  settle(cursor) {
    if (!cursor || this.start === undefined) return;
    const at = positionOf(cursor);
    this.owed = this.owed.filter(({ n, position }) => {
      if (position > at) return true;
      if (position > this.start && !this.seen.has(n)) { this.lost += 1; this.tick('bad'); }
      return false;
    });
  }

  gap(gap) {
    this.gaps += 1;
    this.owed = [];
    this.start = this.at = positionOf(gap.to);
    this.tick('bad');
  }

  time(latency) {
    this.latencies.push(latency);
    if (this.latencies.length > KEPT) this.latencies.shift();
    this.sorted = undefined;
  }

  tick(kind) {
    this.ticks.push({ at: performance.now(), kind });
    if (this.ticks.length > 2000) this.ticks.splice(0, 500);
  }

  quantile(q) {
    if (!this.latencies.length) return undefined;
    this.sorted ??= [...this.latencies].sort((a, b) => a - b);
    return this.sorted[Math.min(this.sorted.length - 1, Math.floor(q * this.sorted.length))];
  }
}

// ---------------------------------------------------------------- drawing

function fit(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext('2d');
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return { pen, width: canvas.clientWidth, height: canvas.clientHeight };
}

// The last 20 seconds, an event a tick; a gap, a loss or a repeat is red and full height.
function drawTicks(canvas, meter) {
  const { pen, width, height } = fit(canvas);
  const now = performance.now();
  for (const { at, kind } of meter.ticks) {
    const x = width - ((now - at) / 20000) * width;
    if (x < 0) continue;
    pen.fillStyle = colour(kind === 'bad' ? 'bad' : 'accent');
    if (kind === 'bad') pen.fillRect(x - 1, 0, 3, height);
    else pen.fillRect(x, height * 0.25, 1.5, height * 0.5);
  }
}

function drawLatency(canvas, meter) {
  const { pen, width, height } = fit(canvas);
  const values = meter.latencies.slice(-200);
  pen.font = '11px system-ui, sans-serif';
  pen.fillStyle = colour('soft');
  if (values.length < 2) { pen.fillText('Latency: waiting for events', 8, height / 2 + 4); return; }
  const top = Math.max(...values, 1) * 1.15;
  const y = (value) => height - 4 - (value / top) * (height - 20);
  pen.strokeStyle = colour('line');
  pen.beginPath();
  pen.moveTo(0, y(top / 2));
  pen.lineTo(width, y(top / 2));
  pen.stroke();
  pen.strokeStyle = colour('accent');
  pen.lineWidth = 1.5;
  pen.beginPath();
  values.forEach((value, i) => pen.lineTo((i / (values.length - 1)) * width, y(value)));
  pen.stroke();
  pen.fillText('latency, highest ' + ms(Math.max(...values)), 8, 13);
}

function drawChart(lanes) {
  const { pen, width, height } = fit($('chart'));
  const rows = lanes.filter((lane) => lane.meter.latencies.length);
  pen.font = '12px system-ui, sans-serif';
  pen.fillStyle = colour('soft');
  if (!rows.length) { pen.fillText('Nothing measured yet', 12, height / 2); return; }
  // Logarithmic: a socket's 1 ms and a poll's 1,000 ms must both be readable.
  const most = Math.max(10, ...rows.map((lane) => lane.meter.quantile(0.99)));
  const left = 84;
  const scale = (value) => left + (Math.log10(Math.max(value, 0.1)) + 1) / (Math.log10(most * 1.3) + 1) * (width - left - 12);
  for (let power = 0.1; power <= most; power *= 10) {
    pen.fillStyle = colour('line');
    pen.fillRect(scale(power), 0, 1, height - 18);
    pen.fillStyle = colour('soft');
    pen.fillText(power < 1 ? '0.1' : number(power), scale(power) + 3, height - 5);
  }
  const step = (height - 22) / rows.length;
  rows.forEach((lane, i) => {
    const middle = i * step + step / 2;
    pen.fillStyle = colour('ink');
    pen.fillText(lane.name, 8, middle + 4);
    pen.fillStyle = colour('accent');
    const end = scale(lane.meter.quantile(0.5));
    pen.fillRect(left, middle - Math.min(7, step * 0.3), Math.max(2, end - left), Math.min(14, step * 0.6));
    pen.fillRect(end, middle - 0.75, Math.max(0, scale(lane.meter.quantile(0.99)) - end), 1.5);
  });
}

// ---------------------------------------------------------------- Lane

class Lane {
  constructor(name, parent) {
    this.name = name;
    this.meter = new Meter();
    this.line = null;
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
    this.toggle.addEventListener('click', () => (this.line ? this.disconnect() : this.connect()));
    this.card = element('article', { class: 'card lane', 'data-lane': this.name },
      element('div', { class: 'head' }, element('h3', {}, this.name), this.state),
      element('p', { class: 'about' }, this.supported ? ABOUT[this.name] : 'This browser does not support it.'),
      this.ticks, this.facts, this.plot, this.trouble, element('div', { class: 'buttons' }, this.toggle));
    parent.append(this.card);
    this.toggle.disabled = !this.supported;
  }

  options() { return { topics: TOPIC, transports: [this.name], interval: 1000, wait: this.name === 'iframe-poll' ? 0 : 20, token: PageToken.value }; }

  connect() {
    if (this.line || !this.supported) return;
    if (HELD.includes(this.name) && lanesHolding() >= SLOTS - 1) { this.trouble.textContent = FULL; return; }
    this.meter.reset();
    this.open(this.options());
  }

  open(options) {
    this.trouble.textContent = '';
    this.wanted = true;
    this.line = Switchback.connect('', options);
    this.listen(this.line);
    this.show('connecting');
  }

  // There is another token: a connection has the one that it was opened with.
  renew() {
    if (!this.wanted) return;
    if (this.line) this.line.close();
    this.connect();
  }

  // By names, not '*': EventSource can tell only the names that were asked for.
  listen(line) {
    line.on('tick', (item) => this.meter.hear(item));
    line.on('note', (item) => this.note(item));
    line.on('$open', () => { this.trouble.textContent = ''; clearNotice(); this.show('open'); });
    line.on('$gap', (gap) => { this.meter.gap(gap); say(this.name + ':', 'gap,', gap.reason, 'from', gap.from, 'to', gap.to); });
    line.on('$error', (error) => {
      this.trouble.textContent = error.message;
      this.show('connecting');
      if (PageToken.refused(error)) holdLanes(); else notice(error);
    });
    line.on('$close', () => { this.at = line.cursor; this.line = null; this.show('closed'); });
  }

  note() { this.meter.tick('good'); this.meter.heard += 1; }

  disconnect() {
    this.wanted = false;
    if (this.line) this.line.close();
  }

  show(state) {
    this.state.dataset.state = state;
    this.state.textContent = state;
    this.toggle.textContent = this.line ? 'Disconnect' : 'Connect';
    this.toggle.setAttribute('aria-label', this.toggle.textContent + ' ' + this.name);
  }

  overhead() {
    const { meter } = this;
    const stats = this.line ? this.line.stats : this.last;
    return stats && meter.heard ? Math.max(0, stats.bytes - meter.payload) / meter.heard : undefined;
  }

  refresh() {
    const { meter, values } = this;
    this.card.classList.toggle('idle', !this.line && !meter.heard);
    if (this.line) meter.settle(this.line.cursor);
    const stats = this.line ? this.line.stats : this.last || {};
    if (this.line) this.last = this.line.stats;
    values.received.textContent = number(meter.heard);
    for (const fault of ['lost', 'repeated', 'gaps']) {
      values[fault].textContent = number(meter[fault]);
      values[fault].classList.toggle('bad', meter[fault] > 0);
    }
    values.median.textContent = ms(meter.quantile(0.5));
    values.p99.textContent = ms(meter.quantile(0.99));
    values.requests.textContent = number(stats.requests || 0);
    values.bytes.textContent = bytes(stats.bytes || 0);
    const overhead = this.overhead();
    values.overhead.textContent = overhead === undefined ? '–' : bytes(Math.round(overhead));
    values.cursor.textContent = (this.line && this.line.cursor) || '–';
    drawTicks(this.ticks, meter);
    drawLatency(this.plot, meter);
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
    for (const [key, text] of [['lost', 'lost'], ['repeated', 'repeated'], ['received', 'received'], ['switches', 'switches']]) {
      this.proof[key] = element('dd', { id: 'auto-' + key }, '0');
      proof.append(element('div', {}, element('dt', {}, text), this.proof[key]));
    }
    this.values.received.id = '';
    card.append(element('div', { class: 'head' }, element('div', { class: 'name' }, heading, this.on), this.state), proof,
      this.ticks, this.trouble, element('div', { class: 'row' }, this.select, go, random, this.toggle));
    this.card = card;
  }

  options() { return { topics: TOPIC, interval: 500, wait: 20, token: PageToken.value }; }

  // Where it was: this lane's count of what is lost goes over the change of the token.
  renew() {
    if (!this.wanted) return;
    if (this.line) this.line.close();
    this.open({ ...this.options(), cursor: this.at });
  }

  listen(line) {
    super.listen(line);
    line.on('$switch', ({ from, to }) => say('auto: switched from', from, 'to', to));
    line.on('$open', ({ transport }) => say('auto: open over', transport));
  }

  note(item) {
    super.note(item);
    $('published').textContent = 'Heard back: “' + String(item.data) + '” at ' + item.cursor;
    say('heard “' + String(item.data) + '” at', item.cursor);
  }

  switchTo(name) {
    if (!this.line) return;
    if (!this.fits(name)) { this.trouble.textContent = FULL; return; }
    this.trouble.textContent = '';
    this.line.switchTo(name, (error) => { if (error) say('auto: could not switch to', name + ':', error.message); });
  }

  fits(name) { return !HELD.includes(name) || HELD.includes(this.line.transport) || lanesHolding() < SLOTS - 1; }

  wander(button) {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(on));
    button.textContent = on ? 'Stop switching' : 'Keep switching at random';
    clearInterval(this.wandering);
    if (!on) return;
    this.wandering = setInterval(() => {
      const names = Switchback.supported().filter((name) => this.line && name !== this.line.transport && this.fits(name));
      if (names.length) this.switchTo(names[Math.floor(Math.random() * names.length)]);
    }, 1500);
  }

  rewind() {
    if (!this.line || !this.line.cursor) return;
    const [epoch, position] = this.line.cursor.split('-');
    const back = epoch + '-' + Math.max(0, Number(position) - 20);
    this.disconnect();
    this.meter.reset();
    this.open({ ...this.options(), cursor: back });
    say('auto: restarted from', back);
  }

  refresh() {
    super.refresh();
    for (const fault of ['lost', 'repeated']) {
      this.proof[fault].textContent = number(this.meter[fault]);
      this.proof[fault].className = this.meter[fault] ? 'nonzero' : 'zero';
    }
    this.proof.received.textContent = number(this.meter.heard);
    this.proof.switches.textContent = number(this.line ? this.line.stats.switches : 0);
    this.on.textContent = this.line && this.line.transport ? 'on ' + this.line.transport : '';
  }
}

// ---------------------------------------------------------------- Load

const load = {
  n: 0,
  waiting: 0,

  // At most a few under way: a slow server must slow the load, not fill this page's memory.
  tick(line) {
    const rate = PageToken.asking ? 0 : Number($('rate').value);
    const now = performance.now();
    const due = this.since === undefined ? 0 : ((now - this.since) / 1000) * rate + (this.rest || 0);
    this.since = now;
    const whole = Math.min(Math.floor(due), 50);
    this.rest = Math.min(due - whole, 1);
    for (let i = 0; i < whole && this.waiting < 100 && line; i++) this.send(line);
  },

  send(line) {
    this.waiting += 1;
    const n = this.n++;
    line.publish(TOPIC, { n, sent: performance.now() }, { event: 'tick' }).then(
      (result) => { this.waiting -= 1; every.forEach((lane) => lane.line && lane.meter.owe(n, positionOf(result.cursor))); },
      (error) => { this.waiting -= 1; if (!PageToken.refused(error) && line.state !== 'closed') say('publishing', n, 'failed:', error.message); },
    );
  },
};

// ---------------------------------------------------------------- the page

function notice(error) {
  $('notice').textContent = error.message + (error.retry === undefined ? '' : ' Trying again.');
  $('notice').classList.add('shown');
}

function clearNotice() {
  $('notice').classList.remove('shown');
  $('notice').textContent = '';
}

// Without a token all are told the same, but a socket and an EventSource are not told why: they would go on trying.
function holdLanes() {
  clearNotice();
  for (const lane of every) if (lane.line && lane.line.state !== 'open') lane.line.close();
}

PageToken.changed = () => { clearNotice(); every.forEach((lane) => lane.renew()); };

const multiplexed = () => (performance.getEntriesByType('navigation')[0] || {}).nextHopProtocol === 'h2';

function lanesHolding() {
  return multiplexed() ? 0 : every.filter((lane) => lane.line && HELD.includes(lane === auto ? lane.line.transport : lane.name)).length;
}

function showSlots() {
  const text = multiplexed() ? 'Over HTTP/2 all lanes share one connection.'
    : lanesHolding() + ' of the ' + SLOTS + ' connections that a browser opens to one host over HTTP/1.1 are held. A WebSocket does not count.';
  if ($('slots').textContent !== text) $('slots').textContent = text;
}

function refreshCosts() {
  $('costs').replaceChildren(...lanes.filter((lane) => lane.meter.heard).map((lane) => {
    const stats = lane.line ? lane.line.stats : lane.last;
    const overhead = lane.overhead();
    return element('tr', {}, element('th', { scope: 'row' }, lane.name),
      ...[number(lane.meter.heard), ms(lane.meter.quantile(0.5)), ms(lane.meter.quantile(0.99)), number(stats.requests),
        (stats.requests / lane.meter.heard).toFixed(2), bytes(stats.bytes), overhead === undefined ? '–' : bytes(Math.round(overhead))].map((text) => element('td', {}, text)));
  }));
  drawChart(lanes);
}

const lanes = [];
Switchback.transports.forEach((name) => lanes.push(new Lane(name, $('lanes'))));
const auto = new Auto('auto', null);
auto.supported = true;
auto.toggle.disabled = false;
const every = [auto, ...lanes];

// The load goes out over the auto lane: a socket takes none of the six connections.
const publisher = () => (auto.line ? auto.line : (every.find((lane) => lane.line) || {}).line);

$('rate').addEventListener('input', () => { $('rate-out').textContent = $('rate').value; });
$('all').addEventListener('click', () => every.forEach((lane) => lane.connect()));
$('none').addEventListener('click', () => every.forEach((lane) => lane.disconnect()));
$('cut').addEventListener('click', () => cutConnection());
$('pause').addEventListener('click', (event) => pauseNetwork(event.currentTarget));
$('rewind').addEventListener('click', () => auto.rewind());
$('publish').addEventListener('submit', (event) => {
  event.preventDefault();
  const line = publisher();
  if (!line) { $('published').textContent = 'Connect a lane first.'; return; }
  $('published').textContent = 'Publishing …';
  line.publish(TOPIC, $('text').value, { event: 'note' }).then(
    // The event may be here before its answer, and says more.
    (result) => { if (!$('published').textContent.includes(result.cursor)) $('published').textContent = 'Stored at ' + result.cursor; },
    (error) => { $('published').textContent = error.message; PageToken.refused(error); },
  );
});

/*
 * A page can't pull a cable. So these two reach into the library where a cable would end: the
 * link that delivers is told that it is over, or the whole connection that the page went away.
 */
function cutConnection() {
  if (!auto.line || !auto.line.current) return;
  say('auto: cut');
  auto.line.current.end({ message: 'The connection was cut by hand.' });
}

function pauseNetwork(button) {
  const line = auto.line;
  if (!line) return;
  button.disabled = true;
  say('auto: network paused');
  line.leave();
  auto.show('connecting');
  setTimeout(() => {
    button.disabled = false;
    line.comeBack();
    auto.show(line.state);
    say('auto: network back');
  }, 5000);
}

every.filter((lane) => lane === auto || FIRST.includes(lane.name)).forEach((lane) => lane.connect());
showSlots();

setInterval(() => load.tick(publisher()), 50);

// Drawing is cheap but never more often than a person can see, and not at all when hidden.
let last = 0;
requestAnimationFrame(function frame(now) {
  if (now - last > 200) {
    last = now;
    every.forEach((lane) => lane.refresh());
    refreshCosts();
    showSlots();
  }
  requestAnimationFrame(frame);
});
