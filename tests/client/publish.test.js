// What becomes of a publish: its fate is told, or said to be unknown.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World } = require('./world.js');

const SECOND = 1000;

// An XMLHttpRequest whose server is the function `world.http(request) -> { status, body } | null`.
function withHttp(world, answer) {
  world.requests = [];
  world.window.XMLHttpRequest = class {
    open(method, url) { Object.assign(this, { method, url, headers: {} }); }
    setRequestHeader(name, value) { this.headers[name] = value; }
    getResponseHeader() { return null; }
    abort() { this.aborted = true; }
    send(body) {
      this.body = body;
      world.requests.push(this);
      world.clock.set(() => {
        const response = this.aborted ? undefined : answer(this);
        if (response === undefined) return;
        Object.assign(this, { readyState: 4, status: response ? response.status : 0, responseText: response ? JSON.stringify(response.body) : '' });
        this.onreadystatechange();
      }, world.latency);
    }
  };
}

// Publishes, and gives back an object that will hold what was told.
function publish(line, ...rest) {
  const fate = {};
  line.publish('t.1', { n: 1 }, ...rest, (error, result) => {
    assert.ok(!('error' in fate), 'told once');
    Object.assign(fate, { error, result });
  });
  return fate;
}

test('over the socket, answered by its reply', () => {
  const world = new World({ transports: ['ws'] });
  const line = world.connect();
  world.pass(SECOND);
  world.answer = (message) => ({ ok: true, cursor: 'e1-9', duplicate: false, asked: message });
  const fate = publish(line, { event: 'made', id: 'k' });
  world.pass(SECOND);
  assert.deepEqual(fate, { error: null, result: { cursor: 'e1-9', duplicate: false, id: 'k' } });
  const { ref, ...sent } = world.sent[0];
  assert.deepEqual(sent, { type: 'publish', topic: 't.1', event: 'made', data: { n: 1 }, id: 'k' });
  assert.ok(ref);
});

test('an event delivered before its answer is stored, also where the listener closes the connection', () => {
  const world = new World({ transports: ['ws'] });
  const line = world.connect();
  world.pass(SECOND);
  const fate = publish(line, { id: 'k' });
  line.on('message', () => line.close());
  world.publish('x', { id: 'k' });
  world.pass(SECOND);
  assert.equal(line.state, 'closed');
  assert.deepEqual(fate, { error: null, result: { cursor: 'e1-1', duplicate: false, id: 'k' } });
});

test('the socket goes before it answers: the same id again, over HTTP', () => {
  const world = new World({ transports: ['ws'] });
  withHttp(world, () => ({ status: 201, body: { cursor: 'e1-9', duplicate: true } }));
  const line = world.connect();
  world.pass(SECOND);
  const fate = publish(line);
  world.endAll({});
  world.pass(5 * SECOND);
  const id = JSON.parse(world.requests[0].body).id;
  assert.equal(id, world.sent[0].id);
  assert.deepEqual(fate, { error: null, result: { cursor: 'e1-9', duplicate: true, id } });
});

test('over HTTP: lost answers and 5xx are tried again with the same id, and reported once', () => {
  const world = new World({ transports: ['longpoll'] });
  const answers = [null, { status: 502, body: '<html>' }, { status: 201, body: { cursor: 'e1-1', duplicate: false } }];
  withHttp(world, () => answers.shift());
  const fate = publish(world.connect());
  world.pass(20 * SECOND);
  assert.equal(fate.result.cursor, 'e1-1');
  assert.equal(new Set(world.requests.map((r) => JSON.parse(r.body).id)).size, 1);
  assert.equal(world.requests.length, 3);
});

test('a refusal is final and has its reason', () => {
  for (const [status, code] of [[400, 'bad_topic'], [403, 'forbidden'], [413, 'too_large']]) {
    const world = new World({ transports: ['longpoll'] });
    withHttp(world, () => ({ status, body: { error: { code, message: 'because' } } }));
    const fate = publish(world.connect());
    world.pass(20 * SECOND);
    assert.equal(world.requests.length, 1);
    assert.equal(fate.error.code, code);
    assert.equal(fate.error.message, 'because');
  }
});

test('no answer at all: unknown, with the id to try again', () => {
  const world = new World({ transports: ['longpoll'] });
  withHttp(world, () => undefined);
  const fate = publish(world.connect(), { id: 'mine' });
  world.pass(29 * SECOND);
  assert.deepEqual(fate, {});
  world.pass(2 * SECOND);
  assert.equal(fate.error.code, 'unknown');
  assert.equal(fate.error.id, 'mine');
});

test('a long publish that is cut is reported at once: a browser that reads no early refusal would send it for 30 s', () => {
  const world = new World({ transports: ['longpoll'] });
  withHttp(world, () => null);
  let error;
  world.connect().publish('t.1', 'x'.repeat(400000), { id: 'mine' }, (found) => { error = found; });
  world.pass(SECOND);
  assert.deepEqual([error.code, error.id, world.requests.length], ['unknown', 'mine', 1]);
  assert.match(error.message, /too large/);
});

test('without an answer, its delivery on the own subscription confirms it', () => {
  const world = new World({ transports: ['sse'] });
  withHttp(world, () => undefined);
  const line = world.connect();
  world.pass(SECOND);
  const fate = publish(line, { id: 'mine' });
  world.publish('somebody else\'s', { id: 'mine', topic: 't.2' });
  world.pass(10 * SECOND);
  assert.deepEqual(fate, {}, 'topic and id make the key, not the id alone');
  world.publish({ n: 1 }, { id: 'mine' });
  world.pass(10 * SECOND);
  assert.equal(fate.result.cursor, 'e1-2');
});

test('an expired token is renewed once', () => {
  const world = new World({ transports: ['longpoll'] });
  withHttp(world, (request) => (request.headers.Authorization === 'Bearer t2' ? { status: 201, body: { cursor: 'e1-1' } } : { status: 401, body: { error: { code: 'unauthorized', message: 'expired' } } }));
  let tokens = 0;
  const fate = publish(world.connect({ token: (done) => done(null, `t${++tokens}`) }));
  world.pass(SECOND);
  assert.equal(fate.result.cursor, 'e1-1');
  assert.equal(tokens, 2);
});

test('one that is refused again is not renewed again', () => {
  const world = new World({ transports: ['longpoll'] });
  withHttp(world, () => ({ status: 401, body: { error: { code: 'unauthorized', message: 'who are you?' } } }));
  let tokens = 0;
  const fate = publish(world.connect({ token: (done) => done(null, `t${++tokens}`) }));
  world.pass(20 * SECOND);
  assert.equal(fate.error.message, 'who are you?');
  assert.equal(world.requests.length, 2);
});

test('a token callback may throw, reject or never answer', () => {
  for (const [token, message] of [[() => { throw new Error('boom'); }, /boom/], [() => {}, /did not answer/], [() => ({ then: (_, no) => no(new Error('nope')) }), /nope/]]) {
    const world = new World({ transports: ['longpoll'] });
    withHttp(world, () => ({ status: 201, body: {} }));
    const line = world.connect({ token });
    world.pass(31 * SECOND);
    const error = line.told.find(([name]) => name === '$error')[1];
    assert.equal(error.code, 'token');
    assert.match(error.message, message);
    assert.notEqual(line.state, 'closed', 'it may answer next time');
  }
});

test('closing settles pending publishes', () => {
  const world = new World({ transports: ['longpoll'] });
  withHttp(world, () => undefined);
  const line = world.connect();
  const fate = publish(line);
  line.close();
  assert.equal(fate.error.code, 'unknown');
});

test('with promises it is one', async () => {
  const world = new World({ transports: ['ws'] });
  world.window.Promise = Promise;
  world.answer = (message) => (message.data === 'bad' ? { ok: false, error: { code: 'bad', message: 'no' } } : { ok: true, cursor: 'e1-3', duplicate: false });
  const line = world.connect();
  world.pass(SECOND);
  const good = line.publish('t.1', 'good');
  const bad = line.publish('t.1', 'bad');
  world.pass(SECOND);
  assert.equal((await good).cursor, 'e1-3');
  await assert.rejects(bad, { code: 'bad' });
});
