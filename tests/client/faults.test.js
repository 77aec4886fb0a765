// Faults that were met in public, each with what has to be so instead.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World, Switchback, Clock } = require('./world.js');

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const { endings } = Switchback;
const granted = (world) => (message) => ({ ok: true, cursor: world.cursor(), type: message.type });
const names = ['ws', 'sse', 'stream', 'longpoll', 'poll'];
const told = (line, name) => line.told.filter(([n]) => n === name).map(([, data]) => data);

// The application's own fault, which the page's `onerror` gets: the clock's, here.
function passThrowing(world, ms, pattern) {
  const errors = [];
  for (let end = world.clock.now + ms; world.clock.now < end;) {
    try { world.pass(end - world.clock.now); } catch (error) { errors.push(error.message); }
  }
  assert.ok(errors.length > 0 && errors.every((message) => pattern.test(message)), `onerror got ${errors}`);
}

test('a callback that throws ends nothing, over every transport', async (t) => {
  for (const name of names) {
    await t.test(name, () => {
      const world = new World({ transports: [name] });
      world.answer = granted(world);
      const line = world.connect();
      world.pass(SECOND);
      let second = 0;
      line.subscribe('u.>', () => { throw new Error('mine'); });
      line.subscribe('v.>', () => { second += 1; });
      line.unsubscribe('w.>', () => { throw new Error('mine'); });
      line.switchTo(name, () => { throw new Error('mine'); });
      passThrowing(world, 5 * SECOND, /^mine$/);
      world.publish('after', { topic: 'u.1' });
      world.pass(5 * SECOND);
      assert.equal(second, 1);
      assert.deepEqual(line.heard, ['after']);
    });
  }

  await t.test('in close()', () => {
    const world = new World();
    const line = world.connect();
    line.subscribe('u.>', () => { throw new Error('mine'); });
    line.close();
    passThrowing(world, SECOND, /^mine$/);
    assert.deepEqual(told(line, '$close'), [{ reason: 'closed' }]);
  });

  await t.test('of publish', () => {
    const world = new World({ transports: ['ws'] });
    world.answer = granted(world);
    const line = world.connect();
    world.pass(SECOND);
    line.publish('t.1', 1, null, () => { throw new Error('mine'); });
    passThrowing(world, SECOND, /^mine$/);
    world.publish('after');
    world.pass(SECOND);
    assert.deepEqual(line.heard, ['after']);
  });
});

test('a short-lived connection is a failure, with any close code: pauses grow, then another transport', async (t) => {
  const endless = [['close code 1001', () => endings.leaving()], ['cut', () => endings.lost()], ['goodbye', () => endings.goodbye('shutdown', 0)]];
  for (const [what, ending] of endless) {
    for (const transports of [['ws'], ['ws', 'longpoll']]) {
      await t.test(`${what}, over ${transports}`, () => {
        const world = new World({ transports });
        world.connect();
        for (let i = 0; i < 3000; i++) {
          world.pass(20);
          for (const held of [...world.links]) if (held.name === 'ws' && held.ready) held.end(ending());
        }
        const tries = world.tried().filter((name) => name === 'ws').length;
        assert.ok(tries < 25, `${tries} sockets in a minute`);
      });
    }
  }

  await t.test('the pauses of one transport are not those of the next', () => {
    const world = new World({ transports: ['ws', 'sse', 'longpoll'], random: () => 1 });
    world.how.ws = world.how.sse = 'brief';
    const line = world.connect();
    world.pass(MINUTE);
    const pauses = told(line, '$error').map((error) => [error.transport, error.retry]);
    assert.deepEqual(pauses, [['ws', 500], ['ws', 250], ['sse', 500], ['sse', 250]]);
    assert.equal(line.transport, 'longpoll');
  });

  await t.test('a connection that has lived two heartbeats resets the pauses', () => {
    const world = new World({ transports: ['ws'], random: () => 1 });
    const line = world.connect();
    for (let i = 0; i < 5; i++) { world.pass(MINUTE); world.endAll(endings.leaving()); world.pass(SECOND); assert.equal(line.state, 'open'); }
    assert.deepEqual(told(line, '$error'), [], '1001 after a long life is no trouble');
  });
});

test('a socket that replaces a poll subscribes to a new pattern later: the later cursor is reported', () => {
  const world = new World({ transports: ['ws', 'longpoll'] });
  world.answer = granted(world);
  const line = world.connect();
  const cursors = [];
  while (line.phase() !== 'changing') world.pass(1);
  world.pass(10);
  line.subscribe('u.>', (error, cursor) => cursors.push(cursor));
  while (line.transport !== 'ws' || !line.joining) world.pass(1);
  // Published once the question is answered, and read by the server before the socket's message.
  world.publish('between', { topic: 'u.1' });
  for (const held of world.links) held.flush();
  world.pass(SECOND);
  world.publish('after', { topic: 'u.1' });
  world.pass(SECOND);
  assert.deepEqual(cursors, ['e1-1']);
  assert.deepEqual(line.heard, ['after']);
});

test('a pattern assumed to be granted is refused to all its subscribers, also after the first has unsubscribed', () => {
  const world = new World({ transports: ['sse', 'longpoll'] });
  const line = world.connect();
  const codes = [];
  world.pass(SECOND);
  assert.equal(line.transport, 'sse');
  world.how.longpoll = 'down';
  world.refuses = (link) => link.texts.includes('secret');
  const first = line.subscribe('secret');
  while (!line.pattern('secret').granted) world.pass(1);
  line.subscribe('secret', (error) => codes.push(error.code));
  first.unsubscribe();
  world.pass(MINUTE);
  world.how.longpoll = 'works';
  world.pass(MINUTE);
  assert.deepEqual(codes, ['forbidden']);
  assert.deepEqual(line.topics, ['t.>']);
  world.publish('fine');
  world.pass(SECOND);
  assert.deepEqual(line.heard, ['fine']);
});

test('a refused or malformed pattern fails for its caller only', async (t) => {
  const secrets = (link) => link.texts.some((text) => /^secret/.test(text));
  for (const name of names) {
    for (const when of [0, 2 * SECOND]) {
      await t.test(`${name}, ${when} ms after connect()`, () => {
        const world = new World({ transports: [name, 'longpoll', 'poll'].filter((each, i, all) => all.indexOf(each) === i) });
        world.refuses = secrets;
        world.answer = (message) => ((message.topics || []).some((topic) => /^secret/.test(topic)) ? { ok: false, error: { code: 'forbidden', message: 'no' } } : granted(world)(message));
        const line = world.connect();
        if (when) { world.pass(SECOND); line.switchTo(name); world.pass(SECOND); assert.equal(line.transport, name); }
        const answers = [];
        line.subscribe('secret', (error) => answers.push(error.code));
        line.subscribe('bad..pattern', (error) => answers.push(error.code));
        line.subscribe('u.>', (error) => answers.push(error));
        line.subscribe(['secret.2', 'u.1'], (error) => answers.push(error.code));
        world.pass(20 * SECOND);
        assert.deepEqual(answers.map(String).sort(), ['bad_topic', 'forbidden', 'forbidden', 'null']);
        assert.deepEqual(line.topics, ['t.>', 'u.>']);
        world.publish('fine');
        world.publish('also', { topic: 'u.1' });
        world.pass(10 * SECOND);
        assert.deepEqual(line.heard, ['fine', 'also']);
        assert.equal(line.state, 'open');
      });
    }
  }

  await t.test('of those given to connect(): the others are opened, and $error names it', () => {
    const world = new World({ transports: ['longpoll'] });
    world.refuses = secrets;
    const line = world.connect({ topics: ['secret', 'bad..one', 't.>'] });
    world.pass(20 * SECOND);
    world.publish('fine');
    world.pass(SECOND);
    assert.deepEqual(line.heard, ['fine']);
    assert.deepEqual(told(line, '$error').map((error) => [error.code, error.topics]).sort(), [['bad_topic', ['bad..one']], ['forbidden', ['secret']]]);
  });

  await t.test('all of them: closed, with the reason', () => {
    const world = new World({ transports: ['longpoll'] });
    world.refuses = secrets;
    const line = world.connect({ topics: ['secret'] });
    world.pass(20 * SECOND);
    assert.deepEqual(told(line, '$close'), [{ reason: 'forbidden' }]);
    assert.equal(told(line, '$error').length, 1);
  });
});

test('the start position of a pattern', async (t) => {
  for (const name of names) {
    await t.test(`${name}: history from before the call is not delivered, whatever was subscribed before`, () => {
      for (const before of [['t.>'], []]) {
        const world = new World({ transports: [name, 'poll'].filter((each, i, all) => all.indexOf(each) === i) });
        world.answer = granted(world);
        const line = world.connect({ topics: before });
        if (!before.length) { line.subscribe('x'); world.pass(SECOND); line.unsubscribe('x'); }
        world.pass(SECOND);
        for (let i = 0; i < 5; i++) world.publish('old' + i, { topic: 'u.1' });
        let from;
        const handle = line.subscribe('u.>', (error, cursor) => { from = cursor; });
        world.pass(10 * SECOND);
        world.publish('new', { topic: 'u.1' });
        world.pass(10 * SECOND);
        assert.deepEqual(line.heard, ['new'], before.length ? 'beside another pattern' : 'after none');
        assert.equal(from, 'e1-5');
        assert.equal(handle.cursor, 'e1-5');
      }
    });

    await t.test(`${name}: changes faster than a round trip are all made`, () => {
      const world = new World({ transports: [name, 'poll'].filter((each, i, all) => all.indexOf(each) === i), latency: 150 });
      world.answer = granted(world);
      const line = world.connect();
      world.pass(2 * SECOND);
      let first = 0;
      line.subscribe('u.first', () => { first += 1; });
      for (let i = 0; i < 40; i++) { line.subscribe('u.' + i); if (i > 2) line.unsubscribe('u.' + (i - 2)); world.pass(200); }
      assert.equal(first, 1);
      world.publish('one', { topic: 'u.first' });
      line.subscribe('u.more');
      world.pass(SECOND);
      assert.deepEqual(line.heard, ['one']);
    });
  }

  await t.test('a second subscriber is called back when the server has confirmed it, with the same cursor', () => {
    const world = new World({ transports: ['ws'], latency: 200 });
    world.answer = granted(world);
    const line = world.connect();
    const at = [];
    line.subscribe('t.>', (error, cursor) => at.push([line.state, cursor]));
    assert.deepEqual(at, []);
    world.pass(SECOND);
    world.publish('moves on');
    world.pass(SECOND);
    line.subscribe('u.>', (error, cursor) => at.push(cursor));
    line.subscribe('u.>', (error, cursor) => at.push(cursor));
    world.pass(100);
    assert.equal(at.length, 1);
    world.pass(SECOND);
    assert.deepEqual(at, [['open', 'e1-0'], 'e1-1', 'e1-1']);
  });

  await t.test('what a stream delivers while it is renewed is not lost to the new pattern, and keeps its order', () => {
    const world = new World({ transports: ['sse', 'poll'], latency: 100 });
    const line = world.connect();
    world.pass(SECOND);
    line.switchTo('sse');
    world.pass(SECOND);
    line.subscribe('u.>');
    for (let i = 0; i < 40; i++) { world.clock.set(() => world.publish(i, { topic: i % 2 ? 'u.1' : 't.1' }), 300 + 20 * i); }
    world.pass(5 * SECOND);
    const numbers = line.heard.filter((data) => data > 5);
    assert.deepEqual(numbers, [...numbers].sort((a, b) => a - b));
    assert.equal(numbers.length, 34);
  });
});

test('patterns are counted', async (t) => {
  await t.test('two parts of a page that share a pattern are independent', () => {
    const world = new World({ transports: ['ws'] });
    world.answer = granted(world);
    const line = world.connect();
    world.pass(SECOND);
    line.subscribe('u.>');
    line.subscribe('u.>');
    world.pass(SECOND);
    line.unsubscribe('u.>');
    world.pass(SECOND);
    world.publish('for the other', { topic: 'u.1' });
    world.pass(SECOND);
    assert.deepEqual(line.heard, ['for the other']);
    line.unsubscribe('u.>');
    world.publish('for nobody', { topic: 'u.1' });
    world.pass(SECOND);
    assert.deepEqual(line.heard, ['for the other'], 'nothing from the call on, though the server has yet to hear of it');
    assert.deepEqual(world.sent.filter((message) => message.type !== 'ack').map(({ type, topics }) => [type, ...topics]), [['subscribe', 'u.>'], ['unsubscribe', 'u.>']]);
  });

  await t.test('a handle has its own listeners, and goes once', () => {
    const world = new World({ transports: ['ws'] });
    world.answer = granted(world);
    const line = world.connect();
    world.pass(SECOND);
    const mine = [], all = [];
    const handle = line.subscribe(['u.*', 'v']).on('message', (item) => mine.push(item.topic)).on('*', (name) => all.push(name));
    world.pass(SECOND);
    world.publish(1, { topic: 'u.1' });
    world.publish(2, { topic: 't.1' });
    world.publish(3, { topic: 'v', event: 'made' });
    world.pass(SECOND);
    assert.deepEqual([mine, all], [['u.1'], ['message', 'made']]);
    let left = 0;
    handle.unsubscribe(() => { left += 1; });
    handle.unsubscribe(() => { left += 1; });
    world.publish(4, { topic: 'u.1' });
    world.pass(SECOND);
    assert.deepEqual([mine.length, left, line.topics], [1, 2, ['t.>']]);
  });

  await t.test('subscribed and taken back at once: both callbacks are called', () => {
    for (const name of names) {
      const world = new World({ transports: [name] });
      world.answer = granted(world);
      const line = world.connect({ topics: [] });
      const answers = [];
      line.subscribe('a', (error) => answers.push(error));
      line.unsubscribe('a', (error) => answers.push(error));
      world.pass(SECOND);
      assert.deepEqual(answers, [null, null], 'it is the application\'s choice, and no failure');
    }
  });
});

test('the token function', async (t) => {
  const calls = (token, ms = 20 * SECOND) => {
    const world = new World({ transports: ['ws', 'longpoll', 'poll'] });
    let n = 0;
    const line = world.connect({ token: (done) => { n += 1; return token(done); } });
    world.pass(ms);
    return { world, line, n };
  };

  for (const [what, token] of [['throws', () => { throw new Error('not signed in'); }], ['calls back an error', (done) => done(new Error('401'))], ['gives HTML', (done) => done(null, '<html>Sign in</html>')],
    ['gives nothing', (done) => done()], ['calls back twice', (done) => { done(new Error('one')); done(new Error('two')); }]]) {
    await t.test(`${what}: at most 6 calls in 20 s, 25 in ten minutes, with an error each`, () => {
      assert.ok(calls(token).n <= 6);
      const { n, line } = calls(token, 10 * MINUTE);
      assert.ok(n <= 25, `${n} calls`);
      assert.equal(told(line, '$error')[0].code, 'token');
      assert.equal(line.state, 'connecting');
    });
  }

  await t.test('unusable tokens: the same pauses', () => {
    const world = new World({ transports: ['ws', 'longpoll', 'poll'] });
    let n = 0;
    for (const name of world.transportNames) world.how[name] = 'unauthorized';
    world.connect({ token: (done) => { n += 1; done(null, 'ended'); } });
    world.pass(20 * SECOND);
    assert.ok(n <= 6, `${n} calls`);
  });

  await t.test('HTML is reported as such; a trailing line break is trimmed', () => {
    assert.match(told(calls((done) => done(null, ' <!doctype html>')).line, '$error')[0].message, /HTML/);
    assert.match(told(calls((done) => done(null, 'Bearer a.b.c')).line, '$error')[0].message, /Bearer/);
    assert.equal(calls((done) => done(null, 'a.b.c\n')).line.state, 'open');
  });

  await t.test('null (no user) closes', () => {
    const { line, n } = calls((done) => done(null, null));
    assert.deepEqual([n, line.state, told(line, '$close')], [1, 'closed', [{ reason: 'token' }]]);
  });

  await t.test('concurrent requests share one call', () => {
    const world = new World({ transports: ['longpoll'] });
    let n = 0;
    const line = world.connect({ token: (done) => { n += 1; world.clock.set(() => done(null, 't'), 300); } });
    for (let i = 0; i < 10; i++) line.publish('t.1', i, null, () => {});
    world.pass(SECOND);
    assert.equal(n, 1);
  });

  await t.test('the expiry of a token is no error, also as the status of a poll', () => {
    const world = new World({ transports: ['poll'] });
    let n = 0;
    const line = world.connect({ token: (done) => { n += 1; done(null, 't' + n); } });
    world.pass(MINUTE);
    world.endAll(endings.refused({ code: 'unauthorized', message: 'expired' }, 401));
    world.publish();
    world.pass(SECOND);
    assert.deepEqual([n, line.heard, told(line, '$error')], [2, [1], []]);
  });
});

test('publishing', async (t) => {
  await t.test('over HTTP one after the other, so that the log has the order of the calls', () => {
    const world = new World({ transports: ['longpoll'] });
    const order = [];
    let open = 0;
    world.window.XMLHttpRequest = class {
      open(method, url) { this.url = url; }
      setRequestHeader() {}
      getResponseHeader() { return null; }
      abort() {}
      send(body) {
        open += 1;
        assert.equal(open, 1);
        world.clock.set(() => {
          open -= 1;
          order.push(JSON.parse(body).data);
          Object.assign(this, { readyState: 4, status: 201, responseText: '{"cursor":"e1-1"}' });
          this.onreadystatechange();
        }, world.random() * 100);
      }
    };
    const line = world.connect();
    let done = 0;
    for (let i = 0; i < 20; i++) line.publish('t.1', i, null, () => { done += 1; });
    world.pass(10 * SECOND);
    assert.deepEqual(order, Array.from({ length: 20 }, (_, i) => i));
    assert.equal(done, 20);
  });

  await t.test('what JSON can\'t write is told once, as that', () => {
    const world = new World({ transports: ['ws'] });
    const line = world.connect();
    const circle = {};
    circle.circle = circle;
    const codes = [];
    for (const data of [circle, 1n, undefined]) line.publish('t.1', data, null, (error) => codes.push(error.code));
    world.pass(MINUTE);
    assert.deepEqual(codes, ['bad_data', 'bad_data', 'bad_data']);
    assert.equal(line.state, 'open');
  });

  await t.test('more than a thousand pending are refused immediately', () => {
    const world = new World({ transports: ['longpoll'] });
    const line = world.connect();
    const codes = [];
    for (let i = 0; i < 1001; i++) line.publish('t.1', i, null, (error) => codes.push(error.code));
    world.pass(10);
    assert.deepEqual(codes, ['too_many']);
  });

  await t.test('too big for a socket goes over HTTP', () => {
    const world = new World({ transports: ['ws'] });
    const bodies = [];
    world.window.XMLHttpRequest = class { open() {} setRequestHeader() {} abort() {} send(body) { bodies.push(body.length); } };
    const line = world.connect();
    world.pass(SECOND);
    line.publish('t.1', 'x'.repeat(2 << 20), null, () => {});
    world.pass(SECOND);
    assert.equal(bodies.length, 1);
    assert.ok(!(world.sent || []).some((message) => message.type === 'publish'));
  });
});

test('an event called "*" is one call for listeners of everything', () => {
  const world = new World({ transports: ['ws'] });
  const line = world.connect();
  world.pass(SECOND);
  const calls = [];
  line.on('*', (name, item) => calls.push([name, item && item.data]));
  world.publish('star', { event: '*' });
  world.pass(SECOND);
  assert.deepEqual(calls, [['*', 'star']]);
});

test('two requests of one page that the server takes for two pages', async (t) => {
  await t.test('each attempt has a greater number, and a kept client id one that outlives the page', () => {
    const world = new World({ transports: ['sse', 'poll'] });
    const line = world.connect();
    world.pass(SECOND);
    line.subscribe('u.>');
    world.pass(SECOND);
    const attempts = world.attempts;
    assert.ok(attempts.length > 2);
    for (let i = 1; i < attempts.length; i++) assert.ok(attempts[i] > attempts[i - 1]);
    const kept = { client: '00000000-0000-4000-8000-00000000000a', transports: ['poll'] };
    const first = world.connect(kept);
    world.pass(SECOND);
    first.close();
    world.clock.now -= 30 * MINUTE;      // and the clock was set back
    world.connect(kept);
    world.pass(SECOND);
    assert.ok(world.attempts.at(-1) > world.attempts.at(-2));
  });

  await t.test('an abandoned request that arrives late replaces nothing', () => {
    const world = new World({ transports: ['sse', 'poll'] });
    const line = world.connect();
    world.pass(SECOND);
    for (let i = 0; i < 5; i++) {
      line.subscribe('u.' + i);
      world.pass(300);
      world.hearAll({ event: '$bye', data: { reason: 'replaced' } });
      world.pass(3 * SECOND);
    }
    assert.equal(line.state, 'open');
    world.publish('after');
    world.pass(20 * SECOND);
    assert.deepEqual(line.heard, ['after']);
  });

  await t.test('a poll that another transport overtook is not another page', () => {
    const world = new World({ transports: ['ws', 'longpoll'] });
    const line = world.connect();
    world.pass(2 * world.latency + 1);
    assert.deepEqual([...world.links].map((held) => held.name), ['longpoll', 'ws']);
    [...world.links][0].link.receive({ event: '$bye', data: { reason: 'replaced' } });
    world.publish();
    world.pass(5 * SECOND);
    assert.deepEqual([line.state, line.transport, line.heard, told(line, '$error')], ['open', 'ws', [1], []]);
  });

  await t.test('another page with the same id replaces it', () => {
    const world = new World({ transports: ['sse'] });
    const line = world.connect();
    world.pass(MINUTE);
    world.hearAll({ event: '$bye', data: { reason: 'replaced' } });
    assert.equal(line.state, 'closed');
  });
});

test('the arguments of connect()', async (t) => {
  const said = (url, options, location = { protocol: 'http:', host: 'page.test', pathname: '/app/page', href: 'http://page.test/app/page' }) => {
    const clock = new Clock();
    const window = { location, URL };
    const library = Switchback.create({ window, now: () => clock.now, date: () => clock.now, setTimer: (run, ms) => clock.set(run, ms), clearTimer: (id) => clock.clear(id), random: () => 0 });
    const line = library.connect(url, { topics: 'a', ...options });
    const events = [];
    line.on('*', (name, item) => events.push([name, item.code || item.reason, item.message]));
    clock.pass(SECOND);
    return { base: line.base, events };
  };

  await t.test('addresses, as fetch takes them', () => {
    for (const [given, base] of [['', 'http://page.test'], ['/', 'http://page.test'], ['/live/', 'http://page.test/live'], ['live', 'http://page.test/app/live'], ['../live', 'http://page.test/live'], ['//other.test:81', 'http://other.test:81'],
      ['https://other.test///', 'https://other.test'], ['HTTP://other.test', 'HTTP://other.test'], [' http://other.test\n', 'http://other.test'], ['wss://other.test', 'https://other.test'], [new URL('http://other.test/x'), 'http://other.test/x']]) {
      assert.equal(said(given).base, base, String(given));
    }
  });

  await t.test('invalid addresses: closed, with a message', () => {
    for (const given of ['http://other.test/?key=1', 'http://other.test/#x', 'other.test:8080', 'localhost:8080', 'ftp://other.test']) {
      const { events } = said(given);
      assert.deepEqual(events.map(([name, code]) => [name, code]), [['$error', 'bad_address'], ['$close', 'bad_address']], given);
      assert.match(events[0][2], /address/);
    }
    assert.deepEqual(said('', {}, null).events.map(([, code]) => code), ['bad_address', 'bad_address'], 'no page, no address');
  });

  await t.test('an unknown transport is named in the error', () => {
    const { events } = said('', { transports: ['websocket', 'polling'] });
    assert.match(events[0][2], /"websocket"/);
    assert.equal(events.at(-1)[0], '$close');
  });

  await t.test('objects of the application are not changed', () => {
    const options = Object.freeze({ topics: Object.freeze(['a']), transports: Object.freeze(['ws']) });
    said('', options);
  });
});

test('old pages whose library gave values a toJSON, or every object a method', () => {
  const world = new World({ transports: ['longpoll'] });
  const bodies = [];
  world.window.XMLHttpRequest = class { open() {} setRequestHeader() {} abort() {} send(body) { bodies.push(body); } };
  const spoilt = [Array.prototype, String.prototype, Number.prototype, Object.prototype];
  let kept;
  const line = world.connect();
  world.pass(SECOND);
  try {
    for (const prototype of spoilt) Object.defineProperty(prototype, 'toJSON', { value() { return '"spoilt"'; }, configurable: true, writable: true });
    Object.defineProperty(Object.prototype, 'clone', { value() { throw new Error('called'); }, configurable: true, enumerable: true });
    line.publish('t.1', [1, 'two', { three: [4] }], null, () => {});
    line.subscribe('u.>');
    world.pass(SECOND);
    line.close();
    kept = spoilt.every((prototype) => typeof prototype.toJSON === 'function');
  } finally {
    for (const prototype of spoilt) delete prototype.toJSON;
    delete Object.prototype.clone;
  }
  assert.deepEqual(JSON.parse(bodies[0]).data, [1, 'two', { three: [4] }]);
  assert.equal(line.state, 'closed');
  assert.ok(kept, 'they are put back');
});

test('silence is measured by a monotonic clock', () => {
  for (const shift of [-3600 * SECOND, 3600 * SECOND]) {
    const world = new World({ transports: ['ws', 'longpoll'] });
    const line = world.connect();
    world.pass(SECOND);
    world.dateShift = shift;
    world.how.ws = 'mute';
    world.publish();
    // Forward, it looks like a sleep at first: that costs a renewal, and the next silence two heartbeats.
    world.pass(95 * SECOND);
    assert.deepEqual(line.heard, [1], `set by ${shift} ms`);
  }
});

test('after a short restart better transports are probed within a minute', () => {
  const world = new World({ transports: ['ws', 'longpoll', 'poll'] });
  const line = world.connect();
  world.pass(MINUTE);
  for (const name of world.transportNames) world.how[name] = 'down';
  world.endAll(endings.lost());
  world.pass(3 * SECOND);
  for (const name of ['longpoll', 'poll']) world.how[name] = 'works';
  world.pass(3 * SECOND);
  world.how.ws = 'works';
  world.pass(10 * SECOND);
  assert.ok(['ws', 'longpoll', 'poll'].includes(line.transport));
  world.pass(50 * SECOND);
  assert.equal(line.transport, 'ws');
});

test('`online` again and again is one renewal a second', () => {
  const world = new World({ transports: ['ws'] });
  world.connect();
  world.pass(MINUTE);
  const before = world.opened.length;
  for (let i = 0; i < 20; i++) { world.window.fire('online'); world.pass(100); }
  world.pass(2 * SECOND);
  assert.ok(world.opened.length - before <= 4, `${world.opened.length - before} renewals`);
});
