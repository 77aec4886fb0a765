// State and its changes: `latest`, rounds over switches, `pace`, and the end of the past, under simulated time.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World, randomFrom, Switchback } = require('./world.js');
const install = require('../../static/share.js');

const SECOND = 1000;
const TRANSPORTS = ['ws', 'sse', 'longpoll', 'poll'];
const { endings } = Switchback;

const told = (line, name) => line.told.filter(([n]) => n === name).map(([, data]) => data);

// Hears items with their topics, in place of data alone.
function watch(line) {
  const items = [];
  line.on('message', (item) => items.push(item));
  return items;
}

// Each position once and in order, and the newest of each topic at the end.
function assertState(world, items, text) {
  const positions = items.map((item) => Number(item.cursor.split('-')[1]));
  assert.deepEqual(positions, [...new Set(positions)].sort((a, b) => a - b), `${text}: in order, each once`);
  const value = (all) => Object.fromEntries(all.map((item) => [item.topic, item.data]));
  assert.deepEqual(value(items), value(world.log), `${text}: the newest of each topic`);
}

test('a snapshot, then every change, over every transport', () => {
  for (const name of TRANSPORTS) {
    const world = new World({ transports: [name] });
    for (let n = 0; n < 100; n++) world.publish(n, { topic: 't.' + (n % 25) });
    const line = world.connect({ cursor: 'earliest', latest: true, interval: 100 });
    const items = watch(line);
    world.pass(10 * SECOND);
    assert.equal(items.length, 25, name);
    assertState(world, items, name);
    assert.equal(told(line, '$live').length, 1, name);
    for (let n = 100; n < 105; n++) { world.publish(n, { topic: 't.1' }); world.pass(SECOND); }
    assert.deepEqual(items.slice(25).map((item) => item.data), [100, 101, 102, 103, 104], name);
    assert.equal(told(line, '$live').length, 1, name);
  }
});

test('the past is over once for each opening', () => {
  for (const name of TRANSPORTS) {
    const world = new World({ transports: [name] });
    for (let n = 0; n < 35; n++) world.publish(n);
    const line = world.connect({ cursor: 'earliest', interval: 100 });
    const story = [];
    line.on('*', (event) => story.push(event));
    world.pass(10 * SECOND);
    const messages = Array(35).fill('message');
    assert.deepEqual(story, ['$open', ...messages, '$live'], name);
    assert.deepEqual(told(line, '$live'), [{ cursor: world.cursor() }], name);
    // Away for a while: what was missed comes before it is live again.
    story.length = 0;
    world.endAll(endings.lost());
    for (let n = 0; n < 3; n++) world.publish(n);
    world.pass(20 * SECOND);
    const after = story.filter((event) => event !== '$error');
    assert.deepEqual(after, ['$open', 'message', 'message', 'message', '$live'], name);
  }
});

test('it is live at once where nothing is behind, and not again after a switch', () => {
  const world = new World();
  const line = world.connect();
  world.pass(100 * SECOND);
  assert.equal(line.transport, 'ws');
  assert.ok(line.stats.switches);
  assert.equal(told(line, '$live').length, 1);
});

test('another log is another past', () => {
  const world = new World({ transports: ['ws'] });
  world.publish(1);
  const line = world.connect({ cursor: 'earliest', latest: true });
  world.pass(SECOND);
  world.epoch = 'e2';
  world.log = [];
  for (let n = 0; n < 3; n++) world.publish(n);
  world.endAll(endings.lost());
  world.pass(20 * SECOND);
  const names = line.told.map(([name]) => name).filter((name) => name !== '$error');
  assert.deepEqual(names, ['$open', '$live', '$open', '$gap', '$live']);
});

test('a round goes on over a lost connection and over a switch, where its end is known', () => {
  for (const [from, to] of [['longpoll', 'poll'], ['longpoll', 'ws'], ['ws', 'longpoll']]) {
    const world = new World({ transports: [from, to] });
    for (let n = 0; n < 60; n++) world.publish(n, { topic: 't.' + n });
    const line = world.connect({ cursor: 'earliest', latest: true, transports: [from, to], interval: 100 });
    const items = watch(line);
    line.switchTo(from);
    while (items.length < 20) world.pass(10);
    const end = world.cursor();
    // The hottest topics change meanwhile.
    for (let n = 60; n < 90; n++) world.publish(n, { topic: 't.' + (n % 3 + 50) });
    const upto = [];
    const serve = world.serve;
    world.serve = function record(name, link, polls, params) {
      upto.push(params.get('upto'));
      return serve.call(this, name, link, polls, params);
    };
    if (from === 'ws') world.endAll(endings.goodbye('recycle', 0));
    else line.switchTo(to);
    world.pass(20 * SECOND);
    assertState(world, items, `${from} to ${to}`);
    if (from === 'longpoll') assert.equal(upto[0], end, `${from} to ${to}`);
    assert.equal(told(line, '$live').length, 1);
  }
});

test('the end of a round comes with a beat and with a goodbye', () => {
  const world = new World({ transports: ['ws'] });
  const line = world.connect({ cursor: 'earliest', latest: true });
  world.pass(SECOND);
  const asked = [];
  const serve = world.serve;
  world.serve = function record(name, link, polls, params) {
    asked.push([params.get('cursor'), params.get('upto'), params.get('latest')]);
    return serve.call(this, name, link, polls, params);
  };
  world.hearAll({ event: '$beat', cursor: 'e1-3', upto: 'e1-9' });
  world.endAll(endings.lost());
  world.pass(20 * SECOND);
  assert.deepEqual(asked.splice(0), [['e1-3', 'e1-9', '1']]);
  world.hearAll({ event: '$bye', cursor: 'e1-3', upto: 'e1-8', data: { reason: 'recycle', retry: 10 } });
  world.pass(20 * SECOND);
  assert.deepEqual(asked, [['e1-3', 'e1-8', '1']]);
  assert.equal(line.state, 'open');
});

test('an end that the log does not reach is given up, not the connection', () => {
  for (const name of ['longpoll', 'ws']) {
    const world = new World({ transports: [name] });
    const line = world.connect({ cursor: 'earliest', latest: true });
    world.pass(SECOND);
    const serve = world.serve;
    world.serve = function refuse(transport, link, polls, params) {
      if (!params.has('upto')) return serve.call(this, transport, link, polls, params);
      // Why a WebSocket was not opened cannot be read.
      const ending = polls ? endings.refused({ code: 'bad_cursor', message: 'beyond the end' }, 400) : endings.lost();
      world.clock.set(() => link.end(ending), 20);
      return { close() {} };
    };
    world.hearAll({ event: '$beat', cursor: 'e1-0', upto: 'e1-9' });
    world.endAll(endings.lost());
    world.pass(20 * SECOND);
    assert.equal(line.state, 'open', name);
    world.publish('after');
    world.pass(5 * SECOND);
    assert.deepEqual(line.heard, ['after'], name);
  }
});

test('polls keep the pace between runs, not within one', () => {
  const world = new World({ transports: ['longpoll'] });
  for (let n = 0; n < 30; n++) world.publish(n, { topic: 't.' + n });
  const paces = [];
  const line = world.connect({ cursor: 'earliest', latest: true, pace: 5000 });
  const serve = world.serve;
  world.serve = function record(name, link, polls, params) {
    paces.push(params.get('pace'));
    return serve.call(this, name, link, polls, params);
  };
  world.pass(3 * SECOND);
  assert.equal(line.heard.length, 30);
  assert.deepEqual(paces, ['5000']);
});

test('random switches, breaks, mutes and sleeps in the middle of rounds', async (t) => {
  for (let seed = 1; seed <= 60; seed++) {
    await t.test(`seed ${seed}`, () => {
      const random = randomFrom(seed);
      const world = new World({ seed, transports: TRANSPORTS });
      const pick = (all) => all[Math.floor(random() * all.length)];
      for (let n = 0; n < 60; n++) world.publish(n, { topic: 't.' + (n % 40) });
      const line = world.connect({ cursor: 'earliest', latest: true, interval: 200, pace: pick([0, 700]) });
      const items = watch(line);
      for (let step = 0; step < 60; step++) {
        const what = random();
        if (what < 0.25) line.switchTo(pick(['auto', ...TRANSPORTS]));
        else if (what < 0.4) world.endAll(endings.lost());
        else if (what < 0.5) world.how[pick(TRANSPORTS)] = pick(['works', 'mute', 'down', 'silent']);
        else if (what < 0.55) world.clock.sleep(30 * SECOND);
        for (let n = Math.floor(random() * 8); n > 0; n--) world.publish(1000 * step + n, { topic: 't.' + Math.floor(random() * random() * 40) });
        world.pass(random() * 2000);
      }
      for (const name of TRANSPORTS) world.how[name] = 'works';
      world.publish('last', { topic: 't.0' });
      world.pass(3600 * SECOND);
      assertState(world, items, `seed ${seed}`);
      // Once after each opening, save those that were lost before.
      const story = line.told.map(([name]) => name).filter((name) => /^\$(open|live)$/.test(name)).join(' ');
      assert.doesNotMatch(story, /live \$live/);
      assert.match(story, /^\$open.*\$open \$live$|^\$open \$live$/);
    });
  }
});

test('tabs that share a connection get all of it, and each its own snapshot', async () => {
  const world = new World({ transports: ['ws', 'longpoll', 'iframe-poll'] });
  world.answer = (message) => ({ ok: true, cursor: world.cursor(), type: message.type });
  const tabs = [0, 1].map(() => { const tab = world.tab(); install(tab.library); return tab; });
  for (let n = 0; n < 100; n++) world.publish(n, { topic: 't.' + (n % 25) });
  const first = world.connect({ share: true, latest: true, cursor: 'earliest' }, tabs[0].library);
  const items = watch(first);
  await world.passSlowly(6 * SECOND);
  const all = world.connect({ share: true, cursor: 'earliest' }, tabs[1].library);
  await world.passSlowly(6 * SECOND);
  assert.deepEqual([first.transport, all.transport], ['shared', 'shared']);
  assert.equal(items.length, 25);
  assert.equal(all.heard.length, 100);
  assert.deepEqual([first, all].map((line) => told(line, '$live').length), [1, 1]);
  world.publish(100, { topic: 't.1' });
  world.publish(101, { topic: 't.1' });
  await world.passSlowly(SECOND);
  assertState(world, items, 'the first tab');
  assert.deepEqual(all.heard.slice(-2), [100, 101]);
});
