// What the client decides, under simulated time.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World, Switchback } = require('./world.js');

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

const count = (n) => Array.from({ length: n }, (_, i) => i + 1);
const told = (line, name) => line.told.filter(([n]) => n === name).map(([, data]) => data);

test('emitter', async (t) => {
  await t.test('calls the listeners of a name in order, then those of \'*\'', () => {
    const events = Switchback.emitter();
    const seen = [];
    events.on('a', (item) => seen.push(['first', item]));
    events.on('*', (name, item) => seen.push([name, item]));
    events.on('a', (item) => seen.push(['second', item]));
    events.emit('a', 1);
    events.emit('b', 2);
    assert.deepEqual(seen, [['first', 1], ['second', 1], ['a', 1], ['b', 2]]);
  });

  await t.test('removes one listener, all of a name, or all', () => {
    const events = Switchback.emitter();
    let seen = 0;
    const one = () => { seen += 1; };
    events.on('a', one);
    events.on('a', () => { seen += 10; });
    events.off('a', one);
    events.emit('a');
    assert.equal(seen, 10);
    events.off('a');
    events.emit('a');
    events.on('b', one);
    events.clear();
    events.emit('b');
    assert.equal(seen, 10);
  });

  await t.test('a listener may remove itself while it is called', () => {
    const events = Switchback.emitter();
    const seen = [];
    function one() { seen.push('one'); events.off('a', one); }
    events.on('a', one);
    events.on('a', () => seen.push('two'));
    events.emit('a');
    events.emit('a');
    assert.deepEqual(seen, ['one', 'two', 'two']);
  });

  await t.test('one added while it is called waits for the next time', () => {
    const events = Switchback.emitter();
    let late = 0;
    events.on('a', () => events.on('a', () => { late += 1; }));
    events.emit('a');
    assert.equal(late, 0);
    events.emit('a');
    assert.equal(late, 1);
  });

  await t.test('takes any name, also those that objects are born with', () => {
    const events = Switchback.emitter();
    const seen = [];
    for (const name of ['__proto__', 'constructor', 'hasOwnProperty', 'toString']) {
      events.emit(name, 'nobody listens');
      events.on(name, (item) => seen.push([name, item]));
      events.emit(name, 1);
    }
    assert.equal(seen.length, 4);
    assert.equal({}.polluted, undefined);
  });

  await t.test('a deletion comes as it is: without data, with its headers', () => {
    for (const transport of new World().transportNames) {
      const world = new World();
      const line = world.connect({ transports: [transport] });
      const seen = [];
      line.on('left', (item) => seen.push(item));
      world.pass(10 * SECOND);
      world.publish(null, { data: undefined, event: 'left', deleted: true, headers: { reason: 'gone' } });
      world.publish('after');
      world.pass(10 * SECOND);
      assert.deepEqual(seen.map((item) => [item.deleted, item.data, item.headers]), [[true, undefined, { reason: 'gone' }]], transport);
      assert.deepEqual(line.heard, [undefined, 'after'], transport);
    }
  });

  await t.test('once is once, can be taken back, and a fault in a listener stops no other', () => {
    const world = new World();
    const line = world.connect();
    let once = 0, never = 0, after = 0;
    line.once('message', () => { once += 1; });
    const taken = () => { never += 1; };
    line.once('message', taken);
    line.off('message', taken);
    line.on('message', () => { throw new Error('mine'); });
    line.on('message', () => { after += 1; });
    world.pass(SECOND);
    world.publish();
    // The fault is thrown again where it is seen, on an empty stack, not swallowed.
    assert.throws(() => world.pass(SECOND), /mine/);
    world.publish();
    assert.throws(() => world.pass(SECOND), /mine/);
    assert.deepEqual([once, never, after], [1, 0, 2]);
    assert.deepEqual(line.heard, [1, 2]);
  });
});

test('choosing', async (t) => {
  await t.test('starts on a reliable transport, then upgrades without a pause', () => {
    const world = new World();
    const line = world.connect();
    world.pass(2 * world.latency);
    assert.equal(line.state, 'open');
    assert.equal(line.transport, 'longpoll');
    world.pass(SECOND);
    assert.equal(line.transport, 'ws');
    assert.deepEqual(told(line, '$open').length, 1);
    assert.deepEqual(told(line, '$switch'), [{ from: 'longpoll', to: 'ws' }]);
    assert.equal(world.links.size, 1, 'the old link was closed');
  });

  await t.test('counts a transport as working only when hello came within 5 s', () => {
    const world = new World();
    world.how.ws = 'silent';
    const line = world.connect();
    world.pass(4.9 * SECOND);
    assert.equal(line.transport, 'longpoll');
    assert.deepEqual(world.tried(), ['longpoll', 'ws']);
    world.pass(SECOND);
    assert.equal(line.transport, 'sse');
    assert.deepEqual(told(line, '$error'), [], 'a failed probe is no trouble to the application');
  });

  await t.test('waits twice the round trip where that is longer', () => {
    const world = new World({ latency: 2000 });      // a hello takes 4 s
    world.how.ws = 'silent';
    const line = world.connect();
    world.pass(4 * SECOND);
    assert.equal(line.transport, 'longpoll');
    world.pass(7.9 * SECOND);
    assert.deepEqual(world.tried(), ['longpoll', 'ws']);
    world.pass(0.2 * SECOND);
    assert.deepEqual(world.tried(), ['longpoll', 'ws', 'sse']);
  });

  await t.test('on a network slower than the timeout the timeout grows', () => {
    const world = new World({ latency: 6000 });      // a hello takes 12 s
    const line = world.connect();
    world.pass(3 * MINUTE);
    assert.equal(line.state, 'open');
  });

  await t.test('probes again after 60 s, doubling to 10 minutes', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    world.how.ws = 'down';
    world.connect();
    world.pass(2 * HOUR);
    const times = world.opened.filter(([, name]) => name === 'ws').map(([time]) => time);
    const pauses = times.slice(1).map((time, i) => Math.round((time - times[i]) / SECOND));
    assert.deepEqual(pauses.slice(0, 7), [60, 120, 240, 480, 600, 600, 600]);
    world.how.ws = 'works';
    world.pass(10 * MINUTE + SECOND);
    assert.equal(world.tried().at(-1), 'ws');
  });

  await t.test('remembers the transport that worked for a day', () => {
    const world = new World({ transports: ['ws', 'sse', 'longpoll'] });
    world.how.ws = 'down';
    world.connect().close();
    const first = world.connect();
    world.pass(SECOND);
    assert.equal(first.transport, 'sse');
    first.close();
    world.opened.length = 0;
    const second = world.connect();
    world.pass(30);
    assert.equal(world.tried()[0], 'sse');
    second.close();
    world.clock.now += 24 * HOUR;
    world.opened.length = 0;
    world.connect();
    world.pass(30);
    assert.equal(world.tried()[0], 'longpoll');
  });

  await t.test('a forced transport is not remembered', () => {
    const world = new World();
    const forced = world.connect({ transports: ['sse'] });
    world.pass(SECOND);
    assert.equal(forced.transport, 'sse');
    world.opened.length = 0;
    world.connect();
    world.pass(30);
    assert.equal(world.tried()[0], 'longpoll');
  });

  await t.test('storage that fails does no harm', () => {
    const world = new World();
    Object.defineProperty(world.window, 'localStorage', { get() { throw new Error('SecurityError'); } });
    const line = world.connect();
    world.pass(SECOND);
    assert.equal(line.transport, 'ws');
  });

  await t.test('one that keeps breaking soon is left out, and comes back', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    world.how.ws = 'brief';                           // cut after 5 s, each time
    const line = world.connect();
    world.pass(20 * SECOND);
    assert.equal(line.transport, 'longpoll');
    const tries = world.tried().filter((name) => name === 'ws').length;
    assert.equal(tries, 2);
    world.how.ws = 'works';
    world.pass(3 * MINUTE);
    assert.equal(line.transport, 'ws');
  });

  await t.test('one break after a long life leaves nothing out', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    const line = world.connect();
    for (let i = 0; i < 5; i++) {
      world.pass(MINUTE);
      world.endAll({});
      world.pass(SECOND);
      assert.equal(line.transport, 'ws');
    }
  });

  await t.test('a new network resets the failures', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    world.how.ws = 'brief';
    const line = world.connect();
    world.pass(20 * SECOND);
    assert.equal(line.transport, 'longpoll');
    world.how.ws = 'works';
    world.window.fire('online');
    world.pass(SECOND);
    assert.equal(line.transport, 'ws');
  });

  await t.test('takes the application\'s order and leaves out what the browser lacks', () => {
    const world = new World();
    world.how.ws = 'absent';
    const line = world.connect({ transports: ['ws', 'longpoll', 'sse'] });
    world.pass(HOUR);
    assert.equal(line.transport, 'longpoll');
    assert.deepEqual([...new Set(world.tried())], ['longpoll']);
  });

  await t.test('reports it when no transport is supported', () => {
    const world = new World();
    world.how.ws = 'absent';
    const line = world.connect({ transports: ['ws'] });
    world.pass(SECOND);
    assert.equal(line.state, 'closed');
    assert.equal(told(line, '$error')[0].code, 'unsupported');
  });

  await t.test('switchTo stays there, falls back when it must, and returns', () => {
    const world = new World();
    const line = world.connect();
    world.pass(SECOND);
    const results = [];
    line.switchTo('sse', (error, name) => results.push([error && error.code, name]));
    world.pass(SECOND);
    assert.equal(line.transport, 'sse');
    world.pass(HOUR);
    assert.equal(line.transport, 'sse', 'no probing past what was asked for');
    world.how.sse = 'down';
    world.endAll({});
    world.pass(2 * SECOND);
    assert.equal(line.state, 'open');
    assert.notEqual(line.transport, 'sse');
    world.how.sse = 'works';
    world.pass(2 * MINUTE);
    assert.equal(line.transport, 'sse');
    line.switchTo('auto', (error, name) => results.push([error && error.code, name]));
    world.pass(SECOND);
    assert.equal(line.transport, 'ws');
    assert.deepEqual(results, [[null, 'sse'], [null, 'ws']]);
    assert.throws(() => line.switchTo('pigeon'), /no transport is called "pigeon"/);
  });

  await t.test('a switch that fails leaves the old transport delivering', () => {
    const world = new World();
    const line = world.connect();
    world.pass(SECOND);
    world.how.sse = 'down';
    let error;
    line.switchTo('sse', (failure) => { error = failure; });
    world.pass(SECOND);
    world.publish();
    world.pass(SECOND);
    assert.ok(error instanceof Error);
    assert.equal(line.transport, 'ws');
    assert.deepEqual(line.heard, [1]);
  });
});

test('backing off', async (t) => {
  const attempts = (random) => {
    const world = new World({ transports: ['longpoll'], random: () => random });
    world.how.longpoll = 'down';
    world.connect();
    world.pass(10 * MINUTE);
    const times = world.opened.map(([time]) => time - world.latency);
    return { world, pauses: times.slice(1).map((time, i) => time - times[i] - world.latency) };
  };

  await t.test('full jitter: from nothing up to 0.5 s doubling to 20 s', () => {
    const longest = attempts(1).pauses;
    assert.deepEqual(longest.slice(0, 8), [500, 1000, 2000, 4000, 8000, 16000, 20000, 20000]);
    const middle = attempts(0.5).pauses;
    assert.deepEqual(middle.slice(0, 7), [250, 500, 1000, 2000, 4000, 8000, 10000]);
  });

  await t.test('immediately when the network or the user comes back', () => {
    for (const [target, event] of [['window', 'online'], ['document', 'visibilitychange'], ['document', 'resume']]) {
      const { world } = attempts(1);
      world.how.longpoll = 'works';
      const before = world.opened.length;
      world.window.document.visibilityState = 'visible';
      (target === 'window' ? world.window : world.window.document).fire(event);
      assert.equal(world.opened.length, before + 1, event);
    }
  });

  await t.test('not before Retry-After', () => {
    const world = new World({ transports: ['longpoll'], random: () => 0 });
    const line = world.connect();
    world.pass(SECOND);
    world.endAll({ status: 503, retry: 7000, message: 'draining' });
    world.pass(6.9 * SECOND);
    assert.equal(line.state, 'connecting');
    assert.deepEqual(told(line, '$error')[0].retry, 7000);
    world.pass(0.2 * SECOND);
    assert.equal(line.state, 'open');
  });

  await t.test('... also before the first successful connection', () => {
    const world = new World({ transports: ['ws'], random: () => 0 });
    world.how.ws = 'busy';
    const line = world.connect();
    world.pass(SECOND);
    assert.deepEqual(told(line, '$error').map((e) => e.retry), [7000]);
    world.how.ws = 'works';
    world.pass(6 * SECOND);
    assert.equal(line.state, 'connecting');
    world.pass(SECOND);
    assert.equal(line.state, 'open');
  });

  await t.test('while the server is away, a round is three tries, and every transport gets its turn', () => {
    const names = ['ws', 'sse', 'stream', 'longpoll', 'poll'];
    const world = new World({ transports: names, random: () => 1 });
    names.forEach((name) => { world.how[name] = 'down'; });
    world.connect();
    world.pass(500);
    assert.equal(world.opened.length, 5);
    world.pass(2 * MINUTE);
    assert.ok(world.opened.length < 5 + 3 * 14, `${world.opened.length} tries`);
    assert.deepEqual([...new Set(world.tried().slice(5))].sort(), [...names].sort());
  });
});

test('once, in order, none missing', async (t) => {
  await t.test('events that both connections deliver in a switch are passed on once', () => {
    const world = new World();
    const line = world.connect({ cursor: 'earliest' });
    world.pass(SECOND);
    line.switchTo('sse');
    world.publish();
    world.publish();
    world.pass(25);              // the old one delivers; the new one was opened before them
    assert.deepEqual(line.heard, [1, 2]);
    world.pass(SECOND);
    assert.equal(line.transport, 'sse');
    assert.deepEqual(line.heard, [1, 2]);
    assert.equal(line.stats.repeated, 2);
  });

  await t.test('positions beyond 2^53 keep their order', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect({ cursor: 'e1-9007199254740992' });
    const at = (position) => world.hearAll({ cursor: `e1-${position}`, topic: 't.1', event: 'message', data: position });
    world.pass(SECOND);
    ['9007199254740993', '9007199254740992', '9007199254740994', '9007199254740993', '9007199254740995', '9999999999999999', '10000000000000000', '9999999999999999'].forEach(at);
    assert.deepEqual(line.heard, ['9007199254740993', '9007199254740994', '9007199254740995', '9999999999999999', '10000000000000000']);
  });

  for (const seed of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]) {
    await t.test(`random switches, breaks, mutes and sleeps under load, seed ${seed}`, () => {
      const names = ['ws', 'sse', 'stream', 'longpoll', 'iframe', 'poll'];
      const world = new World({ seed, transports: names });
      const line = world.connect();
      world.pass(SECOND);
      const pick = (list) => list[Math.floor(world.random() * list.length)];
      for (let step = 0; step < 400; step++) {
        const chance = world.random();
        if (chance < 0.6) world.publish();
        else if (chance < 0.7) line.switchTo(pick([...names, 'auto']));
        else if (chance < 0.75) world.endAll({});
        else if (chance < 0.8) world.how[pick(names)] = pick(['works', 'down', 'silent', 'mute', 'brief']);
        else if (chance < 0.82) world.clock.sleep(world.random() * MINUTE);
        else if (chance < 0.84) world.endAll({ bye: true, reason: 'recycle', retry: 10 });
        else if (chance < 0.86) world.window.fire('online');
        else if (chance < 0.88) { world.window.fire('pagehide'); world.pass(world.random() * SECOND); world.window.fire('pageshow'); }
        else world.pass(world.random() * 10 * SECOND);
      }
      names.forEach((name) => { world.how[name] = 'works'; });
      world.pass(HOUR);
      assert.deepEqual(line.heard, count(world.log.length));
      assert.equal(line.state, 'open');
      assert.equal(world.links.size, 1);
    });
  }

  await t.test('an item of another log without a gap is rejected', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect();
    world.pass(SECOND);
    world.publish();
    world.pass(SECOND);
    world.hearAll({ cursor: 'other-7', topic: 't.1', event: 'message', data: 'foreign' });
    assert.deepEqual(line.heard, [1]);
    assert.equal(told(line, '$error')[0].code, 'protocol');
    world.pass(SECOND);
    assert.equal(world.opened.at(-1)[2], 'e1-1', 'it asks again from where it stood');
  });
});

test('gaps', async (t) => {
  await t.test('reach the application, and delivery continues after them', () => {
    const world = new World({ transports: ['ws'] });
    const gap = { reason: 'expired', from: 'e1-2', to: 'e1-5', missed: 3 };
    count(7).forEach(() => world.publish());
    world.gaps.push(gap);
    const line = world.connect({ cursor: 'e1-2' });
    world.pass(SECOND);
    assert.deepEqual(told(line, '$gap'), [gap]);
    assert.deepEqual(line.heard, [6, 7]);
    assert.equal(line.cursor, 'e1-7');
    assert.equal(line.stats.gaps, 1);
  });

  await t.test('a new log: once, though two connections report it', () => {
    const world = new World();
    const line = world.connect();
    world.pass(SECOND);
    count(3).forEach(() => world.publish());
    world.pass(SECOND);
    world.epoch = 'e2';
    world.log = [];
    world.endAll({});
    world.pass(2 * SECOND);
    world.publish('new');
    line.switchTo('sse');
    world.pass(2 * SECOND);
    assert.equal(told(line, '$gap').length, 1);
    assert.equal(told(line, '$gap')[0].reason, 'epoch');
    assert.deepEqual(line.heard, [1, 2, 3, 'new']);
  });

  await t.test('a lost log moves the cursor back, once', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect({ cursor: 'e1-1000' });
    world.pass(SECOND);
    const gap = { event: '$gap', cursor: 'e1-500', data: { reason: 'ahead', from: 'e1-1000', to: 'e1-500' } };
    world.hearAll(gap);
    assert.equal(line.cursor, 'e1-500');
    world.hearAll({ cursor: 'e1-501', topic: 't.1', event: 'message', data: 'on' });
    assert.deepEqual(line.heard, ['on']);
    assert.equal(told(line, '$gap').length, 1);
  });

  await t.test('an old link\'s tale of a lost log does not move back one that is past it', () => {
    const world = new World();
    const line = world.connect({ cursor: 'e1-1000', transports: ['ws', 'sse'] });
    world.pass(SECOND);
    world.hearAll({ event: '$gap', cursor: 'e1-500', data: { reason: 'ahead', from: 'e1-1000', to: 'e1-500' } });
    const [old] = world.links;
    line.switchTo('sse');
    old.link.receive({ cursor: 'e1-501', topic: 't.1', event: 'message', data: 'on' });
    world.pass(45);
    assert.equal(line.transport, 'sse');
    world.hearAll({ event: '$gap', cursor: 'e1-400', data: { reason: 'ahead', from: 'e1-500', to: 'e1-400' } });
    assert.equal(line.cursor, 'e1-501');
  });
});

test('$bye', async (t) => {
  const bye = (world, reason, retry) => world.hearAll({ event: '$bye', data: { reason, retry } });

  await t.test('with a retry: reconnects after it, at the cursor, without an error', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect();
    world.pass(SECOND);
    world.publish();
    world.pass(SECOND);
    bye(world, 'shutdown', 3000);
    world.pass(2.9 * SECOND);
    assert.equal(world.opened.length, 1);
    world.publish();
    world.pass(SECOND);
    assert.deepEqual(world.opened.at(-1).slice(1), ['ws', 'e1-1']);
    assert.deepEqual(line.heard, [1, 2]);
    assert.deepEqual(told(line, '$error'), []);
  });

  for (const reason of ['replaced', 'kicked']) {
    await t.test(`${reason} without a retry: never again with that id`, () => {
      const world = new World({ transports: ['ws', 'longpoll'] });
      const line = world.connect();
      world.pass(SECOND);
      bye(world, reason);
      assert.equal(line.state, 'closed');
      assert.deepEqual(told(line, '$close'), [{ reason }]);
      const before = world.opened.length;
      world.window.fire('online');
      world.window.fire('pageshow', { persisted: true });
      world.pass(HOUR);
      assert.equal(world.opened.length, before);
      assert.equal(world.clock.timers.size, 0, 'nothing of it is left');
    });
  }

  await t.test('replacement by its own new connection does not close it', () => {
    const world = new World({ transports: ['sse'] });
    const line = world.connect();
    world.pass(SECOND);
    const [old] = world.links;
    line.subscribe('u.>');
    world.pass(0);
    old.link.receive({ event: '$bye', data: { reason: 'replaced' } });
    world.publish();
    world.pass(SECOND);
    assert.equal(line.state, 'open');
    assert.deepEqual(line.heard, [1]);
    assert.deepEqual(told(line, '$error'), []);
  });

  await t.test('an expired token is renewed, and no event is lost', () => {
    const world = new World({ transports: ['ws'] });
    const tokens = [];
    const line = world.connect({ token: (done) => { tokens.push('t' + (tokens.length + 1)); done(null, tokens.at(-1)); } });
    world.pass(SECOND);
    bye(world, 'expired');
    world.publish();
    world.pass(SECOND);
    assert.deepEqual(tokens, ['t1', 't2']);
    assert.deepEqual(line.heard, [1]);
  });

  await t.test('an expired token without renewal closes it', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect({ token: 'fixed' });
    world.pass(SECOND);
    bye(world, 'expired');
    assert.equal(line.state, 'closed');
    assert.equal(told(line, '$error')[0].code, 'expired');
  });

  await t.test('a refusal on every transport closes it, on one it does not', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    world.how.longpoll = 'refuses';
    const line = world.connect();
    world.pass(SECOND);
    assert.equal(line.transport, 'ws');
    world.how.ws = 'refuses';
    world.endAll({});
    world.pass(MINUTE);
    assert.equal(line.state, 'closed');
    assert.equal(told(line, '$error').at(-1).code, 'forbidden');
  });
});

test('silence', async (t) => {
  await t.test('a silent stream is detected within two heartbeats and replaced', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    const line = world.connect();
    world.pass(SECOND);
    world.how.ws = 'mute';
    world.publish();
    world.pass(39 * SECOND);
    assert.deepEqual(line.heard, []);
    world.pass(3 * SECOND);
    assert.equal(told(line, '$error')[0].code, 'silent');
    assert.equal(line.transport, 'longpoll', 'left out at once: each such mistake costs two heartbeats');
    assert.deepEqual(line.heard, [1]);
  });

  await t.test('the server\'s own heartbeat counts', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    world.heartbeat = 2000;
    const line = world.connect();
    world.pass(SECOND);
    world.how.ws = 'mute';
    world.pass(5 * SECOND);
    assert.equal(told(line, '$error')[0].code, 'silent');
  });

  await t.test('beats keep a quiet stream', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect();
    world.pass(HOUR);
    assert.equal(world.opened.length, 1);
    assert.deepEqual(told(line, '$error'), []);
    world.hearAll({ event: '$beat', cursor: 'e1-77' });
    assert.equal(line.cursor, 'e1-77', 'and move past what did not match');
  });

  await t.test('after a sleep the stream is replaced at once, and not blamed', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    const line = world.connect();
    world.pass(SECOND);
    world.how.ws = 'mute';       // nothing came while the machine slept
    world.clock.sleep(HOUR);
    world.how.ws = 'works';
    assert.equal(told(line, '$error')[0].code, 'resumed');
    world.publish();
    world.pass(SECOND);
    assert.equal(line.transport, 'ws');
    assert.deepEqual(line.heard, [1]);
  });
});

test('the page', async (t) => {
  await t.test('on unload it acknowledges by beacon and closes its connections', () => {
    const world = new World();
    const line = world.connect();
    world.pass(SECOND);
    world.publish();
    world.pass(SECOND);
    world.window.fire('pagehide', { persisted: true });
    assert.equal(world.links.size, 0);
    assert.deepEqual(world.beacons.map((b) => [b.url, b.body]), [['http://page.test/v1/ack', { client: line.clientId, cursor: 'e1-1' }]]);
    world.publish();
    world.pass(10 * MINUTE);
    assert.equal(world.links.size, 0, 'and stays away');
    world.window.fire('pageshow', { persisted: true });
    world.pass(SECOND);
    assert.deepEqual(line.heard, [1, 2]);
  });

  await t.test('acknowledges every 30 s what moved, over the socket', () => {
    const world = new World({ transports: ['ws'] });
    world.connect();
    world.pass(SECOND);
    world.publish();
    world.pass(90 * SECOND);
    assert.deepEqual(world.sent, [{ type: 'ack', cursor: 'e1-1' }]);
    world.publish();
    world.pass(30 * SECOND);
    assert.equal(world.sent.length, 2);
  });

  await t.test('close leaves no timer or connection', () => {
    const world = new World();
    const line = world.connect();
    world.pass(SECOND);
    line.close();
    assert.deepEqual(told(line, '$close'), [{ reason: 'closed' }]);
    assert.equal(world.links.size, 0);
    world.pass(2 * SECOND);      // the world's own timers run out
    assert.equal(world.clock.timers.size, 0);
    assert.equal(world.window.listeners.length + world.window.document.listeners.length, 0);
  });
});

test('patterns', async (t) => {
  await t.test('over a socket they are changed in place', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect();
    world.pass(SECOND);
    world.answer = () => ({ ok: true, cursor: 'e1-0' });
    let from;
    line.subscribe(['u.>', 't.>'], (error, cursor) => { from = cursor; });
    world.pass(SECOND);
    assert.deepEqual(world.sent[0].topics, ['u.>'], 'what is subscribed already is not asked again');
    assert.equal(from, 'e1-0');
    assert.equal(world.opened.length, 1);
  });

  await t.test('a refused pattern is not requested again', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect();
    world.pass(SECOND);
    world.answer = () => ({ ok: false, error: { code: 'forbidden', message: 'no' } });
    let refused;
    line.subscribe('secret', (error) => { refused = error.code; });
    world.pass(SECOND);
    assert.equal(refused, 'forbidden');
    assert.deepEqual(line.topics, ['t.>']);
  });

  await t.test('otherwise by a new connection at the cursor, before the old one closes', () => {
    const world = new World({ transports: ['sse'] });
    const line = world.connect();
    world.pass(SECOND);
    let heardFrom;
    line.subscribe('u.>', (error, cursor) => { heardFrom = cursor; });
    world.pass(0);
    assert.equal(world.links.size, 2);
    world.publish();
    world.pass(SECOND);
    assert.equal(world.links.size, 1);
    assert.deepEqual(line.heard, [1]);
    assert.equal(heardFrom, 'e1-0', 'what is published after the call is delivered');
  });

  await t.test('with none, nothing is opened until there is one', () => {
    const world = new World();
    const line = world.connect({ topics: [] });
    world.pass(MINUTE);
    assert.equal(world.opened.length, 0);
    line.subscribe('t.>');
    world.pass(SECOND);
    assert.equal(line.state, 'open');
    line.unsubscribe('t.>');
    world.pass(0);
    assert.equal(world.links.size, 0);
  });
});
