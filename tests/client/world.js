// A world in which time passes only when a test says so: a clock, a server's log, and
// transports that behave as told. What happens in it depends on the seed and nothing else.
'use strict';

const Switchback = require('../../static/client.js');
const { Browser } = require('./tabs.js');

const { endings } = Switchback;

// mulberry32: small, and the same on every machine.
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

class Clock {
  constructor() {
    this.now = 1_000_000;
    this.timers = new Map();
    this.next = 1;
  }

  set(run, ms) {
    const id = this.next++;
    this.timers.set(id, { at: this.now + Math.max(0, ms), id, run });
    return id;
  }

  clear(id) { this.timers.delete(id); }

  // Runs every timer that falls due, in order of time, then of setting.
  pass(ms) {
    const end = this.now + ms;
    for (;;) {
      const due = [...this.timers.values()].filter((t) => t.at <= end).sort((a, b) => a.at - b.at || a.id - b.id)[0];
      if (!due) break;
      this.now = Math.max(this.now, due.at);
      this.timers.delete(due.id);
      due.run();
    }
    this.now = end;
  }

  // The lid is closed: time goes by, and whatever was due happens late, on waking.
  sleep(ms) {
    this.now += ms;
    this.pass(0);
  }
}

// Something that listeners can be added to, for `window` and `document`.
class Target {
  constructor() { this.listeners = []; }
  addEventListener(name, run) { this.listeners.push({ name, run }); }
  removeEventListener(name, run) { this.listeners = this.listeners.filter((l) => l.name !== name || l.run !== run); }
  fire(name, event = {}) { this.listeners.filter((l) => l.name === name).forEach((l) => l.run(event)); }
}

// NATS's subject rules, by a way of its own: a regular expression.
function matches(pattern, topic) {
  const parts = pattern.split('.').map((token) => (token === '*' ? '[^.]+' : token === '>' ? '.+' : token.replace(/\W/g, '\\$&')));
  return new RegExp(`^${parts.join('\\.')}$`).test(topic);
}

class World {
  constructor({ seed = 1, latency = 20, transports = ['ws', 'sse', 'longpoll'], random } = {}) {
    this.random = randomFrom(seed);
    this.clock = new Clock();
    this.latency = latency;
    this.epoch = 'e1';
    this.log = [];
    this.heartbeat = 20000;
    this.gaps = [];              // told to the next links to open
    this.how = {};               // name -> 'works' | 'silent' | 'down' | 'mute' | 'refuses' | 'busy' | 'brief'
    this.opened = [];            // [time, name, cursor]
    this.attempts = [];
    this.refuses = () => false;  // link -> whether its patterns are refused
    this.links = new Set();
    this.ids = 0;
    this.browser = new Browser((run, ms) => this.clock.set(run, ms));
    this.kept = {};
    this.beacons = [];
    this.transportNames = transports;
    this.seededRandom = random || this.random;
    Object.assign(this, this.tab());
  }

  // A tab of the one browser: a window of its own, everything else shared.
  tab() {
    const window = new Target();
    window.document = new Target();
    window.location = { protocol: 'http:', host: 'page.test' };
    window.localStorage = { getItem: (k) => (k in this.kept ? this.kept[k] : null), setItem: (k, v) => { this.kept[k] = String(v); } };
    window.navigator = { sendBeacon: (url, body) => { this.beacons.push({ url, body: JSON.parse(body) }); return true; } };
    this.browser.furnish(window);
    const library = Switchback.create({
      window,
      now: () => this.clock.now,
      date: () => this.clock.now + (this.dateShift || 0),
      setTimer: (run, ms) => this.clock.set(run, ms),
      clearTimer: (id) => this.clock.clear(id),
      random: this.seededRandom,
      uuid: () => `00000000-0000-4000-8000-${String(++this.ids).padStart(12, '0')}`,
      transports: this.transportNames.map((name) => this.transport(name)),
    });
    return { window, library };
  }

  connect(options = {}, library = this.library) {
    const line = library.connect('', { topics: ['t.>'], ...options });
    line.heard = [];
    line.told = [];
    line.on('*', (name, item) => (name.startsWith('$') ? line.told.push([name, item]) : line.heard.push(item.data)));
    return line;
  }

  // Gone without a word, as a killed process: its locks are freed, its channels and links fall silent.
  crash(window) {
    for (const held of [...this.links]) if (held.link.env.window === window) { held.open = false; this.links.delete(held); held.link.over = true; }
    this.browser.crash(window);
  }

  pass(ms) { this.clock.pass(ms); }

  // The same in steps, between which promises settle.
  async passSlowly(ms) { for (let left = ms; left > 0; left -= 50) { this.clock.pass(Math.min(50, left)); await new Promise(setImmediate); } }

  publish(data = this.log.length + 1, more = {}) {
    this.log.push({ cursor: this.cursor(this.log.length + 1), topic: 't.1', event: 'message', data, time: this.clock.now, ...more });
    for (const link of this.links) link.wake();
  }

  cursor(position = this.log.length) { return `${this.epoch}-${position}`; }

  // The server's side of one opened link.
  serve(name, link, polls, params) {
    const positionOf = (cursor) => (cursor && cursor.startsWith(this.epoch + '-') ? Number(cursor.split('-')[1]) : 0);
    // Of each topic only the newest up to a round's end, which stays until it is reached.
    const latest = params.get('latest') === '1';
    let round = positionOf(params.get('upto'));
    let beginning = 0;
    let at = link.now ? this.log.length : link.at && link.at.startsWith(this.epoch + '-') ? Number(link.at.split('-')[1]) : link.at || link.connection.options.cursor === 'earliest' ? 0 : this.log.length;
    const held = { open: true };
    const later = (run, ms = this.latency) => this.clock.set(() => { if (held.open) run(); }, ms);
    const how = () => this.how[name] || 'works';
    const end = (reason) => { this.links.delete(held); link.end(reason); };
    // A socket changes its patterns in place, all others keep those they were opened with.
    const topics = () => link.texts;
    let quietSince = this.clock.now;
    held.flush = () => {
      // A question that is not answered runs into its time limit.
      if (polls && held.ready && how() === 'mute') return later(() => end(endings.late()), 30000);
      if (!held.ready || how() === 'mute' || how() === 'silent') return;
      if (round <= at || !latest) round = this.log.length;
      const last = round;
      const due = this.log.slice(at, last).filter((item) => topics().some((pattern) => matches(pattern, item.topic)));
      const items = due.filter((item, i) => !latest || !due.slice(i + 1).some((later) => later.topic === item.topic));
      // A batch has its limit, as the server's has; the rest is the next question's answer. A slow stream has one, too.
      const cut = (polls || latest) && items.length > 10 ? items.splice(10) : [];
      at = cut.length ? Number(items[9].cursor.split('-')[1]) : last;
      quietSince = this.clock.now;
      if (at < this.log.length) later(held.flush, 2 * this.latency);
      const live = at >= this.log.length;
      if (polls && items.length) link.batch({ cursor: this.cursor(at), events: items, live, upto: upto() });
      else items.forEach((item) => link.receive(item));
      if (!polls && beginning && at >= beginning && held.open) {
        const past = beginning;
        beginning = 0;
        link.receive({ event: '$live', cursor: this.cursor(Math.max(past, at)), data: {} });
      }
    };
    const upto = () => (latest && at < round ? this.cursor(round) : undefined);
    held.wake = () => later(held.flush);
    held.end = end;
    held.link = link;
    held.name = name;
    const beat = () => {
      if (how() !== 'mute' && this.clock.now - quietSince >= this.heartbeat) { link.receive({ event: '$beat', cursor: this.cursor(at), upto: upto() }); quietSince = this.clock.now; }
      later(beat, 1000);
    };
    this.opened.push([this.clock.now, name, link.at]);
    if (link.attempt) this.attempts.push(link.attempt);
    this.links.add(held);
    if (how() === 'down') later(() => end(endings.lost()));
    else if (this.refuses(link)) later(() => end(endings.refused({ code: 'forbidden', message: 'no' }, 403)));
    else if (how() === 'unauthorized') later(() => end(endings.refused({ code: 'unauthorized', message: 'no' }, 401)));
    else if (how() === 'busy') later(() => end({ status: 503, code: 'draining', retry: 7000, message: 'later' }));
    else if (how() === 'refuses') later(() => end({ status: 403, code: 'forbidden', refused: true, message: 'no' }));
    else if (how() !== 'silent') {
      later(() => {
        const gap = link.at && !link.at.startsWith(this.epoch + '-') ? { reason: 'epoch', from: link.at, to: this.cursor(0) } : this.gaps.shift();
        held.ready = true;
        const isLive = !gap && at >= this.log.length;
        if (!isLive) beginning = this.log.length;
        if (polls) link.batch({ cursor: gap ? gap.to : this.cursor(at), events: gap ? [{ event: '$gap', cursor: gap.to, data: gap }] : [], live: isLive || undefined, upto: upto() });
        else link.receive({ event: '$hello', cursor: link.now ? this.cursor(at) : link.at || this.cursor(at), data: { heartbeat: this.heartbeat, live: isLive || undefined } });
        if (!held.open) return;
        if (gap && !polls) link.receive({ event: '$gap', cursor: gap.to, data: gap });
        if (gap && gap.to.startsWith(this.epoch)) at = Number(gap.to.split('-')[1]);
        if (!held.open) return;
        held.flush();
        if (!polls) later(beat, 1000);
        if (how() === 'brief') later(() => end({}), 5000);
      }, 2 * this.latency);
    }
    const handle = { close: () => { held.open = false; this.links.delete(held); } };
    // A socket answers what it is sent.
    if (name === 'ws') {
      handle.send = (message) => {
        (this.sent = this.sent || []).push(message);
        if (this.answer) later(() => { const data = this.answer(message); if (data) link.receive({ event: '$reply', data: { ref: message.ref, ...data } }); });
      };
    }
    return handle;
  }

  transport(name) {
    const polls = /poll/.test(name);
    return {
      name, wire: name, stream: !polls, reliable: polls,
      supported: () => this.how[name] !== 'absent',
      open: (link) => this.serve(name, link, polls, new URL(link.url(), 'http://page.test').searchParams),
    };
  }

  // What the server does to every link at once.
  endAll(how) { for (const held of [...this.links]) held.end(how); }
  hearAll(item) { for (const held of [...this.links]) held.link.receive(item); }

  tried() { return this.opened.map(([, name]) => name); }
}

module.exports = { World, matches, Clock, randomFrom, Switchback };
