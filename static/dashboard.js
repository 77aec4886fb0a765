// The dashboard: 500 gauges, each a topic whose newest event is its value (state.js).
//
//   dashboard.<group>-<number>   a number from 0 to 100; deleted: the gauge is gone
//
// A change marks its gauge, and a frame draws those that are marked: what a change costs does not depend on how many there are.
'use strict';

const GROUPS = ['cpu', 'disk', 'net', 'queue', 'temp'];
const GAUGES = 500;
const TOPIC = 'dashboard.';
const FEED_MS = 100;                   // between two batches
const FEED_EVENTS = 10;                // of one batch
const HIGH = 90;

const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function notice(text) {
  $('notice').textContent = text;
  $('notice').classList.toggle('shown', text !== '');
}

// ---------------------------------------------------------------- the gauges

const gauges = {
  tiles: new Map(),
  marked: new Set(),
  changes: 0,
  drawn: 0,

  mark(topics) {
    this.changes += topics.length;
    for (const topic of topics) this.marked.add(topic);
    // A hidden page has no frames; it draws once when it is seen again.
    if (!this.waiting) requestAnimationFrame(() => this.draw());
    this.waiting = true;
  },

  draw() {
    this.waiting = false;
    for (const topic of this.marked) this.drawOne(topic, store.get(topic));
    this.drawn += this.marked.size;
    this.marked.clear();
    $('n-gauges').textContent = String(this.tiles.size);
    $('n-changes').textContent = String(this.changes);
    $('n-drawn').textContent = String(this.drawn);
    showState();
  },

  drawOne(topic, item) {
    const tile = this.tiles.get(topic);
    if (!item) {
      if (tile) tile.root.remove();
      this.tiles.delete(topic);
      return;
    }
    const { root, value, bar } = tile || this.add(topic);
    const number = Math.min(100, Math.max(0, Number(item.data) || 0));
    value.textContent = number.toFixed(1);
    bar.style.transform = `scaleX(${number / 100})`;
    root.classList.toggle('high', number >= HIGH);
  },

  // In order of topics, wherever it is added.
  add(topic) {
    const value = element('b');
    const bar = element('i');
    const root = element('li', { class: 'gauge' }, element('span', {}, topic.slice(TOPIC.length)), value, bar);
    const next = [...this.tiles.keys()].reduce((best, each) => (each > topic && (!best || each < best) ? each : best), '');
    $('gauges').insertBefore(root, next ? this.tiles.get(next).root : null);
    const tile = { root, value, bar };
    this.tiles.set(topic, tile);
    return tile;
  },
};

// ---------------------------------------------------------------- the connection

let connection;
let store;

function connect() {
  if (connection) connection.close();
  const pace = Number($('pace').value);
  connection = Switchback.connect('', { latest: true, pace, token: PageToken.value });
  const mine = store = Switchback.state(connection, TOPIC + '*');
  let isFirst = true;
  store.on('change', (topics) => {
    if (mine !== store) return;
    // Tiles that the connection before has left may have no value any more.
    if (isFirst) for (const topic of gauges.tiles.keys()) gauges.marked.add(topic);
    isFirst = false;
    gauges.mark(topics);
  });
  connection.on('$open', () => { notice(''); showState(); });
  connection.on('$switch', showState);
  connection.on('$error', (error) => { notice(PageToken.refused(error) ? '' : error.message); showState(); });
  store.on('error', (error) => { if (error) notice(PageToken.refused(error) ? '' : error.message); });
}

function showState() {
  const isOpen = connection.state === 'open' && store.live;
  $('state').dataset.state = isOpen ? 'open' : connection.state === 'closed' ? 'closed' : 'connecting';
  const text = isOpen ? 'live over ' + connection.transport : connection.state === 'open' ? 'reading the snapshot' : connection.state;
  if ($('state').textContent !== text) $('state').textContent = text;
}

PageToken.changed = connect;

// ---------------------------------------------------------------- publishing, on request only

const topicOf = (n) => TOPIC + GROUPS[n % GROUPS.length] + '-' + String(1 + Math.floor(n / GROUPS.length)).padStart(3, '0');

// As a whole: one request a batch. A slow answer puts the next batch off, so that none piles up.
async function publish(events) {
  const headers = { 'Content-Type': 'application/json' };
  if (PageToken.value) headers.Authorization = 'Bearer ' + PageToken.value;
  const response = await fetch('v1/events', { method: 'POST', headers, body: JSON.stringify(events) });
  if (response.ok) return;
  const { error } = await response.json();
  throw Object.assign(new Error(error.message), { code: error.code });
}

const feed = {
  isOn: false,
  made: 0,
  published: 0,

  toggle(isOn) {
    this.isOn = isOn;
    $('feed').setAttribute('aria-pressed', String(isOn));
    $('feed').textContent = isOn ? 'Stop' : 'Change 100 gauges a second';
    if (isOn) this.next();
  },

  async next() {
    if (!this.isOn) return;
    // At first the gauges that have no value yet, then any.
    const events = Array.from({ length: FEED_EVENTS }, () => this.change());
    try {
      await publish(events);
      this.published += events.length;
      $('published').textContent = this.published + ' changes published by this page.';
    } catch (error) {
      notice(PageToken.refused(error) ? '' : 'Not published: ' + error.message);
      this.toggle(false);
      return;
    }
    setTimeout(() => this.next(), FEED_MS);
  },

  change() {
    const topic = topicOf(this.made < GAUGES ? this.made : Math.floor(Math.random() * GAUGES));
    this.made += 1;
    const before = store.get(topic);
    const value = before ? Number(before.data) + (Math.random() - 0.5) * 12 : Math.random() * 100;
    return { topic, data: Math.round(10 * Math.min(100, Math.max(0, value))) / 10 };
  },
};

async function removeTen() {
  const events = store.all().slice(0, 10).map((item) => ({ topic: item.topic, deleted: true }));
  if (!events.length) return;
  try {
    await publish(events);
    $('published').textContent = events.length + ' gauges removed.';
  } catch (error) { notice(PageToken.refused(error) ? '' : 'Not published: ' + error.message); }
}

// ---------------------------------------------------------------- the page

$('feed').addEventListener('click', () => feed.toggle(!feed.isOn));
$('remove').addEventListener('click', removeTen);
$('pace').addEventListener('change', connect);
connect();
showState();
