// Several tabs, one connection: who leads, what each hears, and what happens when the leader goes.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World } = require('./world.js');
const install = require('../../static/share.js');

const SECOND = 1000;
const GONE = { kind: 'goodbye', bye: true, reason: 'kicked', code: 'kicked' };   // the server's last word
const count = (n) => Array.from({ length: n }, (_, i) => i + 1);

function browser(tabs, options = {}) {
  const world = new World({ transports: ['ws', 'longpoll', 'iframe-poll'], ...options });
  world.answer = (message) => ({ ok: true, cursor: world.cursor(), type: message.type });
  world.tabs = Array.from({ length: tabs }, () => {
    const tab = world.tab();
    install(tab.library);
    return tab;
  });
  return world;
}

const join = (world, tab, more) => world.connect({ share: true, ...more }, world.tabs[tab].library);

test('tabs share one connection, each with its own topics', async () => {
  const world = browser(5);
  const lines = [['t.a', 't.b'], ['t.b'], ['t.*'], ['t'], ['t.>']].map((topics, tab) => join(world, tab, { topics }));
  await world.passSlowly(3 * SECOND);
  assert.deepEqual(lines.map((line) => line.transport), lines.map(() => 'shared'));
  assert.deepEqual([...world.links].map((held) => held.name), ['ws']);
  world.publish('a', { topic: 't.a' });
  world.publish('b', { topic: 't.b' });
  world.publish('c', { topic: 't.c' });
  world.publish('t', { topic: 't' });
  world.publish('de', { topic: 't.d.e' });
  await world.passSlowly(SECOND);
  assert.deepEqual(lines.map((line) => line.heard), [['a', 'b'], ['b'], ['a', 'b', 'c'], ['t'], ['a', 'b', 'c', 'de']]);
});

test('without the option, or where the browser lacks it, each has its own', async () => {
  const world = browser(2);
  delete world.tabs[1].window.BroadcastChannel;
  const lines = [world.connect({}, world.tabs[0].library), join(world, 1)];
  await world.passSlowly(3 * SECOND);
  assert.deepEqual(lines.map((line) => line.transport), ['ws', 'ws']);
});

test('other names share no connection', async () => {
  const world = browser(2);
  [0, 1].forEach((tab) => join(world, tab, { share: 'user-' + tab }));
  await world.passSlowly(3 * SECOND);
  assert.equal(world.links.size, 2);
});

// A tab that joins another one's connection after twenty events, and wants them all.
async function joinLate() {
  const world = browser(2);
  join(world, 0);
  await world.passSlowly(2 * SECOND);
  count(20).forEach(() => world.publish());
  await world.passSlowly(SECOND);
  const late = join(world, 1, { cursor: 'earliest', transports: ['shared'] });
  return { world, late };
}

test('a late tab reads its history by itself, and misses no event where the shared connection takes over', async () => {
  const { world, late } = await joinLate();
  for (let i = 1; i <= 400; i++) world.clock.set(() => world.publish(), 10 * i);
  await world.passSlowly(6 * SECOND);
  assert.equal(late.transport, 'shared');
  assert.deepEqual(late.heard, count(420));
  assert.equal(world.links.size, 1);
});

test('the log goes back while a late tab catches up: no cursor is delivered twice', async () => {
  const { world, late } = await joinLate();
  while (!late.heard.length) await world.passSlowly(50);
  assert.ok(late.heard.length < 20, 'it has not caught up');
  // The last event is lost, and another is published in its place.
  const lost = { event: '$gap', cursor: 'e1-19', data: { reason: 'ahead', from: 'e1-20', to: 'e1-19' } };
  world.log[19] = { ...world.log[19], data: 'another' };
  const leading = [...world.links].find(({ name }) => name === 'ws').link;
  leading.receive(lost);
  leading.receive(world.log[19]);
  await world.passSlowly(5 * SECOND);
  assert.deepEqual(late.heard, [...count(19), 'another']);
  assert.equal(late.transport, 'shared');
});

for (const how of ['closes', 'crashes', 'goes into the back/forward cache']) {
  test(`the leading tab ${how}: the next one leads, from each one's own cursor`, async () => {
    const world = browser(3);
    const lines = [0, 1, 2].map((tab) => join(world, tab));
    await world.passSlowly(3 * SECOND);
    const leader = world.tabs.findIndex(({ window }) => [...world.links][0].link.env.window === window);
    count(5).forEach(() => world.publish());
    await world.passSlowly(SECOND);
    if (how === 'crashes') world.crash(world.tabs[leader].window);
    else world.tabs[leader].window.fire('pagehide', { persisted: true });
    count(5).forEach(() => world.publish());
    for (let i = 0; i < 30; i++) { world.publish(); await world.passSlowly(200); }
    const others = lines.filter((_, tab) => tab !== leader);
    for (const line of others) {
      assert.deepEqual(line.heard, count(40));
      assert.equal(line.transport, 'shared');
      assert.deepEqual(line.told.filter(([name]) => name === '$error'), []);
    }
    if (how === 'crashes') return;
    assert.equal(world.links.size, 1);
    world.tabs[leader].window.fire('pageshow', { persisted: true });
    await world.passSlowly(5 * SECOND);
    assert.deepEqual(lines[leader].heard, count(40), 'back again, it catches up');
    assert.equal(world.links.size, 1);
    world.tabs.filter((_, tab) => tab !== leader).forEach(({ window }) => window.fire('pagehide', { persisted: true }));
    await world.passSlowly(5 * SECOND);
    world.publish();
    await world.passSlowly(SECOND);
    assert.deepEqual(lines[leader].heard, count(41), 'and leads again when the others have gone');
    assert.equal(lines[leader].transport, 'shared');
  });
}

test('a gap is passed to the tabs whose patterns it names', async () => {
  const world = browser(2);
  const lines = [join(world, 0, { topics: ['t.a'] }), join(world, 1, { topics: ['t.b'] })];
  await world.passSlowly(3 * SECOND);
  world.hearAll({ event: '$gap', cursor: 'e1-7', data: { reason: 'expired', from: 'e1-0', to: 'e1-7', patterns: ['t.b'] } });
  await world.passSlowly(SECOND);
  assert.deepEqual(lines.map((line) => line.stats.gaps), [0, 1]);
  assert.deepEqual(lines.map((line) => line.cursor), ['e1-7', 'e1-7']);
});

test('a refused pattern fails only in the tab that subscribed', async () => {
  const world = browser(2);
  world.answer = (message) => ((message.topics || []).includes('secret') ? { ok: false, error: { code: 'forbidden', message: 'no' } } : { ok: true, cursor: world.cursor() });
  const good = join(world, 0);
  await world.passSlowly(2 * SECOND);
  const bad = join(world, 1, { topics: ['secret'] });
  await world.passSlowly(SECOND);
  assert.ok(bad.stats.failures > 0, 'it is told, not left to wait');
  await world.passSlowly(2 * SECOND);
  world.publish();
  await world.passSlowly(SECOND);
  assert.equal(good.transport, 'shared');
  assert.deepEqual(good.heard, [1]);
  assert.equal(good.stats.failures + good.stats.switches, 1, 'one switch up at the start, and nothing since');
});

test('a refusal by the server concerns the pattern, not the sharing', async () => {
  const world = browser(2);
  world.answer = (message) => ((message.topics || []).includes('secret') ? { ok: false, error: { code: 'forbidden', message: 'no' } } : { ok: true, cursor: world.cursor() });
  world.refuses = (link) => link.texts.includes('secret');
  join(world, 0);
  await world.passSlowly(2 * SECOND);
  const both = join(world, 1, { topics: ['t.a', 'secret'], transports: ['shared'] });
  await world.passSlowly(20 * SECOND);
  assert.deepEqual(both.told.filter(([name]) => name === '$error').map(([, { code, topics }]) => [code, topics]), [['forbidden', ['secret']]]);
  world.publish('a', { topic: 't.a' });
  await world.passSlowly(SECOND);
  assert.deepEqual(both.heard, ['a']);
});

test('patterns come and go with the tabs', async () => {
  const world = browser(2);
  join(world, 0, { topics: ['t.a'] });
  const other = join(world, 1, { topics: ['t.b'] });
  await world.passSlowly(3 * SECOND);
  const backbone = [...world.links][0].link.connection;
  assert.deepEqual([...backbone.topics].sort(), ['t.a', 't.b']);
  other.subscribe('t.c');
  await world.passSlowly(2 * SECOND);
  world.publish('c', { topic: 't.c' });
  await world.passSlowly(SECOND);
  assert.deepEqual(other.heard, ['c']);
  other.close();
  await world.passSlowly(SECOND);
  assert.deepEqual(backbone.topics, ['t.a']);
});

const base64url = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const tokenOf = (claims) => `${base64url({ alg: 'HS256' })}.${base64url(claims)}.signature`;
const backbones = (world) => [...world.links].map((held) => held.link);

test('the last connection that closes ends the shared one, and leaves no timer or channel', async () => {
  const world = browser(2);
  const lines = [join(world, 0), join(world, 0), join(world, 1)];
  await world.passSlowly(3 * SECOND);
  for (const line of lines) {
    assert.equal(world.links.size, 1);
    line.close();
    await world.passSlowly(3 * SECOND);
  }
  assert.equal(world.links.size, 0);
  assert.deepEqual([...world.browser.locks.values()].flat(), [], 'no lock is held or waited for');
  assert.equal(world.browser.channels.size, 0);
  await world.passSlowly(60 * SECOND);
  assert.equal(world.links.size, 0, 'and nothing comes back');
});

test('a tab whose connections are closed hands leadership to another', async () => {
  const world = browser(2);
  const first = join(world, 0);
  await world.passSlowly(2 * SECOND);
  const second = join(world, 1);
  await world.passSlowly(2 * SECOND);
  first.close();
  for (let i = 0; i < 20; i++) { world.publish(); await world.passSlowly(200); }
  assert.deepEqual(second.heard, count(20));
  assert.equal(second.transport, 'shared');
  assert.deepEqual(backbones(world).map((link) => link.env.window === world.tabs[1].window), [true]);
});

test('a single tab may use transports: [\'shared\']', async () => {
  const world = browser(1);
  const line = join(world, 0, { transports: ['shared'] });
  await world.passSlowly(3 * SECOND);
  world.publish();
  await world.passSlowly(SECOND);
  assert.deepEqual(line.heard, [1]);
});

test('tokens of equal rights share, another user has another connection, and the one before ends', async () => {
  const world = browser(3);
  const li = (jti) => tokenOf({ sub: 'li', subscribe: ['t.>'], exp: 1000 + jti, iat: jti, jti: String(jti) });
  const mo = tokenOf({ sub: 'mo', subscribe: ['t.>'], exp: 1000 });
  const [first, second] = [join(world, 0, { token: li(1) }), join(world, 1, { token: (done) => done(null, li(2)) })];
  await world.passSlowly(3 * SECOND);
  assert.deepEqual([first.transport, second.transport], ['shared', 'shared']);
  assert.deepEqual(backbones(world).map((link) => link.token), [li(1)]);

  const third = join(world, 2, { token: mo });
  await world.passSlowly(3 * SECOND);
  assert.equal(third.transport, 'shared');
  assert.deepEqual(backbones(world).map((link) => link.token).sort(), [li(1), mo].sort());

  first.close();
  second.close();
  await world.passSlowly(3 * SECOND);
  assert.deepEqual(backbones(world).map((link) => link.token), [mo]);
});

test('a token function that turns to another user does not hand their events to the tabs before', async () => {
  const world = browser(2);
  const of = (sub) => tokenOf({ sub, subscribe: ['t.>'] });
  let user = 'li';
  const lines = [0, 1].map((tab) => join(world, tab, { token: (done) => done(null, of(user)) }));
  await world.passSlowly(3 * SECOND);
  const [link] = backbones(world);
  assert.equal(link.token, of('li'));
  user = 'mo';
  world.endAll({ kind: 'goodbye', bye: true, reason: 'expired', code: 'expired', retry: 0 });
  await world.passSlowly(20 * SECOND);
  assert.equal(link.connection.state, 'closed');
  assert.deepEqual(lines.map((line) => [line.state, line.transport]), [['open', 'ws'], ['open', 'ws']], 'each has its own');
});

test('the patterns of a crashed tab are unsubscribed', async () => {
  const world = browser(2);
  join(world, 0, { topics: ['t.a'] });
  await world.passSlowly(2 * SECOND);
  join(world, 1, { topics: ['t.b'] });
  await world.passSlowly(2 * SECOND);
  const [backbone] = backbones(world).map((link) => link.connection);
  assert.deepEqual([...backbone.topics].sort(), ['t.a', 't.b']);
  world.crash(world.tabs[1].window);
  await world.passSlowly(2 * world.heartbeat);
  assert.deepEqual([...backbone.topics], ['t.a']);
});

test('two tabs that subscribe to one new pattern are both called back when the server has confirmed it, with one cursor', async () => {
  const world = browser(3);
  const lines = [0, 1, 2].map((tab) => join(world, tab));
  await world.passSlowly(3 * SECOND);
  const unanswered = [];
  world.answer = (message) => { unanswered.push(message); };
  const told = [];
  for (const tab of [1, 2]) lines[tab].subscribe('new.>', (error, cursor) => told.push([tab, error, cursor]));
  await world.passSlowly(2 * SECOND);
  assert.deepEqual(told, [], 'not before the server has');
  const [link] = backbones(world);
  world.publish(1, { topic: 'old' });
  for (const { ref } of unanswered) link.receive({ event: '$reply', data: { ref, ok: true, cursor: world.cursor() } });
  await world.passSlowly(2 * SECOND);
  assert.deepEqual(told.map(([tab, error]) => [tab, error]).sort(), [[1, null], [2, null]]);
  world.publish('after', { topic: 'new.1' });
  await world.passSlowly(SECOND);
  assert.deepEqual(lines.map((line) => line.heard), [[], ['after'], ['after']]);
});

test('after a final $bye to the leading connection each tab connects by itself', async () => {
  const world = browser(2);
  const lines = [0, 1].map((tab) => join(world, tab));
  await world.passSlowly(3 * SECOND);
  world.publish();
  await world.passSlowly(SECOND);
  world.endAll(GONE);
  for (let i = 0; i < 50; i++) { world.publish(); await world.passSlowly(200); }
  for (const line of lines) {
    assert.equal(line.state, 'open');
    assert.deepEqual(line.heard, count(51));
  }
  assert.ok(world.opened.length < 30, `${world.opened.length} sessions were opened`);
});

test('loading it adds the transport once, by require as by import', async () => {
  const { default: library } = await import('../../static/share.mjs');
  assert.equal(require('../../static/client.js'), library);
  assert.equal(library.transports[0], 'shared');
  assert.equal(library.transports.filter((name) => name === 'shared').length, 1);
});
