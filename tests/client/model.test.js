// The client against a model of the server, in thousands of random worlds: subscribe, unsubscribe, switch, publish and close
// at any moment, callbacks that throw, tokens that fail, while the server refuses, restarts, is cut off, delays and reorders.
//   MODEL_SEED=n  one world;  MODEL_WORLDS=n  how many
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World, matches } = require('./model.js');

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const WORLDS = Number(process.env.MODEL_WORLDS || 2000);
const FIRST = Number(process.env.MODEL_SEED || 0) || Math.floor(Math.random() * 1e9);
const TOPICS = ['a.1', 'a.2', 'b.1', 'b.2', 'c.1'];
const PATTERNS = ['a.*', 'a.1', 'b.>', 'b.2', 'c.1', '>', 'secret.1', 'secret.2', 'bad..one', 'a.>.b'];
const TRANSPORTS = ['ws', 'sse', 'longpoll', 'poll', 'auto'];
// More than any polling, with retries and renewals, has reason for; a storm is ten times that.
const REQUESTS_A_MINUTE = 600;
const REQUESTS_A_QUIET_MINUTE = 90;

const mayBe = (pattern) => !/^secret|\.\.|>\./.test(pattern);

class Play {
  constructor(seed) {
    this.seed = seed;
    const roll = seed % 8;
    this.world = new World(seed, { keyed: roll < 3 });
    this.calls = [];           // { what, answers: [] }, each to be answered once
    this.handles = [];         // { handle, topics, from, call }
    this.got = [];
    this.wanted = new Map();   // pattern -> the log's end when it was first called for
    this.published = [];
    this.closedByUs = false;
    this.tokenFails = 0;
    const initial = this.some(['a.*', 'b.2', 'secret.1', 'bad..one'], 2);
    this.connection = this.world.library.connect('', {
      topics: initial, interval: 1000 + this.int(3000), wait: 2 + this.int(20),
      ...(this.world.server.keyed && { token: (done) => this.token(done) }),
    });
    this.began = this.world.server.log.length;
    this.connection.on('message', (item) => this.hear(item));
    for (const topic of initial) this.add({ topics: [topic], from: 0, initial: true });
    this.connection.on('$close', (how) => { this.closed = how.reason; });
    this.gone = new Set();
    this.connection.on('$error', (error) => (error.topics || []).forEach((topic) => this.gone.add(topic)));
    this.world.time.between = () => this.checkPhase();
    const { refuse } = this.connection;
    this.connection.refuse = (...verdict) => { this.noteBlind(); return refuse.apply(this.connection, verdict); };
  }

  random() { return this.world.random(); }
  int(n) { return Math.floor(this.random() * n); }
  pick(list) { return list[this.int(list.length)]; }
  some(list, most) { return [...new Set(Array.from({ length: this.int(most + 1) }, () => this.pick(list)))]; }

  token(done) {
    const ends = this.world.time.now + (this.random() < 0.3 ? -1 : 20 * SECOND + this.random() * 5 * MINUTE);
    if (this.tokenFails > 0) {
      this.tokenFails -= 1;
      if (this.random() < 0.3) throw new Error('the token function');
      if (this.random() < 0.3) return;          // never answers
      done(new Error('not now'));
      return;
    }
    this.world.time.set(() => done(null, `good-${Math.round(this.calm ? this.world.time.now + 100 * MINUTE : ends)}`), this.random() * 500);
  }

  // A callback that notes that it was called, and now and then throws.
  callback(what) {
    const call = { what, answers: [] };
    const throws = this.random() < 0.2;
    this.calls.push(call);
    call.run = (error, result) => {
      call.answers.push(error || result || true);
      if (error) call.error = error; else call.result = result;
      if (throws) throw new Error('the application');
    };
    return call;
  }

  hear(item) {
    const position = Number(item.cursor.split('-')[1]);
    const due = [...this.wanted].some(([pattern, from]) => position > from && matches(pattern, item.topic));
    // Where no question gets through, the renewed stream begins where the connection stands: history, but nothing lost.
    this.noteBlind();
    assert.ok(due || this.blind, `${item.cursor} on ${item.topic} was not asked for, or is older than the call`);
    const last = this.got.length ? Number(this.got.at(-1).cursor.split('-')[1]) : 0;
    assert.ok(position > last, `${item.cursor} after ${this.got.length ? this.got.at(-1).cursor : 'nothing'}`);
    this.got.push(item);
    if (this.random() < 0.02) throw new Error('a listener');
  }

  step() {
    const { world, connection } = this;
    const { server } = world;
    const chance = this.random();
    if (chance < 0.30) server.publish(this.pick(TOPICS), server.log.length);
    else if (chance < 0.44) {
      const topics = this.some(PATTERNS, 2).concat(this.pick(PATTERNS)).filter((topic, i, all) => all.indexOf(topic) === i);
      const call = this.callback(`subscribe ${topics}`);
      const entry = { topics, from: server.log.length, call, good: topics.every(mayBe) };
      this.add(entry);
      entry.handle = connection.subscribe(topics, (error, cursor) => { if (error) this.drop(entry); call.run(error, cursor); });
    } else if (chance < 0.54 && this.handles.length) {
      const entry = this.pick(this.handles);
      const call = this.callback('unsubscribe');
      if (entry.handle) { entry.left = true; this.drop(entry); entry.handle.unsubscribe(call.run); } else if (this.handles.filter((each) => each.topics.includes(entry.topics[0])).length === 1) { this.drop(entry); connection.unsubscribe(entry.topics, call.run); } else this.calls.pop();
    } else if (chance < 0.60 && connection.state !== 'closed') connection.switchTo(this.pick(TRANSPORTS), this.callback('switchTo').run);
    else if (chance < 0.68) this.publish();
    else if (chance < 0.72) [...server.open].forEach((each) => this.random() < 0.7 && each.cut());
    else if (chance < 0.75) { server.stop(); world.time.set(() => { server.up = true; }, this.random() * 30 * SECOND); }
    else if (chance < 0.77) { world.blackHole = true; world.time.set(() => { world.blackHole = false; }, this.random() * 20 * SECOND); }
    else if (chance < 0.78) { server.busy = true; world.time.set(() => { server.busy = false; }, this.random() * 20 * SECOND); }
    else if (chance < 0.79) world.noWebSocket = !world.noWebSocket;
    else if (chance < 0.80) world.slow = this.pick([1, 1, 5]);
    else if (chance < 0.82) world.window.fire('online');
    else if (chance < 0.84) { world.window.fire('pagehide'); world.time.pass(this.random() * 20 * SECOND); world.window.fire('pageshow'); }
    else if (chance < 0.85) world.time.sleep(this.random() * 5 * MINUTE);
    else if (chance < 0.87) this.tokenFails = this.int(4);
    else if (chance < 0.872) { this.closedByUs = true; connection.close(); }
    else world.time.pass(this.random() * (this.random() < 0.3 ? 60 : 3) * SECOND);
  }

  publish() {
    const call = this.callback('publish');
    const n = this.published.length;
    this.published.push(call);
    call.topic = this.pick(TOPICS);
    this.connection.publish(call.topic, `p${n}`, null, call.run);
  }

  // A pattern is wanted from the first call for it until its last handle has gone.
  add(entry) {
    this.handles.push(entry);
    for (const topic of entry.topics) if (!this.wanted.has(topic)) this.wanted.set(topic, entry.from);
  }

  // Never at rest with something wanted; and what applications see agrees with what is there.
  checkPhase() {
    const { connection } = this;
    const phase = connection.phase();
    assert.equal(phase === 'closed', connection.state === 'closed');
    if (phase === 'idle') assert.ok(!connection.patterns.length || 'patterns' in connection.timers, 'idle, and patterns are wanted');
    if (connection.state === 'open' && connection.current) assert.equal(connection.transport, connection.current.name);
    if (connection.held) assert.equal(phase, 'changing', 'items are held back for a candidate');
    assert.deepEqual(connection.topics, connection.patterns.map((pattern) => pattern.text));
  }

  noteBlind() { this.blind = this.blind || this.connection.handles.some((handle) => handle.blind); }

  drop(entry) {
    this.handles = this.handles.filter((each) => each !== entry);
    for (const topic of entry.topics) if (!this.handles.some((each) => each.topics.includes(topic))) this.wanted.delete(topic);
  }

  run() {
    for (let i = 0; i < 60; i++) this.step();
    // Peace: everything works again, and whatever was begun is finished.
    this.calm = true;
    Object.assign(this.world, { blackHole: false, noWebSocket: false, slow: 1, loss: 0 });
    Object.assign(this.world.server, { up: true, busy: false });
    this.tokenFails = 0;
    this.world.time.pass(5 * MINUTE);
    this.world.server.publish('a.1', 'last');
    this.world.server.publish('b.2', 'last');
    const quiet = this.world.time.now;
    this.world.time.pass(3 * MINUTE);
    this.check(quiet);
  }

  check(quiet) {
    const { connection, world } = this;
    const ours = world.time.thrown.filter((error) => !/^(the application|a listener|the token function)$/.test(error.message));
    if (ours.length) throw ours[0];
    for (const call of this.calls) assert.equal(call.answers.length, 1, `${call.what} was answered ${call.answers.length} times: ${call.answers}`);
    this.checkRequests(quiet);
    this.checkPublishes();
    if (this.closedByUs) { assert.equal(connection.state, 'closed'); return; }
    const wanted = this.handles.filter((each) => !each.initial || (mayBe(each.topics[0]) && !this.gone.has(each.topics[0])));
    if (connection.state === 'closed') { assert.equal(this.handles.some((each) => each.topics.every(mayBe)), false, `closed: ${this.closed}`); return; }
    for (const entry of this.handles) if (entry.call) assert.ok(entry.good, `${entry.topics} was granted`);
    if (wanted.length) assert.equal(connection.state, 'open');
    for (const entry of wanted.filter((each) => each.handle)) {
      const from = Number(entry.handle.cursor.split('-')[1]);
      const due = world.server.log.slice(from).filter((item) => entry.topics.some((topic) => matches(topic, item.topic)));
      const got = new Set(this.got.map((item) => item.cursor));
      const lost = due.filter((item) => !got.has(item.cursor)).map((item) => item.cursor);
      assert.deepEqual(lost, [], `${entry.topics} from ${entry.handle.cursor} (called at ${entry.from}) misses events`);
    }
  }

  checkRequests(quiet) {
    const { requests, time } = this.world;
    let worst = 0;
    for (let i = 0, j = 0; i < requests.length; i++) { while (requests[i] - requests[j] > MINUTE) j += 1; worst = Math.max(worst, i - j + 1); }
    assert.ok(worst <= REQUESTS_A_MINUTE, `${worst} requests in a minute`);
    const after = requests.filter((at) => at >= quiet).length;
    assert.ok(after <= (REQUESTS_A_QUIET_MINUTE * (time.now - quiet)) / MINUTE, `${after} requests in three quiet minutes`);
  }

  checkPublishes() {
    const { log } = this.world.server;
    let last = 0;
    this.published.forEach((call, n) => {
      const stored = log.filter((item) => item.data === `p${n}`);
      assert.ok(stored.length <= 1, `p${n} is stored ${stored.length} times`);
      if (call.error) { assert.ok(['unknown', 'closed', 'token'].includes(call.error.code) || call.error.status === 401, `publish: ${call.error.code} ${call.error.message}`); return; }
      assert.equal(stored.length, 1, `p${n} was confirmed`);
      const position = Number(stored[0].cursor.split('-')[1]);
      assert.ok(position > last, `p${n} is out of order`);
      last = position;
    });
  }
}

function play(seed) {
  try { new Play(seed).run(); } catch (error) { error.message = `MODEL_SEED=${seed} MODEL_WORLDS=1: ${error.message}`; throw error; }
}

test(`a model of the client and the server: ${WORLDS} worlds from seed ${FIRST}`, () => {
  for (let seed = FIRST; seed < FIRST + WORLDS; seed++) play(seed);
});
