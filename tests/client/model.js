// A model of the server and of a browser's network, under simulated time. The library runs with its own transports on
// XMLHttpRequest, WebSocket and EventSource that are made here. What happens depends on the seed and nothing else.
'use strict';

const { matches, randomFrom, Switchback } = require('./world.js');
const { Browser } = require('./tabs.js');
const installShare = require('../../static/share.js');

const HEARTBEAT_MS = 20000;
const BATCH_EVENTS = 5;
const PROMISES_DEEP = 8;         // no chain of the library's is longer

// Timers in order of time, then of setting. What a timer throws is collected, as a page's `onerror` would.
class Time {
  constructor() { Object.assign(this, { now: 1_000_000, timers: new Map(), next: 1, thrown: [] }); }
  // What is to hold between any two timers; for a test to say.
  between() {}
  // `owner`: the tab whose timer it is, and with which it ends.
  set(run, ms, owner) { const id = this.next++; this.timers.set(id, { at: this.now + Math.max(0, ms), run, owner }); return id; }
  clear(id) { this.timers.delete(id); }
  clearAllOf(owner) { for (const [id, timer] of this.timers) if (timer.owner === owner) this.timers.delete(id); }

  runNext(end) {
    let due = 0, at = Infinity;
    for (const [id, timer] of this.timers) if (timer.at < at) { due = id; at = timer.at; }
    if (at > end) return false;
    const { run } = this.timers.get(due);
    this.timers.delete(due);
    this.now = Math.max(this.now, at);
    try { run(); this.between(); } catch (error) { this.thrown.push(error); }
    return true;
  }

  pass(ms) {
    const end = this.now + ms;
    while (this.runNext(end));
    this.now = end;
  }

  // The same, where promises settle between two timers.
  async passWithPromises(ms) {
    const end = this.now + ms;
    do { for (let i = 0; i < PROMISES_DEEP; i++) await null; } while (this.runNext(end));
    this.now = end;
  }

  // Time goes by and nothing runs: what was due happens late, on waking.
  sleep(ms) { this.now += ms; this.pass(0); }
}

class Target {
  constructor() { this.listeners = []; }
  addEventListener(name, run) { this.listeners.push({ name, run }); }
  removeEventListener(name, run) { this.listeners = this.listeners.filter((l) => l.name !== name || l.run !== run); }
  fire(name, event = {}) { this.listeners.filter((l) => l.name === name).forEach((l) => l.run(event)); }
}

/*
 * The log, who may have what, and which connection of a client is its newest. Connections are objects with
 * { patterns, at, flush(), cut(), bye(reason) }; the network below decides when, and whether, anything arrives.
 *
 * `history` has every event that was ever stored, in order: { n, generation, position, lost, trimmed, … }. A generation ends when
 * the log loses events that it had.
 */
class Server {
  constructor(time, { keyed = false, knowsAttempts = true } = {}) {
    Object.assign(this, { time, keyed, knowsAttempts, history: [], log: [], ids: new Map(), open: new Set(), polls: new Map(), newest: new Map(), attempts: new Map(), up: true, busy: false });
    Object.assign(this, { epoch: 'e1', epochs: 1, generation: 0, last: 0, highest: 0, floor: 0 });
  }

  cursor(position = this.last) { return `${this.epoch}-${position}`; }

  publish(topic, data, id) {
    const key = `${topic} ${id}`;
    if (id && this.ids.has(key)) return { cursor: this.ids.get(key).cursor, duplicate: true };
    const position = ++this.last;
    const item = { cursor: this.cursor(position), topic, event: 'message', data, time: this.time.now, id };
    // After a log has gone back, cursors up to here may be from before: no server can tell.
    const kept = { ...item, n: this.history.length, generation: this.generation, position, ambiguous: position <= this.highest, lost: false, trimmed: false };
    this.history.push(kept);
    this.log.push(kept);
    this.highest = Math.max(this.highest, position);
    if (id) this.ids.set(key, kept);
    for (const connection of [...this.open]) connection.flush();
    return { cursor: item.cursor, duplicate: false };
  }

  // Retention: everything up to here goes.
  trim(position) {
    this.floor = Math.max(this.floor, Math.min(position, this.last));
    for (const item of this.log) item.trimmed = item.trimmed || item.position <= this.floor;
    this.log = this.log.filter((item) => !item.trimmed);
  }

  // Another log, and empty.
  loseLog() {
    this.epochs += 1;
    this.epoch = `e${this.epochs}`;
    this.highest = 0;
    this.shorten(0);
  }

  // The log as it was earlier, by its own name: what power loss, or a plain copy, leaves. What nobody had read yet is gone unseen.
  goBack(events) {
    const last = Math.max(this.floor, this.last - events);
    for (const item of this.log) item.ambiguous = item.ambiguous || item.position > last;
    this.shorten(last);
  }

  shorten(last) {
    this.stop();
    this.generation += 1;
    this.last = last;
    this.floor = Math.min(this.floor, last);
    for (const item of this.log) item.lost = item.position > last || item.cursor.split('-')[0] !== this.epoch;
    this.log = this.log.filter((item) => !item.lost);
    for (const [key, item] of this.ids) if (item.lost) this.ids.delete(key);
  }

  // The patterns of all that is open, and of what clients that poll asked for last, if that is not longer ago.
  served(since) {
    const polls = [...this.polls.values()].filter((poll) => poll.at >= since);
    return [...this.open, ...polls].flatMap((each) => each.patterns);
  }

  // How long the history was where this cursor stands; of another log, none of it.
  lengthAt(cursor) {
    const next = this.history.findIndex((item) => item.cursor.split('-')[0] === cursor.split('-')[0] && item.position > Number(cursor.split('-')[1]));
    return next < 0 ? this.history.length : next;
  }

  // Where delivery begins after this cursor, and the gap before it, if there is one.
  resume(cursor, patterns) {
    if (!cursor || cursor === 'now') return { at: this.last };
    const [epoch, digits] = cursor.split('-');
    const position = Number(digits);
    const gap = (reason, to) => ({ at: to, gap: { event: '$gap', cursor: this.cursor(to), data: { reason, from: cursor, to: this.cursor(to) } } });
    if (epoch !== this.epoch) return gap('epoch', 0);
    if (position > this.last) return gap('ahead', this.last);
    const isGone = this.history.some((item) => item.trimmed && !item.lost && item.cursor.startsWith(`${epoch}-`) && item.position > position && patterns.some((pattern) => matches(pattern, item.topic)));
    return isGone ? gap('expired', this.floor) : { at: position };
  }

  // Why a request is refused, or null. A token is `good-<when it ends>`.
  refusal({ patterns = [], token }) {
    if (this.busy) return { status: 503, error: { code: 'busy', message: 'later' }, retry: 2 };
    if (this.keyed && !(Number(String(token).replace('good-', '')) > this.time.now)) return { status: 401, error: { code: 'unauthorized', message: 'token' } };
    if (patterns.some((pattern) => pattern.startsWith('secret'))) return { status: 403, error: { code: 'forbidden', message: 'no right' } };
    return null;
  }

  // Registers a connection of a client: the older one on its transport ends; or this one, if the client has made a newer
  // attempt on any transport.
  admit(connection, url, wire) {
    const client = url.searchParams.get('client');
    const key = `${client} ${wire}`;
    const attempt = this.knowsAttempts ? Number(url.searchParams.get('attempt')) : 0;
    const before = this.newest.get(key);
    if (!client) return true;
    if (attempt < (this.attempts.get(client) || 0)) return false;
    this.attempts.set(client, attempt);
    this.newest.set(key, connection);
    if (before && before !== connection && this.open.has(before)) before.bye('replaced');
    return true;
  }

  after(at, patterns) { return this.log.filter((item) => item.position > at && patterns.some((pattern) => matches(pattern, item.topic))); }

  stop() {
    this.up = false;
    for (const connection of [...this.open]) connection.cut();
    this.newest.clear();
    this.attempts.clear();
  }
}

class World {
  constructor(seed, { keyed, knowsAttempts } = {}) {
    this.random = randomFrom(seed);
    this.time = new Time();
    this.server = new Server(this.time, { keyed, knowsAttempts });
    this.requests = [];        // when each began
    this.blackHole = false;    // nothing is answered, and nothing refused
    this.noWebSocket = false;
    this.slow = 1;
    this.loss = 0.02;          // of all requests
    this.ids = 0;
    this.browser = new Browser((run, ms) => this.time.set(run, ms));
    this.connections = [];     // all that were ever opened, also by share.js
  }

  /*
   * A tab of the one browser: { window, library }, with `share` the library with share.js. What it opens is in `opened`, and
   * ends with it.
   */
  tab({ share = false } = {}) {
    const tab = { dead: false, opened: new Set() };
    tab.window = this.windowOf(tab);
    if (share) this.browser.furnish(tab.window);
    tab.library = Switchback.create({
      window: tab.window, now: () => this.time.now, date: () => this.time.now, random: this.random,
      setTimer: (run, ms) => (tab.dead ? 0 : this.time.set(run, ms, tab)), clearTimer: (id) => this.time.clear(id),
      uuid: () => `00000000-0000-4000-8000-${String(++this.ids).padStart(12, '0')}`,
    });
    if (share) installShare(tab.library);
    const { connect } = tab.library;
    tab.library.connect = (...given) => { const connection = connect(...given); this.connections.push(connection); return connection; };
    return tab;
  }

  // Gone without a word: nothing of it runs again; the server hears of its connections' end later.
  crash(tab) {
    tab.dead = true;
    this.time.clearAllOf(tab);
    for (const each of tab.opened) each.abandon();
    this.browser.crash(tab.window);
  }

  latency() { return this.slow * (5 + this.random() * (this.random() < 0.05 ? 2000 : 150)); }

  // Runs later, in the order of the calls: one direction of one connection.
  pipe() {
    let free = 0;
    return (run) => { free = Math.max(free, this.time.now + this.latency()); this.time.set(run, free - this.time.now); };
  }

  windowOf(tab) {
    const world = this;
    const window = new Target();
    window.document = new Target();
    window.location = { protocol: 'http:', host: 'page.test' };
    window.localStorage = { getItem: () => null, setItem: () => {} };
    window.navigator = {};
    window.XMLHttpRequest = class { constructor() { xhr(world, tab, this); } };
    window.WebSocket = class { constructor(url, protocols) { socket(world, tab, this, new URL(url), protocols); } };
    window.WebSocket.CLOSING = 2;
    window.EventSource = class { constructor(url) { eventSource(world, tab, this, new URL(url)); } };
    return window;
  }

  // Sends `ask` to the server and runs it there; `lost` where there is none. Gives back how to abandon it.
  request(tab, ask, lost) {
    let over = false;
    if (tab.dead) return () => {};
    this.requests.push(this.time.now);
    if (this.blackHole) return () => {};
    this.time.set(() => {
      if (this.server.up && this.random() >= this.loss) ask();
      else this.time.set(() => { if (!over) lost(); }, this.latency());
    }, this.latency());
    return () => { over = true; };
  }
}

// A stream or a held poll, as the server sees it. `deliver(items, cursor)` has them at the client, or nowhere.
function connection(world, url, patterns, deliver, ended) {
  const { server, time } = world;
  const self = {
    patterns, ...server.resume(url.searchParams.get('cursor'), patterns), quietSince: time.now,
    flush() {
      const items = server.after(self.at, self.patterns);
      self.at = server.last;
      if (items.length) { self.quietSince = time.now; deliver(items); }
    },
    bye(reason) { self.close(); deliver([{ event: '$bye', data: { reason } }]); time.set(ended, 100); },
    cut() { self.close(); time.set(ended, world.latency()); },
    close() { server.open.delete(self); time.clear(self.timer); },
  };
  const beat = () => {
    if (time.now - self.quietSince >= HEARTBEAT_MS) { self.quietSince = time.now; deliver([{ event: '$beat', cursor: server.cursor(self.at) }]); }
    self.timer = time.set(beat, self.quietSince + HEARTBEAT_MS - time.now);
  };
  self.timer = time.set(beat, HEARTBEAT_MS);
  server.open.add(self);
  return self;
}

// How a stream begins: a hello, then the gap, then what is there already.
function greet(connection, world, send) {
  send([{ event: '$hello', cursor: connection.gap ? connection.gap.data.from : world.server.cursor(connection.at), data: { heartbeat: HEARTBEAT_MS } }]);
  if (connection.gap) send([connection.gap]);
  connection.flush();
}

function xhr(world, tab, self) {
  const { time, server } = world;
  let abandon = () => {};
  let gone = false;
  let held = null;
  Object.assign(self, {
    headers: {},
    open(method, url) { Object.assign(self, { method, url: new URL(url), readyState: 1 }); },
    setRequestHeader(name, value) { self.headers[name] = value; },
    getResponseHeader: (name) => (self.answer && self.answer.retry && name === 'Retry-After' ? String(self.answer.retry) : null),
    // The server hears of it later, if at all.
    abort() { gone = true; tab.opened.delete(self); abandon(); if (held) time.set(() => held && held.close(), world.latency()); },
    abandon() { self.abort(); },
    send(body) {
      tab.opened.add(self);
      const answer = (given) => time.set(() => {
        if (gone) return;
        tab.opened.delete(self);
        Object.assign(self, { readyState: 4, status: given.status, responseText: given.status ? JSON.stringify(given.error ? { error: given.error } : given.body) : '', answer: given });
        self.onreadystatechange();
      }, world.latency());
      const lost = () => answer({ status: 0 });
      abandon = world.request(tab, () => {
        const path = self.url.pathname.replace('/v1/', '');
        const token = (self.headers.Authorization || '').replace('Bearer ', '');
        const patterns = self.url.searchParams.getAll('topic');
        if (path === 'ack') return answer({ status: 204 });
        const refusal = server.refusal({ patterns, token });
        if (refusal) return answer(refusal);
        if (path === 'tickets') return answer({ status: 201, body: { ticket: token } });
        if (path === 'events') {
          const event = JSON.parse(body);
          const body201 = server.publish(event.topic, event.data, event.id);
          // Stored, and the answer is lost.
          return world.random() < 0.05 ? lost() : answer({ status: 201, body: body201 });
        }
        return question(path, patterns, answer, lost);
      }, lost);
    },
  });

  function question(wire, patterns, answer, lost) {
    const wait = 1000 * (self.url.searchParams.get('wait') || 0);
    const { at, gap } = server.resume(self.url.searchParams.get('cursor'), patterns);
    // A client that polls is served from one request to the next, be a request held or not.
    const remember = () => { if (self.url.searchParams.get('client')) server.polls.set(self.url.searchParams.get('client'), { patterns, at: time.now }); };
    const batch = () => {
      remember();
      const found = server.after(at, patterns);
      const items = found.slice(0, BATCH_EVENTS);
      const more = items.length < found.length;
      const cursor = more ? items.at(-1).cursor : server.cursor();
      held.close();
      held = null;
      answer({ status: 200, body: { cursor, events: (gap ? [gap] : []).concat(items), ...(more && { more }) } });
    };
    held = connection(world, self.url, patterns, (items) => {
      if (!items[0].event.startsWith('$')) batch();
      else if (items[0].event === '$bye') answer({ status: 200, body: { cursor: server.cursor(at), events: items } });
    }, lost);
    if (!server.admit(held, self.url, wire)) { held.close(); held = null; return answer({ status: 200, body: { cursor: server.cursor(at), events: [{ event: '$bye', data: { reason: 'replaced' } }] } }); }
    const mine = held;
    if (gone) time.set(mine.close, world.latency());
    remember();
    if (!wait || gap || server.after(at, patterns).length) batch();
    else time.set(() => { if (held === mine && server.open.has(mine)) batch(); }, wait);
    return undefined;
  }
}

function socket(world, tab, self, url, protocols) {
  const { server } = world;
  const down = world.pipe();
  const up = world.pipe();
  const token = (protocols[1] || '').replace('switchback.token.', '');
  let mine = null;
  let closed = false;
  const end = (code = 1006, reason = '') => down(() => { if (closed) return; closed = true; tab.opened.delete(self); self.readyState = 3; if (self.onclose) self.onclose({ code, reason }); });
  const send = (items) => down(() => { if (!closed && self.onmessage) items.forEach((item) => self.onmessage({ data: JSON.stringify(item) })); });
  self.readyState = 0;
  self.close = self.abandon = () => { closed = true; tab.opened.delete(self); self.readyState = 3; abandon(); up(() => mine && mine.close()); };
  self.send = (text) => up(() => { if (mine && server.open.has(mine)) answer(JSON.parse(text)); });
  tab.opened.add(self);
  const abandon = world.request(tab, () => {
    const patterns = url.searchParams.getAll('topic');
    if (world.noWebSocket || server.refusal({ patterns, token })) return end();
    mine = connection(world, url, patterns, send, () => end());
    if (closed) up(mine.close);
    if (!server.admit(mine, url, 'ws')) { mine.bye('replaced'); return undefined; }
    down(() => { self.readyState = 1; });
    greet(mine, world, send);
    return undefined;
  }, () => end());

  function answer(message) {
    const reply = (data) => send([{ event: '$reply', data: { ref: message.ref, ...data } }]);
    const refused = message.type === 'subscribe' && server.refusal({ patterns: message.topics, token });
    if (refused) return reply({ ok: false, error: refused.error, ...(refused.retry && { retry: refused.retry * 1000 }) });
    if (message.type === 'subscribe') {
      mine.flush();
      mine.patterns = [...new Set([...mine.patterns, ...message.topics])];
      mine.at = server.last;
      return reply({ ok: true, cursor: server.cursor(mine.at) });
    }
    if (message.type === 'unsubscribe') { mine.patterns = mine.patterns.filter((pattern) => !message.topics.includes(pattern)); return reply({ ok: true }); }
    if (message.type === 'publish') return reply({ ok: true, ...server.publish(message.topic, message.data, message.id) });
    return undefined;
  }
}

function eventSource(world, tab, self, url) {
  const { server } = world;
  const down = world.pipe();
  const listeners = {};
  let mine = null;
  let closed = false;
  const fail = () => down(() => { if (closed) return; closed = true; tab.opened.delete(self); self.readyState = 2; if (self.onerror) self.onerror({}); });
  const send = (items) => down(() => items.forEach((item) => {
    if (closed) return;
    const event = { type: item.event, data: JSON.stringify(item) };
    if (item.event.startsWith('$')) { if (listeners[item.event]) listeners[item.event](event); } else if (self.onmessage) self.onmessage(event);
  }));
  self.readyState = 0;
  self.addEventListener = (name, run) => { listeners[name] = run; };
  self.close = self.abandon = () => { closed = true; tab.opened.delete(self); self.readyState = 2; abandon(); world.time.set(() => mine && mine.close(), world.latency()); };
  tab.opened.add(self);
  const abandon = world.request(tab, () => {
    const patterns = url.searchParams.getAll('topic');
    if (server.refusal({ patterns, token: url.searchParams.get('ticket') || url.searchParams.get('token') })) return fail();
    mine = connection(world, url, patterns, send, fail);
    if (closed) world.time.set(mine.close, world.latency());
    if (!server.admit(mine, url, 'sse')) { mine.bye('replaced'); return undefined; }
    greet(mine, world, send);
    return undefined;
  }, fail);
}

module.exports = { World, matches, HEARTBEAT_MS };
