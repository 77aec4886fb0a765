// The library's own transports, against a window that is made of paper.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { Clock, Switchback } = require('./world.js');

const SECOND = 1000;

// `answer(request)` gives { status, text, headers, after } or null for a connection that is cut.
function setUp(options, answer, extra = {}) {
  const clock = new Clock();
  const requests = [];
  class XMLHttpRequest {
    open(method, url) { Object.assign(this, { method, url: new URL(url), headers: {}, readyState: 1 }); }
    setRequestHeader(name, value) { this.headers[name] = value; }
    getResponseHeader(name) { return (this.answer.headers || {})[name] || null; }
    abort() { this.aborted = true; }
    send(body) {
      Object.assign(this, { body, at: clock.now });
      requests.push(this);
      const given = answer(this, requests.length) || { status: 0, text: '', after: this.cutAfter };
      clock.set(() => {
        if (this.aborted) return;
        Object.assign(this, { answer: given, readyState: 4, status: given.status, responseText: given.text || '' });
        this.onreadystatechange();
      }, given.after === undefined ? 10 : given.after);
    }
  }
  const window = { XMLHttpRequest, location: { protocol: 'http:', host: 'page.test' }, ...extra };
  let ids = 0;
  const library = Switchback.create({ window, now: () => clock.now, date: () => clock.now, setTimer: (run, ms) => clock.set(run, ms), clearTimer: (id) => clock.clear(id), random: () => 0, uuid: () => String(++ids).padStart(8, '0') });
  const line = library.connect(options.url || '', { topics: ['a', 'b+c'], ...options });
  const heard = [];
  line.on('*', (name, item) => heard.push(name.startsWith('$') ? [name, item.message || item.transport] : item.data));
  return { clock, requests, line, heard, library, window };
}

const batch = (cursor, ...data) => ({ status: 200, text: JSON.stringify({ cursor: `e-${cursor}`, events: data.map((each, i) => ({ cursor: `e-${cursor - data.length + 1 + i}`, topic: 'a', event: 'message', data: each })) }) });
const waitOf = (request) => request.url.searchParams.get('wait');

test('a long poll is not held the first time, then held, each time from the received cursor', () => {
  const { clock, requests, heard } = setUp({ transports: ['longpoll'] }, (request, n) => ({ ...batch(n, n), after: n === 1 ? 10 : 500 }));
  clock.pass(1600);
  assert.deepEqual(requests.slice(0, 4).map((r) => [waitOf(r), r.url.searchParams.get('cursor')]), [['0', null], ['25', 'e-1'], ['25', 'e-2'], ['25', 'e-3']]);
  assert.deepEqual(requests[0].url.searchParams.getAll('topic'), ['a', 'b+c']);
  assert.equal(new Set(requests.map((r) => r.url.href)).size, requests.length, 'no two URLs are the same');
  assert.deepEqual(heard, [['$open', 'longpoll'], 1, 2, 3, 4]);
});

test('a network that cuts held answers gets shorter ones, and no error is reported', () => {
  const { clock, requests, line, heard } = setUp({ transports: ['longpoll'] }, (request) => {
    request.cutAfter = 5000;
    return Number(waitOf(request)) * SECOND > 5000 ? null : { ...batch(1), after: Number(waitOf(request)) * SECOND };
  });
  clock.pass(60 * SECOND);
  assert.deepEqual(requests.slice(0, 5).map(waitOf), ['0', '25', '0', '2', '2']);
  assert.equal(line.state, 'open');
  assert.deepEqual(heard, [['$open', 'longpoll']]);
  clock.pass(600 * SECOND);
  assert.ok(requests.slice(5).some((r) => waitOf(r) === '25'), 'ten minutes later it hopes again');
});

test('a stopped server is no such network', () => {
  let up = true;
  const { clock, requests, heard } = setUp({ transports: ['longpoll'] }, (request) => (up && waitOf(request) === '0' ? batch(1) : null));
  clock.pass(5);
  up = false;
  clock.pass(100);
  assert.match(heard[1][1], /No answer from http:\/\/page.test over longpoll. Is it running\?/);
  assert.ok(requests.every((r) => ['0', '25'].includes(waitOf(r))));
});

test('a short poll presents its ETag on its own origin, where 304 means nothing new', () => {
  const answer = (request, n) => (n === 1 ? batch(1, 'one') : n < 4 ? { status: 304 } : batch(2, 'two'));
  const { clock, requests, heard, line } = setUp({ transports: ['poll'], interval: 1000 }, answer);
  clock.pass(3500);
  assert.deepEqual(requests.map((r) => r.headers['If-None-Match']), [undefined, '"e-1"', '"e-1"', '"e-1"']);
  assert.deepEqual(heard, [['$open', 'poll'], 'one', 'two']);
  assert.equal(line.cursor, 'e-2');
  assert.equal(new Set(requests.map((r) => r.url.href)).size, requests.length, 'no two URLs are the same: old caches keep what they have seen');
  const far = setUp({ transports: ['poll'], url: 'http://other.test' }, answer, {});
  far.clock.pass(10 * SECOND);
  assert.ok(far.requests.every((r) => r.url.host === 'other.test' && !r.headers['If-None-Match']));
});

test('a batch that any limit cut is followed immediately by the next', () => {
  const more = (given) => ({ ...given, text: JSON.stringify({ ...JSON.parse(given.text), more: true }) });
  const { clock, requests } = setUp({ transports: ['poll'], interval: 1000 }, (request, n) => (n < 3 ? more(batch(n, n)) : batch(3, 3)));
  clock.pass(100);
  assert.equal(requests.length, 3);
});

test('a server that is not Switchback is named as such', () => {
  const { clock, heard } = setUp({ transports: ['longpoll'] }, () => ({ status: 200, text: '<html>Welcome to the hotel</html>' }));
  clock.pass(100);
  assert.match(heard[0][1], /not a Switchback server/);
});

test('the server\'s own words on a bad request end it; a proxy\'s page does not', () => {
  const refused = setUp({ topics: 'a', transports: ['longpoll', 'poll'] }, () => ({ status: 400, text: '{"error":{"code":"bad_topic","message":"topic is …"}}' }));
  refused.clock.pass(100 * SECOND);
  assert.deepEqual(refused.heard.map(([name]) => name), ['$error', '$close']);
  assert.equal(refused.heard[0][1], 'topic is …');
  assert.equal(refused.requests.length, 1);
  const proxy = setUp({ transports: ['longpoll'] }, (request, n) => (n < 3 ? { status: 400, text: '<h1>Bad Request</h1>' } : batch(1)));
  proxy.clock.pass(60 * SECOND);
  assert.equal(proxy.line.state, 'open');
});

test('Retry-After is kept', () => {
  const { clock, requests } = setUp({ transports: ['longpoll'] }, (request, n) => (n === 1 ? { status: 503, text: '{"error":{"code":"overloaded","message":"later"}}', headers: { 'Retry-After': '7' } } : batch(1)));
  clock.pass(7 * SECOND);
  assert.equal(requests.length, 1);
  clock.pass(100);
  assert.ok(requests.length > 1);
});

test('tokens go into the header of requests, the subprotocol of sockets, never into their URLs', () => {
  const opened = [];
  class WebSocket { constructor(url, protocols) { opened.push([url, protocols]); } close() {} }
  WebSocket.CLOSING = 2;
  const { clock, requests } = setUp({ transports: ['ws', 'longpoll'], token: 'a.b.c' }, () => batch(1), { WebSocket });
  clock.pass(100);
  assert.equal(requests[0].headers.Authorization, 'Bearer a.b.c');
  assert.deepEqual(opened[0][1], ['switchback.v1', 'switchback.token.a.b.c']);
  assert.match(opened[0][0], /^ws:\/\/page\.test\/v1\/ws\?/);
  for (const url of [requests[0].url.href, opened[0][0]]) assert.ok(!url.includes('a.b.c'));
});

test('EventSource gets a ticket, and the token itself only from a server without tickets', () => {
  for (const [status, text, expected] of [[201, '{"ticket":"once","expires_in":30}', /ticket=once/], [404, '{"error":{"code":"not_found","message":"no"}}', /token=a\.b\.c/]]) {
    const opened = [];
    class EventSource { constructor(url) { opened.push(url); } addEventListener() {} close() {} }
    const { clock, requests } = setUp({ transports: ['sse'], token: 'a.b.c' }, () => ({ status, text }), { EventSource });
    clock.pass(100);
    assert.equal(requests[0].url.pathname, '/v1/tickets');
    assert.deepEqual(JSON.parse(requests[0].body), { transport: 'sse' });
    assert.equal(requests[0].headers.Authorization, 'Bearer a.b.c');
    assert.match(opened[0], expected);
  }
});

test('over EventSource "*" hears events whose names are not registered', () => {
  let source;
  class EventSource { constructor(url) { source = this; this.url = url; this.on = {}; } addEventListener(name, run) { this.on[name] = run; } close() {} }
  const { clock, heard } = setUp({ transports: ['sse'] }, () => null, { EventSource });
  clock.pass(100);
  assert.match(source.url, /named=0/);
  source.onmessage({ type: 'message', data: '{"event":"$hello","cursor":"e-0","data":{}}' });
  source.onmessage({ type: 'message', data: '{"event":"never registered","cursor":"e-1","topic":"a","data":7}' });
  assert.deepEqual(heard, [['$open', 'sse'], 7]);
});

test('a server under a prefix, on another scheme, with a trailing slash', () => {
  for (const [url, expected] of [['/live/', 'http://page.test/live/v1/longpoll'], ['//other.test:8080', 'http://other.test:8080/v1/longpoll'], ['https://other.test/x', 'https://other.test/x/v1/longpoll'], ['live', 'http://page.test/live/v1/longpoll']]) {
    const { clock, requests } = setUp({ transports: ['longpoll'], url }, () => batch(1));
    clock.pass(50);
    assert.equal(requests[0].url.origin + requests[0].url.pathname, expected);
  }
});

// A document of paper: scripts and frames are kept in `made`, and what becomes of them is the test's to say.
function paper() {
  const made = [];
  const removed = [];
  const element = (tag) => {
    const node = { tag: tag.replace(/[<> ].*/g, ''), style: {}, setAttribute() {}, appendChild() {}, listeners: {}, addEventListener(name, run) { node.listeners[name] = run; }, removeEventListener() {}, submit() {} };
    if (/^</.test(tag)) throw new Error('InvalidCharacterError');
    return node;
  };
  const parent = { appendChild(node) { node.parentNode = parent; made.push(node); }, removeChild(node) { node.parentNode = null; removed.push(node); } };
  return { made, removed, document: { createElement: element, head: parent, body: parent, readyState: 'complete', addEventListener() {}, removeEventListener() {} } };
}

const params = (node) => new URL(node.src).searchParams;
// As the server's answer would: the script calls what its URL names, then says that it is loaded.
function answerScript(window, node, batch) {
  const run = window.Switchback.jsonp[params(node).get('callback').split('.').pop()];
  run(batch);
  if (node.onload) node.onload();
}

test('a token is in no URL of a script or frame: each request takes a ticket', () => {
  for (const transport of ['jsonp', 'jsonp-poll', 'iframe-poll']) {
    const { made, document } = paper();
    const extra = { document, postMessage() {}, addEventListener() {}, removeEventListener() {} };
    let tickets = 0;
    const { clock, requests, window } = setUp({ transports: [transport], token: 'a.b.c', interval: 100 }, (request) => (request.url.pathname === '/v1/tickets' ? { status: 201, text: JSON.stringify({ ticket: `once${tickets += 1}` }) } : batch(1)), extra);
    for (let i = 0; i < 3; i++) { clock.pass(200); if (made[i] && made[i].tag === 'script') answerScript(window, made[i], { cursor: 'e-1', events: [] }); }
    assert.ok(made.length >= 1, transport);
    for (const node of made) { assert.match(node.src, /ticket=once\d/); assert.ok(!node.src.includes('a.b.c')); }
    assert.equal(new Set(made.map((node) => params(node).get('ticket'))).size, made.length);
    assert.ok(requests.filter((r) => r.url.pathname === '/v1/tickets').every((r) => r.headers.Authorization === 'Bearer a.b.c'));
  }
});

test('a refused ticket, used up by a browser that repeats its request, does not mean a refused token', () => {
  for (const transport of ['jsonp', 'jsonp-poll', 'sse']) {
    const { made, document } = paper();
    const opened = [];
    class EventSource { constructor(url) { opened.push(this); this.url = url; this.on = {}; } addEventListener(name, run) { this.on[name] = run; } close() {} }
    const extra = { document, EventSource, addEventListener() {}, removeEventListener() {} };
    let tickets = 0;
    let status = 201;
    const refusal = { code: 'unauthorized', message: 'the ticket was used', status: 401 };
    const { clock, line, heard, window } = setUp({ transports: [transport], token: 'a.b.c', interval: 100 }, (request) => (request.url.pathname !== '/v1/tickets' ? batch(1)
      : status === 201 ? { status, text: JSON.stringify({ ticket: `once${tickets += 1}` }) } : { status, text: JSON.stringify({ error: { code: 'unauthorized', message: 'the token has ended' } }) }), extra);
    const asked = () => (transport === 'sse' ? opened : made).length;
    const refuse = () => {
      if (transport === 'sse') { opened[opened.length - 1].on.$error({ type: '$error', data: JSON.stringify({ event: '$error', data: refusal }) }); return; }
      answerScript(window, made[made.length - 1], { events: [{ event: '$error', data: refusal }] });
    };
    clock.pass(1000);
    const before = asked();
    assert.ok(before >= 1, transport);
    refuse();
    clock.pass(60 * SECOND);
    assert.notEqual(line.state, 'closed', transport);
    assert.ok(asked() > before && tickets > 1, `${transport}: asked again with another ticket`);
    // The token itself is refused: that is one.
    status = 401;
    refuse();
    clock.pass(60 * SECOND);
    assert.equal(line.state, 'closed', transport);
    assert.deepEqual(heard.filter(([name]) => name === '$close').length, 1);
  }
});

for (const Proxy of [undefined, globalThis.Proxy]) {
  test(`JSONP leaves no callback behind, and one that is given up still finds something to call, ${Proxy ? 'with' : 'without'} Proxy`, () => {
    const { made, document } = paper();
    const { clock, line, window } = setUp({ transports: ['jsonp'] }, () => null, { document, Proxy, addEventListener() {}, removeEventListener() {} });
    clock.pass(10);
    const registry = () => Object.keys(window.Switchback.jsonp);
    answerScript(window, made[0], { cursor: 'e-1', events: [] });
    clock.pass(10);
    assert.equal(registry().length, 1, 'the held question');
    const held = made[1];
    const name = params(held).get('callback').split('.').pop();
    line.close();
    assert.deepEqual(registry(), Proxy ? [] : [name], 'a Proxy needs no name for a late answer');
    assert.equal(typeof window.Switchback.jsonp[name], 'function', 'removing the tag does not stop the load');
    window.Switchback.jsonp[name]({ cursor: 'e-9', events: [{ cursor: 'e-9', topic: 'a', event: 'message', data: 'too late' }] });
    if (held.onload) held.onload();
    assert.deepEqual(registry(), []);
    assert.equal(line.stats.received, 0);
  });
}

test('no frame or script is loaded from a server that has not proved to be Switchback', () => {
  const { made, document } = paper();
  const { clock, heard } = setUp({}, () => ({ status: 200, text: '<!doctype html><title>app</title>' }), { document, postMessage() {}, addEventListener() {}, removeEventListener() {} });
  clock.pass(120 * SECOND);
  assert.deepEqual(made, []);
  assert.match(heard.find(([name]) => name === '$error')[1], /not a Switchback server/);
});

test('... and where only frames may be used, a request precedes them', () => {
  const { made, document } = paper();
  let spa = true;
  const { clock, requests } = setUp({ transports: ['iframe'] }, () => (spa ? { status: 200, text: '<!doctype html>' } : batch(1)), { document, postMessage() {}, addEventListener() {}, removeEventListener() {} });
  clock.pass(5 * SECOND);
  assert.deepEqual(made.filter((node) => node.tag === 'iframe'), []);
  assert.ok(requests.length > 0);
  spa = false;
  clock.pass(60 * SECOND);
  assert.ok(made.some((node) => node.tag === 'iframe'));
});

test('a stream that a browser ends without an event is detected in seconds', async (t) => {
  await t.test('EventSource', () => {
    const sources = [];
    class EventSource { constructor() { sources.push(this); this.readyState = 1; this.on = {}; } addEventListener(name, run) { this.on[name] = run; } close() {} }
    const { clock, line } = setUp({ transports: ['sse'] }, () => null, { EventSource });
    clock.pass(100);
    sources[0].on.$hello({ data: '{"event":"$hello","cursor":"e-0","data":{}}' });
    clock.pass(20 * SECOND);
    assert.equal(sources.length, 1);
    sources[0].readyState = 2;
    clock.pass(7 * SECOND);
    assert.equal(sources.length, 2);
    assert.equal(line.state, 'connecting');
  });

  await t.test('a frame', () => {
    const { made, document } = paper();
    const listeners = [];
    const window = { document, postMessage() {}, addEventListener(name, run) { if (name === 'message') listeners.push(run); }, removeEventListener() {} };
    const { clock, line } = setUp({ transports: ['iframe'] }, () => batch(1), window);
    clock.pass(100);
    const frames = () => made.filter((node) => node.tag === 'iframe');
    frames()[0].contentWindow = { document: { URL: 'http://page.test/v1/iframe', readyState: 'loading', body: {} } };
    listeners.forEach((run) => run({ source: frames()[0].contentWindow, origin: 'http://page.test', data: '{"event":"$hello","cursor":"e-0","data":{}}' }));
    assert.equal(line.state, 'open');
    clock.pass(20 * SECOND);
    assert.equal(frames().length, 1);
    frames()[0].contentWindow.document.readyState = 'complete';
    clock.pass(7 * SECOND);
    assert.ok(frames().length > 1);
  });
});

test('publishing where a policy forbids XHR goes by a form, once the server has proved what it is', () => {
  const { made, document } = paper();
  const { clock, line, window } = setUp({ transports: ['jsonp'], interval: 100 }, () => null, { document, postMessage() {}, addEventListener() {}, removeEventListener() {} });
  clock.pass(10);
  answerScript(window, made[0], { cursor: 'e-1', events: [] });
  line.publish('a', 1, null, () => {});
  clock.pass(5 * SECOND);
  const form = made.find((node) => node.tag === 'form');
  assert.ok(form, 'a form is sent');
  assert.equal(form.action, 'http://page.test/v1/events');
});

test('a frame that goes on loading though its server was killed is detected by events that only the log has', () => {
  const { made, document } = paper();
  const listeners = [];
  const window = { document, postMessage() {}, addEventListener(name, run) { if (name === 'message') listeners.push(run); }, removeEventListener() {} };
  let log = 1;
  const { clock } = setUp({ transports: ['iframe'] }, (request) => (['now', `e-${log}`].includes(request.url.searchParams.get('cursor')) ? batch(log) : batch(log, 'new')), window);
  clock.pass(100);
  const frames = () => made.filter((node) => node.tag === 'iframe');
  const say = (frame, item) => listeners.forEach((run) => run({ source: frame.contentWindow, origin: 'http://page.test', data: JSON.stringify(item) }));
  frames()[0].contentWindow = { document: { URL: 'http://page.test/v1/iframe', readyState: 'loading', body: {} } };
  say(frames()[0], { event: '$hello', cursor: 'e-1', data: {} });
  clock.pass(30 * SECOND);
  assert.equal(frames().length, 1, 'a quiet one is left alone');
  log = 2;
  say(frames()[0], { event: 'message', cursor: 'e-2', topic: 'a', data: 'new' });
  clock.pass(7 * SECOND);
  assert.equal(frames().length, 1, 'so is one that has brought it');
  log = 3;
  clock.pass(8 * SECOND);
  assert.ok(frames().length > 1);
});

test('a socket that does not open: HTTP decides whether its token was refused, and only then is another requested', async (t) => {
  for (const [what, good, calls] of [['refused', 'second', 2], ['good', 'first', 1]]) {
    await t.test(what, () => {
      let n = 0;
      const sockets = [];
      function WebSocket(url, protocols) {
        sockets.push(protocols[1].replace('switchback.token.', ''));
        clock.set(() => this.onclose({ code: 1006, reason: '' }), 10);
        this.close = () => {};
      }
      WebSocket.CLOSING = 2;
      const answer = (request) => (request.headers.Authorization === `Bearer ${good}` ? { status: 201, text: '{"ticket":"t"}' } : { status: 401, text: '{"error":{"code":"unauthorized","message":"The token has ended."}}' });
      const token = (done) => { n += 1; done(null, n === 1 ? 'first' : 'second'); };
      const { clock, requests } = setUp({ transports: ['ws'], token }, answer, { WebSocket });
      clock.pass(60 * SECOND);
      assert.equal(n, calls, 'calls of the token function');
      assert.ok(sockets.length > 3 && sockets.slice(1).every((token) => token === good), sockets.join());
      assert.ok(requests.every((request) => request.url.pathname === '/v1/tickets'));
    });
  }

  await t.test('a fixed token closes the connection, with the server\'s words', () => {
    function WebSocket() { clock.set(() => this.onclose({ code: 1006, reason: '' }), 10); this.close = () => {}; }
    WebSocket.CLOSING = 2;
    const answer = () => ({ status: 401, text: '{"error":{"code":"unauthorized","message":"The token has ended."}}' });
    const { clock, heard } = setUp({ transports: ['ws'], token: 'ended' }, answer, { WebSocket });
    clock.pass(60 * SECOND);
    assert.deepEqual(heard.map(([name]) => name), ['$error', '$close']);
    assert.equal(heard[0][1], 'The token has ended.');
  });
});

// https://html.spec.whatwg.org/multipage/webstorage.html
function storage() {
  const kept = new Map();
  return { kept, getItem: (key) => (kept.has(key) ? kept.get(key) : null), setItem: (key, value) => kept.set(key, String(value)) };
}

test('over plain HTTP a browser holds four connections to a host, and polls with the rest', async (t) => {
  const start = (options = {}) => {
    const localStorage = storage();
    const answer = (request) => ({ ...batch(1), after: Number(waitOf(request)) * SECOND + 10 });
    const made = setUp({ transports: ['longpoll', 'poll'], ...options }, answer, { localStorage });
    const connect = () => made.library.connect(options.url || '', { topics: 'a', transports: ['longpoll', 'poll'], ...options });
    const lines = [made.line];
    // One after the other, as tabs are opened.
    for (let i = 0; i < 6; i++) { made.clock.pass(SECOND); lines.push(connect()); }
    made.clock.pass(SECOND);
    return { ...made, lines, localStorage, over: () => lines.map((line) => line.transport) };
  };

  await t.test('the first four; one that is closed makes room', () => {
    const { clock, lines, over } = start();
    assert.deepEqual(over(), ['longpoll', 'longpoll', 'longpoll', 'longpoll', 'poll', 'poll', 'poll']);
    lines[0].close();
    clock.pass(11 * 60 * SECOND);
    assert.equal(over().slice(1).filter((name) => name === 'longpoll').length, 4);
    assert.ok(lines.slice(1).every((line) => line.state === 'open'));
  });

  await t.test('a crashed tab keeps its slot for minutes only', () => {
    const { clock, localStorage, lines, over } = start();
    localStorage.setItem('switchback:http://page.test 0', `dead ${clock.now + 150 * SECOND}`);
    clock.pass(31 * SECOND);
    assert.equal(over().filter((name) => name === 'longpoll').length, 3, 'it lost its place, without a word');
    assert.ok(lines.every((line) => line.stats.failures === 0));
    clock.pass(15 * 60 * SECOND);
    assert.equal(over().filter((name) => name === 'longpoll').length, 4);
  });

  await t.test('with TLS, or where the application allows nothing else, all hold connections', () => {
    assert.deepEqual(new Set(start({ url: 'https://other.test' }).over()), new Set(['longpoll']));
    assert.deepEqual(new Set(start({ transports: ['longpoll'] }).over()), new Set(['longpoll']));
  });

  await t.test('a transport chosen with switchTo() stays', () => {
    const { clock, lines } = start();
    lines[6].switchTo('longpoll');
    clock.pass(5 * 60 * SECOND);
    assert.equal(lines[6].transport, 'longpoll');
    assert.equal(lines[6].stats.opens, 1);
  });
});
