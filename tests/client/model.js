// A model of the server and of a browser's network, under simulated time. The library runs with its own transports on
// XMLHttpRequest, WebSocket and EventSource that are made here. What happens depends on the seed and nothing else.
'use strict';

const { matches, randomFrom, Switchback } = require('./world.js');

const HEARTBEAT_MS = 20000;
const BATCH_EVENTS = 5;

// Timers in order of time, then of setting. What a timer throws is collected, as a page's `onerror` would.
class Time {
  constructor() { Object.assign(this, { now: 1_000_000, timers: new Map(), next: 1, thrown: [] }); }
  // What is to hold between any two timers; for a test to say.
  between() {}
  set(run, ms) { const id = this.next++; this.timers.set(id, { at: this.now + Math.max(0, ms), run }); return id; }
  clear(id) { this.timers.delete(id); }

  pass(ms) {
    const end = this.now + ms;
    for (;;) {
      let due = 0, at = Infinity;
      for (const [id, timer] of this.timers) if (timer.at < at) { due = id; at = timer.at; }
      if (at > end) break;
      const { run } = this.timers.get(due);
      this.timers.delete(due);
      this.now = Math.max(this.now, at);
      try { run(); this.between(); } catch (error) { this.thrown.push(error); }
    }
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
 * { patterns, at, send(item), end() }; the network below decides when, and whether, anything arrives.
 */
class Server {
  constructor(time, { keyed = false, knowsAttempts = true } = {}) {
    Object.assign(this, { time, keyed, knowsAttempts, log: [], ids: new Map(), open: new Set(), newest: new Map(), attempts: new Map(), up: true, busy: false });
  }

  cursor(position = this.log.length) { return `e1-${position}`; }

  publish(topic, data, id) {
    const key = `${topic} ${id}`;
    if (id && this.ids.has(key)) return { cursor: this.ids.get(key), duplicate: true };
    this.log.push({ cursor: this.cursor(this.log.length + 1), topic, event: 'message', data, time: this.time.now, id });
    if (id) this.ids.set(key, this.cursor());
    for (const connection of [...this.open]) connection.flush();
    return { cursor: this.cursor(), duplicate: false };
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

  start(url) {
    const cursor = url.searchParams.get('cursor');
    return cursor && cursor !== 'now' ? Number(cursor.split('-')[1]) : this.log.length;
  }

  after(at, patterns) { return this.log.slice(at).filter((item) => patterns.some((pattern) => matches(pattern, item.topic))); }

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
    this.window = this.browser();
    this.library = Switchback.create({
      window: this.window, now: () => this.time.now, date: () => this.time.now, random: this.random,
      setTimer: (run, ms) => this.time.set(run, ms), clearTimer: (id) => this.time.clear(id),
      uuid: () => `00000000-0000-4000-8000-${String(++this.ids).padStart(12, '0')}`,
    });
  }

  latency() { return this.slow * (5 + this.random() * (this.random() < 0.05 ? 2000 : 150)); }

  // Runs later, in the order of the calls: one direction of one connection.
  pipe() {
    let free = 0;
    return (run) => { free = Math.max(free, this.time.now + this.latency()); this.time.set(run, free - this.time.now); };
  }

  browser() {
    const world = this;
    const window = new Target();
    window.document = new Target();
    window.location = { protocol: 'http:', host: 'page.test' };
    window.localStorage = { getItem: () => null, setItem: () => {} };
    window.navigator = {};
    window.XMLHttpRequest = class { constructor() { xhr(world, this); } };
    window.WebSocket = class { constructor(url, protocols) { socket(world, this, new URL(url), protocols); } };
    window.WebSocket.CLOSING = 2;
    window.EventSource = class { constructor(url) { eventSource(world, this, new URL(url)); } };
    return window;
  }

  // Sends `ask` to the server and runs it there; `lost` where there is none. Gives back how to abandon it.
  request(ask, lost) {
    let over = false;
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
    patterns, at: server.start(url), quietSince: time.now,
    flush() {
      const items = server.after(self.at, self.patterns);
      self.at = server.log.length;
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

const hello = (world, at) => ({ event: '$hello', cursor: world.server.cursor(at), data: { heartbeat: HEARTBEAT_MS } });

function xhr(world, self) {
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
    abort() { gone = true; abandon(); if (held) time.set(() => held && held.close(), world.latency()); },
    send(body) {
      const answer = (given) => time.set(() => {
        if (gone) return;
        Object.assign(self, { readyState: 4, status: given.status, responseText: given.status ? JSON.stringify(given.error ? { error: given.error } : given.body) : '', answer: given });
        self.onreadystatechange();
      }, world.latency());
      const lost = () => answer({ status: 0 });
      abandon = world.request(() => {
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
    const at = server.start(self.url);
    const batch = () => {
      const found = server.after(at, patterns);
      const items = found.slice(0, BATCH_EVENTS);
      const more = items.length < found.length;
      const cursor = more ? items.at(-1).cursor : server.cursor();
      held.close();
      held = null;
      answer({ status: 200, body: { cursor, events: items, ...(more && { more }) } });
    };
    held = connection(world, self.url, patterns, (items) => {
      if (!items[0].event.startsWith('$')) batch();
      else if (items[0].event === '$bye') answer({ status: 200, body: { cursor: server.cursor(at), events: items } });
    }, lost);
    if (!server.admit(held, self.url, wire)) { held.close(); held = null; return answer({ status: 200, body: { cursor: server.cursor(at), events: [{ event: '$bye', data: { reason: 'replaced' } }] } }); }
    const mine = held;
    if (!wait || server.after(at, patterns).length) batch();
    else time.set(() => { if (held === mine && server.open.has(mine)) batch(); }, wait);
    return undefined;
  }
}

function socket(world, self, url, protocols) {
  const { server, time } = world;
  const down = world.pipe();
  const up = world.pipe();
  const token = (protocols[1] || '').replace('switchback.token.', '');
  let mine = null;
  let closed = false;
  const end = (code = 1006, reason = '') => down(() => { if (closed) return; closed = true; self.readyState = 3; if (self.onclose) self.onclose({ code, reason }); });
  const send = (items) => down(() => { if (!closed && self.onmessage) items.forEach((item) => self.onmessage({ data: JSON.stringify(item) })); });
  self.readyState = 0;
  self.close = () => { closed = true; self.readyState = 3; abandon(); up(() => mine && mine.close()); };
  self.send = (text) => up(() => { if (mine && server.open.has(mine)) answer(JSON.parse(text)); });
  const abandon = world.request(() => {
    const patterns = url.searchParams.getAll('topic');
    if (world.noWebSocket || server.refusal({ patterns, token })) return end();
    mine = connection(world, url, patterns, send, () => end());
    if (!server.admit(mine, url, 'ws')) { mine.bye('replaced'); return undefined; }
    down(() => { self.readyState = 1; });
    send([hello(world, mine.at)]);
    mine.flush();
    return undefined;
  }, () => end());

  function answer(message) {
    const reply = (data) => send([{ event: '$reply', data: { ref: message.ref, ...data } }]);
    const refused = message.type === 'subscribe' && server.refusal({ patterns: message.topics, token });
    if (refused) return reply({ ok: false, error: refused.error, ...(refused.retry && { retry: refused.retry * 1000 }) });
    if (message.type === 'subscribe') {
      mine.flush();
      mine.patterns = [...new Set([...mine.patterns, ...message.topics])];
      mine.at = server.log.length;
      return reply({ ok: true, cursor: server.cursor(mine.at) });
    }
    if (message.type === 'unsubscribe') { mine.patterns = mine.patterns.filter((pattern) => !message.topics.includes(pattern)); return reply({ ok: true }); }
    if (message.type === 'publish') return reply({ ok: true, ...server.publish(message.topic, message.data, message.id) });
    return undefined;
  }
  time.set(() => {}, 0);
}

function eventSource(world, self, url) {
  const { server } = world;
  const down = world.pipe();
  const listeners = {};
  let mine = null;
  let closed = false;
  const fail = () => down(() => { if (closed) return; closed = true; self.readyState = 2; if (self.onerror) self.onerror({}); });
  const send = (items) => down(() => items.forEach((item) => {
    if (closed) return;
    const event = { type: item.event, data: JSON.stringify(item) };
    if (item.event.startsWith('$')) { if (listeners[item.event]) listeners[item.event](event); } else if (self.onmessage) self.onmessage(event);
  }));
  self.readyState = 0;
  self.addEventListener = (name, run) => { listeners[name] = run; };
  self.close = () => { closed = true; self.readyState = 2; abandon(); world.time.set(() => mine && mine.close(), world.latency()); };
  const abandon = world.request(() => {
    const patterns = url.searchParams.getAll('topic');
    if (server.refusal({ patterns, token: url.searchParams.get('ticket') || url.searchParams.get('token') })) return fail();
    mine = connection(world, url, patterns, send, fail);
    if (!server.admit(mine, url, 'sse')) { mine.bye('replaced'); return undefined; }
    send([hello(world, mine.at)]);
    mine.flush();
    return undefined;
  }, fail);
}

module.exports = { World, matches, HEARTBEAT_MS };
