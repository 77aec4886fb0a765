// An application in the model: what it calls for, what it is owed for that, and what it got.
'use strict';

const assert = require('node:assert/strict');
const { matches } = require('./model.js');
const { Watch } = require('./states.js');

const PATTERNS = ['a.*', 'a.1', 'b.>', 'b.2', 'c.1', '>', 'secret.1', 'secret.2', 'bad..one', 'a.>.b'];

const mayBe = (pattern) => !/^secret|\.\.|>\./.test(pattern);
const unique = (values) => [...new Set(values)];

class Witness {
  // `initial` are the patterns of the options.
  constructor(world, tab, initial, options) {
    this.world = world;
    this.tab = tab;
    this.calls = [];           // { what, answers: [] }, each to be answered once
    this.entries = [];         // { topics, handle, call, cursor, settled: the history's length when it was answered }
    this.got = [];
    this.gaps = [];            // { reason, from, to, at: the history's length }
    this.wanted = new Map();   // pattern -> the history's length when it was first called for
    this.published = [];
    this.gone = new Set();
    this.closedByUs = false;
    this.connection = tab.library.connect('', { topics: initial, ...options });
    this.watch = new Watch(this.connection);
    for (const topic of initial) this.add({ topics: [topic], initial: true });
    this.connection.on('message', (item) => this.hear(item));
    this.connection.on('$gap', (gap) => this.hearGap(gap));
    this.connection.on('$close', (how) => { this.closed = how.reason; });
    this.connection.on('$error', (error) => (error.topics || []).forEach((topic) => this.gone.add(topic)));
  }

  random() { return this.world.random(); }
  int(n) { return Math.floor(this.random() * n); }
  pick(list) { return list[this.int(list.length)]; }

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
    const due = [...this.wanted].some(([pattern, from]) => item.n >= from && matches(pattern, item.topic));
    assert.ok(due || this.blind, `${item.cursor} on ${item.topic} was not asked for, or is older than the call`);
    const last = this.got.length ? this.got.at(-1).n : -1;
    assert.ok(item.n > last, `${item.cursor} after ${this.got.length ? this.got.at(-1).cursor : 'nothing'}`);
    this.got.push(item);
    if (this.random() < 0.02) throw new Error('a listener');
    if (this.random() < 0.02 && this.connection.state !== 'closed') this.callFromListener();
  }

  // Where the log is another one, all of it is new to those who were there before.
  hearGap(gap) {
    const { server } = this.world;
    this.gaps.push({ ...gap, at: server.history.length });
    if (gap.reason === 'expired') return;
    const first = server.history.findIndex((item) => item.generation === server.generation);
    for (const [pattern, from] of this.wanted) this.wanted.set(pattern, Math.min(from, first < 0 ? from : first));
  }

  callFromListener() {
    if (this.random() < 0.5) this.subscribe(); else this.unsubscribe();
  }

  subscribe(topics = unique(Array.from({ length: 1 + this.int(3) }, () => this.pick(PATTERNS)))) {
    const { server } = this.world;
    const call = this.callback(`subscribe ${topics}`);
    const entry = { topics, call };
    this.add(entry);
    entry.handle = this.connection.subscribe(topics, (error, cursor) => {
      if (error) this.drop(entry);
      Object.assign(entry, { cursor, settled: server.history.length, steady: entry.generation === server.generation });
      call.run(error, cursor);
    });
  }

  unsubscribe() {
    if (!this.entries.length) return;
    const entry = this.pick(this.entries);
    if (!entry.handle && this.entries.filter((each) => each.topics.includes(entry.topics[0])).length > 1) return;
    const { run } = this.callback('unsubscribe');
    this.drop(entry);
    if (entry.handle) entry.handle.unsubscribe(run); else this.connection.unsubscribe(entry.topics, run);
  }

  switchTo(names) { if (this.connection.state !== 'closed') this.connection.switchTo(this.pick(names), this.callback('switchTo').run); }

  publish(topic) {
    const call = this.callback('publish');
    call.data = `${this.connection.clientId} ${this.published.length}`;
    this.published.push(call);
    this.connection.publish(topic, call.data, null, call.run);
  }

  close() { this.closedByUs = true; this.connection.close(); }

  // A pattern is wanted from the first call for it until its last handle has gone.
  add(entry) {
    const { server } = this.world;
    entry.generation = server.generation;
    this.entries.push(entry);
    for (const topic of entry.topics) if (!this.wanted.has(topic)) this.wanted.set(topic, this.present());
  }

  // The history's length, as far as it is known here: a shared connection may be behind, and a new member begins where it is.
  present() {
    const { server } = this.world;
    const behind = this.world.connections.filter((each) => each.cursor && each !== this.connection).map((each) => server.lengthAt(each.cursor));
    return Math.min(server.history.length, ...(this.connection.options.share ? behind : []));
  }

  drop(entry) {
    this.entries = this.entries.filter((each) => each !== entry);
    for (const topic of entry.topics) if (!this.entries.some((each) => each.topics.includes(topic))) this.wanted.delete(topic);
  }

  // Between two turns: each transition is the table's; never at rest with something wanted; and what applications see agrees with what is there.
  between() {
    const { connection } = this;
    const phase = connection.phase();
    this.noteBlind();
    this.watch.check();
    assert.equal(phase === 'closed', connection.state === 'closed');
    if (phase === 'idle') assert.ok(!connection.patterns.length || 'patterns' in connection.timers, 'idle, and patterns are wanted');
    if (connection.state === 'open' && connection.current) assert.equal(connection.transport, connection.current.name);
    if (connection.buffer) assert.equal(phase, 'changing', 'items are buffered for a candidate');
    assert.deepEqual(connection.topics, connection.patterns.map((pattern) => pattern.text));
  }

  // Where no question gets through, the renewed stream begins where the connection stands: history, but nothing lost.
  noteBlind() { this.blind = this.blind || this.connection.patterns.some((pattern) => pattern.blind); }

  // What must be so once everything works again and some time has passed.
  check() {
    const { connection, world } = this;
    for (const call of this.calls) assert.equal(call.answers.length, 1, `${call.what} was answered ${call.answers.length} times: ${call.answers}`);
    this.checkPublishes();
    if (this.closedByUs) { assert.equal(connection.state, 'closed'); return; }
    const kept = this.keptEntries();
    if (connection.state === 'closed') { assert.equal(this.entries.some((each) => each.topics.every(mayBe)), false, `closed: ${this.closed}`); return; }
    for (const entry of this.entries) if (entry.call) assert.ok(entry.topics.every(mayBe), `${entry.topics} was granted`);
    if (!kept.length) return;
    assert.equal(connection.state, 'open');
    assert.equal(connection.cursor.split('-')[0], world.server.epoch, 'it stands in a log that is no more');
    for (const entry of kept.filter((each) => each.handle)) this.checkDelivery(entry);
  }

  keptEntries() { return this.entries.filter((each) => !each.initial || (mayBe(each.topics[0]) && !this.gone.has(each.topics[0]))); }

  // Everything after the cursor that the call was answered with was heard, or lies in a gap that was.
  checkDelivery(entry) {
    const { server } = this.world;
    const from = entry.steady ? Number(entry.cursor.split('-')[1]) : Infinity;
    const isDue = (item) => item.n >= entry.settled || (item.generation === entry.generation && item.cursor.split('-')[0] === entry.cursor.split('-')[0] && item.position > from);
    const got = new Set(this.got.map((item) => item.n));
    const missing = server.history.filter((item) => isDue(item) && !got.has(item.n) && entry.topics.some((topic) => matches(topic, item.topic)));
    const lost = missing.filter((item) => !item.ambiguous && !this.gaps.some((gap) => covers(gap, item))).map((item) => `${item.cursor} (${item.lost ? 'lost' : item.trimmed ? 'trimmed' : 'there'})`);
    assert.deepEqual(lost, [], `${entry.topics} from ${entry.cursor} misses events without a gap; heard: ${JSON.stringify(this.gaps)}`);
  }

  // Stored once, as long as the log is; confirmed and in order.
  checkPublishes() {
    let last = -1;
    for (const call of this.published) {
      const stored = this.world.server.history.filter((item) => item.data === call.data);
      assert.ok(stored.slice(0, -1).every((item) => item.lost), `${call.data} is stored ${stored.length} times`);
      if (call.error) { assert.ok(['unknown', 'closed', 'token'].includes(call.error.code) || call.error.status === 401, `publish: ${call.error.code} ${call.error.message}`); continue; }
      assert.ok(stored.length, `${call.data} was confirmed`);
      assert.ok(stored[0].n > last, `${call.data} is out of order`);
      last = stored[0].n;
    }
  }
}

// Of an expired gap the cursors say what is gone; of another log, everything that the old one had and this one has not.
function covers(gap, item) {
  if (gap.reason !== 'expired') return (item.lost || item.trimmed) && gap.at > item.n;
  const [epoch, from] = gap.from.split('-');
  return item.trimmed && item.cursor.startsWith(`${epoch}-`) && item.position > Number(from) && item.position <= Number(gap.to.split('-')[1]);
}

module.exports = { Witness, mayBe };
