// static/state.js: the newest event of each topic, joined to its changes without a seam, under simulated time.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World, randomFrom, Switchback, matches } = require('./world.js');
const install = require('../../static/state.js');
const share = require('../../static/share.js');

const SECOND = 1000;
const TRANSPORTS = ['ws', 'sse', 'longpoll', 'poll'];
const { endings } = Switchback;

// A world whose socket confirms what it is asked, with the stores in its library.
function withStores(options) {
  const world = new World(options);
  world.answer = (message) => ({ ok: true, cursor: world.cursor(), type: message.type });
  install(world.library);
  return world;
}

const remove = (world, topic) => world.publish(undefined, { topic, deleted: true });
const dataOf = (store) => Object.fromEntries(store.all().map((item) => [item.topic, item.data]));

// What the log says, without a store.
function valuesOf(world, pattern) {
  const values = {};
  for (const item of world.log) {
    if (!matches(pattern, item.topic)) continue;
    if (item.deleted) delete values[item.topic]; else values[item.topic] = item.data;
  }
  return values;
}

function assertState(world, store, pattern, text) {
  assert.deepEqual(dataOf(store), valuesOf(world, pattern), text);
  const topics = store.all().map((item) => item.topic);
  assert.deepEqual(topics, topics.slice().sort(), `${text}: in order of topics`);
  for (const item of store.all()) assert.equal(store.get(item.topic), item, text);
}

const readers = (world) => world.opened.filter(([, , cursor]) => !cursor).length;

test('the newest of each topic, then every change, over every transport', () => {
  for (const name of TRANSPORTS) {
    const world = withStores({ transports: [name] });
    for (let n = 0; n < 60; n++) world.publish(n, { topic: 't.' + (n % 20) });
    remove(world, 't.3');
    const connection = world.connect({ topics: undefined, interval: 100 });
    const store = world.library.state(connection, 't.>');
    assert.deepEqual([store.live, store.all()], [false, []], name);
    world.pass(10 * SECOND);
    assert.ok(store.live, name);
    assert.equal(store.all().length, 19, name);
    assertState(world, store, 't.>', name);
    for (const topic of ['t.1', 't.3', 'u.1']) { world.publish('new', { topic }); world.pass(SECOND); }
    remove(world, 't.2');
    world.pass(SECOND);
    assert.equal(store.get('t.2'), undefined, name);
    assert.equal(store.get('t.3').data, 'new', name);
    assertState(world, store, 't.>', name);
  }
});

test('a store on a connection that has run for long is joined while its topics change', () => {
  for (const name of TRANSPORTS) {
    for (let pauseMs = 1; pauseMs <= 40; pauseMs += 13) {
      const world = withStores({ transports: [name] });
      for (let n = 0; n < 40; n++) world.publish(n, { topic: 't.' + (n % 8) });
      const connection = world.connect({ topics: 'other', interval: 50 });
      world.pass(10 * SECOND);
      const store = world.library.state(connection, 't.>');
      for (let n = 0; n < 80; n++) {
        if (n % 5) world.publish('c' + n, { topic: 't.' + (n % 9) }); else remove(world, 't.' + (n % 7));
        world.pass(pauseMs);
      }
      world.pass(20 * SECOND);
      assertState(world, store, 't.>', `${name}, ${pauseMs} ms`);
      assert.equal(connection.topics.length, 2, name);
    }
  }
});

test('all() is the same list until something has changed, and an event that stays is the same object', () => {
  const world = withStores({ transports: ['ws'] });
  world.publish(1, { topic: 't.1' });
  world.publish(2, { topic: 't.2' });
  const connection = world.connect({ topics: undefined });
  const store = world.library.state(connection, 't.*');
  const empty = store.all();
  assert.equal(store.all(), empty);
  world.pass(5 * SECOND);
  const first = store.all();
  assert.equal(store.all(), first);
  world.publish(3, { topic: 'u.1' });
  remove(world, 't.9');   // it had no value
  world.pass(5 * SECOND);
  assert.equal(store.all(), first);
  world.publish(4, { topic: 't.1' });
  world.pass(SECOND);
  assert.notEqual(store.all(), first);
  assert.deepEqual(first.map((item) => item.data), [1, 2], 'a list that was given out does not change');
  assert.equal(store.all()[1], first[1]);
});

test('a listener hears of the snapshot once, then of each change, and may throw', () => {
  const world = withStores({ transports: ['ws'] });
  for (const topic of ['t.1', 't.2']) world.publish(0, { topic });
  const connection = world.connect({ topics: undefined });
  const store = world.library.state(connection, 't.*');
  const changes = [];
  const lists = [];
  store.on('change', () => { throw new Error('a listener'); });
  store.on('change', (topics) => changes.push([store.live, topics]));
  const stop = store.subscribe((items) => lists.push(items));
  assert.equal(thrownIn(() => world.pass(5 * SECOND)), 1);
  world.publish(1, { topic: 't.2' });
  assert.equal(thrownIn(() => world.pass(SECOND)), 1);
  assert.deepEqual(changes, [[true, ['t.1', 't.2']], [true, ['t.2']]]);
  assert.deepEqual(lists.map((items) => items.length), [0, 2, 2]);
  stop();
  remove(world, 't.2');
  assert.equal(thrownIn(() => world.pass(SECOND)), 1);
  assert.equal(lists.length, 3);
  assert.equal(store.all().length, 1);
});

// How often a listener threw: in a page its exceptions reach `onerror`, here the clock that runs the timers.
function thrownIn(run) {
  for (let n = 0; ; n++) {
    try { run(); return n; } catch (error) { assert.match(error.message, /a listener/); }
  }
}

test('a gap after the snapshot starts it over, and what is shown stays until the new one is complete', () => {
  const world = withStores({ transports: ['ws'] });
  for (let n = 1; n <= 3; n++) world.publish(n, { topic: 't.' + n });
  const connection = world.connect({ topics: undefined });
  const store = world.library.state(connection, 't.*');
  world.pass(5 * SECOND);
  const before = store.all();
  const unchanged = store.get('t.2');
  const changes = [];
  store.on('change', (topics) => changes.push([store.live, topics.slice().sort()]));
  // Two changes that the connection does not hear of.
  const from = world.cursor();
  world.log.push({ cursor: world.cursor(4), topic: 't.1', event: 'message', data: 'changed' });
  world.log.push({ cursor: world.cursor(5), topic: 't.3', event: 'message', deleted: true });
  world.hearAll({ event: '$gap', cursor: world.cursor(), data: { reason: 'expired', from, to: world.cursor() } });
  assert.equal(store.all(), before);
  world.pass(5 * SECOND);
  assertState(world, store, 't.*');
  assert.equal(store.get('t.2'), unchanged, 'an event that did not change stays the same object');
  assert.deepEqual(changes, [[false, []], [true, ['t.1', 't.3']]]);
});

test('a gap of other patterns, or of what the snapshot covers, starts nothing over', () => {
  const world = withStores({ transports: ['ws'] });
  for (let n = 1; n <= 3; n++) world.publish(n, { topic: 't.' + n });
  const connection = world.connect({ topics: 'u.>' });
  const store = world.library.state(connection, 't.*');
  world.pass(5 * SECOND);
  const count = readers(world);
  const gap = (to, patterns) => world.hearAll({ event: '$gap', cursor: to, data: { reason: 'expired', from: 'e1-0', to, patterns } });
  gap('e1-3');
  world.publish(4, { topic: 'u.1' });
  world.pass(SECOND);
  gap('e1-5', ['u.>']);
  world.pass(5 * SECOND);
  assert.equal(readers(world), count);
  assert.ok(store.live);
  world.log.push({ cursor: 'e1-5', topic: 't.2', event: 'message', data: 'late' });
  gap('e1-6', ['t.*']);
  assert.ok(!store.live);
  world.publish(6, { topic: 't.1' });
  world.pass(5 * SECOND);
  assert.ok(store.live);
  assert.equal(readers(world), count + 1);
});

test('another log replaces the state', () => {
  for (const name of TRANSPORTS) {
    const world = withStores({ transports: [name] });
    for (let n = 1; n <= 5; n++) world.publish(n, { topic: 't.' + n });
    const connection = world.connect({ topics: undefined, interval: 200 });
    const store = world.library.state(connection, 't.*');
    world.pass(5 * SECOND);
    assert.equal(store.all().length, 5, name);
    world.epoch = 'e2';
    world.log = [];
    for (let n = 4; n <= 6; n++) world.publish('second ' + n, { topic: 't.' + n });
    world.endAll(endings.lost());
    world.pass(30 * SECOND);
    assert.ok(store.live, name);
    assertState(world, store, 't.*', name);
  }
});

test('a log that went back keeps its cursors, not its events', () => {
  const world = withStores({ transports: ['ws'] });
  for (let n = 1; n <= 5; n++) world.publish(n, { topic: 't.' + n });
  const connection = world.connect({ topics: undefined });
  const store = world.library.state(connection, 't.*');
  world.pass(5 * SECOND);
  world.log.length = 2;
  world.endAll(endings.lost());
  world.gaps.push({ reason: 'ahead', from: 'e1-5', to: 'e1-2' });
  world.pass(5 * SECOND);
  world.publish('another', { topic: 't.3' });
  world.pass(20 * SECOND);
  assertState(world, store, 't.*');
  world.publish('and another', { topic: 't.1' });
  world.pass(SECOND);
  assertState(world, store, 't.*');
});

test('random changes, breaks, switches, gaps and new logs: at rest the state is that of the log', async (t) => {
  const first = Number(process.env.STATE_SEED || 0) || Math.floor(Math.random() * 1e6);
  const worlds = process.env.STATE_SEED ? 1 : 150;
  for (let seed = first; seed < first + worlds; seed++) {
    await t.test(`seed ${seed}`, () => randomWorld(seed));
  }
});

function randomWorld(seed) {
  const random = randomFrom(seed);
  const world = withStores({ seed, transports: TRANSPORTS });
  const pick = (all) => all[Math.floor(random() * all.length)];
  const change = () => {
    const topic = 't.' + Math.floor(random() * random() * 30);
    if (random() < 0.25) remove(world, topic); else world.publish(`${seed} ${world.log.length}`, { topic });
  };
  for (let n = 0; n < 60; n++) change();
  const topics = pick([[], ['u.>'], ['t.>'], ['t.1']]);
  const connection = world.connect({ topics, cursor: pick([undefined, 'earliest']), interval: 200 });
  const stores = [];
  for (let step = 0; step < 60; step++) {
    const what = random();
    if (what < 0.2) connection.switchTo(pick(['auto', ...TRANSPORTS]));
    else if (what < 0.35) world.endAll(endings.lost());
    else if (what < 0.45) world.how[pick(TRANSPORTS)] = pick(['works', 'mute', 'down', 'silent']);
    else if (what < 0.5) world.clock.sleep(30 * SECOND);
    else if (what < 0.55) { world.epoch = 'e' + (step + 2); world.log = []; world.endAll(endings.lost()); }
    else if (what < 0.65 && stores.length < 4) stores.push(open());
    else if (what < 0.7 && stores.length) stores.splice(Math.floor(random() * stores.length), 1)[0].store.close();
    for (let n = Math.floor(random() * 8); n > 0; n--) { change(); world.pass(random() * 60); }
    world.pass(random() * 2000);
  }
  function open() {
    const pattern = pick(['t.>', 't.*', 't.1', '>', 't.2']);
    const store = world.library.state(connection, pattern);
    const seen = {};
    // A topic never goes back within one log.
    store.on('change', () => {
      for (const { topic, cursor } of store.all()) {
        const [epoch, position] = cursor.split('-');
        if (seen[topic] && seen[topic][0] === epoch) assert.ok(Number(position) >= seen[topic][1], `${topic} went back`);
        seen[topic] = [epoch, Number(position)];
      }
    });
    return { pattern, store };
  }
  for (const name of TRANSPORTS) world.how[name] = 'works';
  change();
  world.pass(3600 * SECOND);
  for (const { pattern, store } of stores) {
    assert.ok(store.live, pattern);
    assertState(world, store, pattern, `seed ${seed}, ${pattern}`);
  }
  for (const { store } of stores) store.close();
  world.pass(60 * SECOND);
  assert.deepEqual(connection.topics, topics);
  assert.ok(world.links.size <= 1, 'no snapshot is read any more');
}

test('a pattern that is refused is an error of its store alone', () => {
  const world = withStores({ transports: ['ws'] });
  const connection = world.connect({ topics: 't.>' });
  world.pass(SECOND);
  world.answer = (message) => (message.topics[0] === 'secret' ? { ok: false, error: { code: 'forbidden', message: 'no' } } : { ok: true, cursor: world.cursor() });
  const errors = [];
  const refused = world.library.state(connection, 'secret').on('error', (error) => errors.push(error.code));
  const malformed = world.library.state(connection, 'a..b').on('error', (error) => errors.push(error.code));
  const good = world.library.state(connection, 't.*');
  world.publish(1);
  world.pass(10 * SECOND);
  assert.deepEqual(errors.sort(), ['bad_topic', 'forbidden']);
  assert.deepEqual([refused.live, malformed.live, good.live], [false, false, true]);
});

test('close() unsubscribes, and ends a snapshot that is being read', () => {
  const world = withStores({ transports: ['ws'] });
  world.publish(1);
  const connection = world.connect({ topics: 'other' });
  world.pass(SECOND);
  const links = world.links.size;
  for (const ms of [0, 30, 80, 5000]) {
    const store = world.library.state(connection, 't.>');
    const changes = [];
    store.on('change', (topics) => changes.push(topics));
    world.pass(ms);
    changes.length = 0;
    store.close();
    world.publish(ms);
    world.pass(10 * SECOND);
    assert.deepEqual(changes, [], `${ms} ms`);
    assert.deepEqual(connection.topics, ['other'], `${ms} ms`);
    assert.equal(world.links.size, links, `${ms} ms`);
  }
});

test('a connection that closes leaves the last state, which is not live', () => {
  const world = withStores({ transports: ['ws'] });
  world.publish(1);
  const connection = world.connect({ topics: undefined });
  const store = world.library.state(connection, 't.>');
  world.pass(5 * SECOND);
  const lives = [];
  store.subscribe(() => lives.push(store.live));
  connection.close();
  assert.equal(store.all().length, 1);
  assert.deepEqual(lives, [true, false]);
});

test('a topic may be called anything', () => {
  const world = withStores({ transports: ['ws'] });
  for (const topic of ['__proto__', 'constructor', '10', '9']) world.publish(topic, { topic });
  const connection = world.connect({ topics: undefined });
  const store = world.library.state(connection, '*');
  world.pass(5 * SECOND);
  assert.deepEqual(store.all().map((item) => item.data), ['10', '9', '__proto__', 'constructor']);
  assert.equal(store.get('__proto__').data, '__proto__');
  assert.equal(store.get('toString'), undefined);
});

test('the members of a room are the values below it, by their names', () => {
  const world = withStores({ transports: ['ws'] });
  const joins = (member) => world.publish({ member, info: member.toUpperCase() }, { topic: 'room.42.' + member, event: 'join' });
  joins('li');
  joins('mo');
  world.publish('not of this room', { topic: 'room.43.li' });
  const connection = world.connect({ topics: undefined });
  const room = world.library.members(connection, 'room.42');
  world.pass(5 * SECOND);
  assert.deepEqual(room.all().map((item) => item.data.member), ['li', 'mo']);
  assert.equal(room.get('mo').data.info, 'MO');
  const changes = [];
  room.on('change', (topics) => changes.push(...topics));
  remove(world, 'room.42.li');
  joins('jo');
  world.pass(SECOND);
  assert.deepEqual(room.all().map((item) => item.data.member), ['jo', 'mo']);
  assert.deepEqual(changes, ['room.42.li', 'room.42.jo']);
  assert.equal(room.get('li'), undefined);
});

test('over a connection that tabs share', async () => {
  const world = withStores({ transports: ['ws', 'longpoll', 'iframe-poll'] });
  const tabs = [0, 1].map(() => { const tab = world.tab(); share(tab.library); install(tab.library); return tab; });
  for (let n = 0; n < 60; n++) world.publish(n, { topic: 't.' + (n % 25) });
  const stores = tabs.map(({ library }) => library.state(world.connect({ topics: 'u', share: true }, library), 't.>'));
  await world.passSlowly(10 * SECOND);
  for (const store of stores) { assert.ok(store.live); assertState(world, store, 't.>'); }
  remove(world, 't.1');
  world.publish('new', { topic: 't.2' });
  await world.passSlowly(2 * SECOND);
  for (const store of stores) assertState(world, store, 't.>');
  assert.deepEqual([...world.links].map((held) => held.name), ['ws']);
});

test('the snapshot takes the token and the transports of its connection, and no place to start', () => {
  const world = withStores({ transports: ['sse', 'longpoll'] });
  const asked = [];
  const { connect } = world.library;
  world.library.connect = (url, options) => { asked.push(options); return connect(url, options); };
  const connection = connect('', { topics: 'u', token: 'abc', transports: ['longpoll'], last: 3, client: '00000000-0000-4000-8000-00000000ffff', resume: 'x', interval: 7 });
  world.library.state(connection, 't.>');
  world.pass(5 * SECOND);
  assert.deepEqual(asked, [{ topics: ['t.>'], cursor: 'earliest', latest: true, token: 'abc', credentials: undefined, interval: 7, wait: undefined, transports: ['longpoll'] }]);
});
