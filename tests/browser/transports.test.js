// Every transport in a real browser: delivery, hostile payloads, switching, other origins, old browsers.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { engines, launch, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { Network } = require('./lib/network.js');
const { Subscriber } = require('./lib/subscriber.js');

const TRANSPORTS = ['ws', 'sse', 'stream', 'longpoll', 'iframe', 'jsonp', 'iframe-poll', 'poll', 'jsonp-poll'];
const count = (n, from = 0) => Array.from({ length: n }, (_, i) => from + i);

const HOSTILE = [
  '"</script><script>parent.pwned = window.pwned = 1</script>"',
  '"<img src=x onerror=\\"parent.pwned = window.pwned = 1\\">"',
  '"<!--<script>"',
  '"line\\u2028and\\u2029paragraph"',
  '"a\\r\\nb\\rc\\u0000d"',
  '"\u2028raw\u2029"',
  '"😀 \\ud83d\\ude00 ]]> ); p({}) //"',
  '{"constructor":{"prototype":{"pwned":1}},"hasOwnProperty":1}',
  '[[],{},null,true,-0.5e-3,""]',
  JSON.stringify('x'.repeat(70000)),
];
// In an object literal this name sets the prototype, and twice it is a syntax error.
const PROTO = ['{"__proto__":{"pwned":1},"a":1}', '{"__proto__":1,"__proto__":2}', '{"a":{"\\u005f_proto__":{"pwned":1}}}'];

for (const name of engines) {
  test(`transports in ${name}`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start();
    const network = await Network.start(server);
    t.after(async () => { await browser.close(); await network.stop(); await server.stop(); });

    for (const transport of TRANSPORTS) {
      await t.test(`${transport}: history, live, hostile payloads, a change of patterns`, async (t) => {
        const topic = `one.${transport}`;
        await server.publishAll(topic, count(300));
        const one = await Subscriber.open(t, browser, network, { options: { topics: topic, transports: [transport], cursor: 'earliest', interval: 100 } });
        await one.receives(count(300));
        const raw = HOSTILE.map((json) => JSON.parse(json));
        for (const json of HOSTILE) await server.publishRaw(topic, json);
        await one.receives([...count(300), ...raw]);

        assert.equal(await one.get('typeof pwned + typeof ({}).pwned'), 'undefinedundefined');

        for (const event of ['__proto__', 'constructor', 'approved']) await server.publish(topic, event, { event });
        await one.receives([...count(300), ...raw, '__proto__', 'constructor', 'approved']);

        await one.get(`new Promise(function (resolve, reject) { line.subscribe('more.${transport}', function (error) { if (error) reject(error); else resolve(true); }); })`);
        await server.publish(`more.${transport}`, 'more');
        await until('the added pattern is delivered', () => one.get("seen[seen.length - 1].data === 'more'"));
        await one.sound();
      });

      await t.test(`${transport}: keys named __proto__ lose no event and stay keys`, async (t) => {
        const topic = `proto.${transport}`;
        const one = await Subscriber.open(t, browser, network, { options: { topics: topic, transports: [transport], cursor: 'earliest', interval: 100 } });
        for (const json of PROTO) await server.publishRaw(topic, json);
        await server.publish(topic, 'after');
        await until('what follows them arrives', () => one.get("seen.length && seen[seen.length - 1].data === 'after'"));
        assert.deepEqual(await one.get('seen.map(function (item) { return JSON.stringify(item.data); })'), [...PROTO.map((json) => JSON.stringify(JSON.parse(json))), '"after"']);
        assert.equal(await one.get('typeof ({}).pwned'), 'undefined');
      });

      await t.test(`${transport}: a snapshot, the end of the past, then every change`, async (t) => {
        for (let n = 0; n < 900; n += 300) await Promise.all(count(3).map((i) => server.publishAll(`state.${transport}.${i}`, count(100, n))));
        const one = await Subscriber.open(t, browser, network, { options: { topics: `state.${transport}.*`, transports: [transport], cursor: 'earliest', latest: true, pace: 1, interval: 100 } });
        const lives = () => one.get("controls.filter(function (t) { return t[0] === '$live'; }).length");
        await one.receives([699, 699, 699]);
        await until('the past is over', lives);
        await server.publish(`state.${transport}.1`, 'changed');
        await one.receives([699, 699, 699, 'changed']);
        assert.equal(await lives(), 1);
        await one.sound();
      });

      await t.test(`${transport}: publishing reports the outcome`, async (t) => {
        const one = await Subscriber.open(t, browser, network, { options: { topics: `pub.${transport}`, transports: [transport], interval: 200 } });
        await one.opened();
        const stored = await one.get(`line.publish('pub.${transport}', {n: 1}, {id: 'k', event: 'approved'})`);
        const again = await one.get(`line.publish('pub.${transport}', {n: 2}, {id: 'k'})`);
        assert.equal(stored.duplicate, false);
        assert.deepEqual(again, { ...stored, duplicate: true });
        const refused = await one.get("line.publish('bad topic', 1).then(null, function (error) { return [error.code, error.message]; })");
        assert.equal(refused.length, 2);
        assert.notEqual(refused[0], 'unknown');
        await one.receives([{ n: 1 }]);
      });
    }

    await t.test('auto starts at once, ends on a socket, and switches under load without a fault', async (t) => {
      const one = await Subscriber.open(t, browser, network, { options: { topics: 'auto.>', interval: 100 } });
      await one.over(['ws']);
      const expected = [];
      let go = true;
      const load = (async () => { while (go) { await server.publish('auto.x', expected.length); expected.push(expected.length); } })();
      for (let i = 0; i <= 2 * TRANSPORTS.length || expected.length < 300; i++) {
        // Every one after every kind of other: forwards, then in steps of five.
        const to = TRANSPORTS[(i < TRANSPORTS.length ? i : 5 * i) % TRANSPORTS.length];
        await one.switchTo(to);
      }
      go = false;
      await load;
      await one.receives(expected);
    });

    await t.test('sse: "*" receives events of names without a listener', async (t) => {
      const one = await Subscriber.open(t, browser, network, { options: { topics: 'star', transports: ['sse'] } });
      await one.get("line.on('*', function (name, item) { if (name === 'unheard-of') window.star = item.data; }), 1");
      await one.opened();
      await server.publish('star', 42, { event: 'unheard-of' });
      await until('it is delivered', () => one.get('window.star === 42'));
    });

    await t.test('leaving and coming back by the back button', async (t) => {
      const one = await Subscriber.open(t, browser, network, { options: { topics: 'back' } });
      await one.over(['ws']);
      if (!await one.get('!!navigator.sendBeacon')) { t.skip('this browser has no beacons'); return; }
      const client = await one.get('line.clientId');
      const { cursor } = await server.publish('back', 1);
      await one.receives([1]);
      await one.page.goto(server.url + '/healthz');
      await until('the beacon has acknowledged', async () => (await (await fetch(`${server.url}/v1/clients/${client}`)).json()).acknowledged === cursor
        || JSON.stringify(await (await fetch(`${server.url}/v1/clients/${client}`)).json()).includes(cursor));
      await server.publish('back', 2);
      await one.page.goBack();
      // Restored from the cache, it goes on; loaded anew, there is a new page without a connection.
      if (await one.get('typeof line') === 'object') await one.receives([1, 2]);
    });

    await t.test('another origin: every transport, where it is allowed', async (t) => {
      const page = await Network.start(server);
      const other = await Server.start('--allow-origin', page.url);
      for (const transport of TRANSPORTS) {
        const one = await Subscriber.open(t, browser, page, { server: other.url, options: { topics: 'far', transports: [transport], interval: 200 } });
        await one.opened();
        const data = `over ${transport}`;
        await one.get(`line.publish('far', '${data}')`);
        await one.receives([data]);
        await one.close();
      }
      await other.stop();
      await page.stop();
    });

    await t.test('another origin, by form: the delivered event replaces the unreadable answer', async (t) => {
      const page = await Network.start(server);
      const other = await Server.start('--allow-origin', page.url);
      const one = await Subscriber.open(t, browser, page, { server: other.url, without: 'XMLHttpRequest,fetch,WebSocket,EventSource', options: { topics: 'form' } });
      await one.opened();
      const published = await one.get("line.publish('form', {by: 'form'}, {id: 'k'})");
      assert.match(published.cursor, /-1$/);
      await one.receives([{ by: 'form' }]);
      await one.close();
      await other.stop();
      await page.stop();
    });

    await t.test('another origin: refused where it is not allowed, with a message for the developer', async (t) => {
      const other = await Server.start();
      const transports = TRANSPORTS.filter((each) => !/jsonp/.test(each));   // a script tag has no origin to check
      const one = await Subscriber.open(t, browser, network, { server: other.url, options: { topics: 'far', transports } });
      const error = await until('an error is reported', () => one.get("controls.filter(function (t) { return t[0] === '$error'; })[0]"), 40000);
      assert.match(error[1].message, new RegExp(`--allow-origin ${network.url}`));
      assert.equal(await one.get("controls.filter(function (t) { return t[0] === '$open'; }).length"), 0);
      await other.stop();
    });

    // The client's own answer to browsers that lack these; no browser so old can be run here.
    const LANGUAGE = ['Array.prototype.forEach', 'Array.prototype.map', 'Array.prototype.filter', 'Array.prototype.indexOf', 'Array.isArray', 'Function.prototype.bind', 'Object.keys', 'Object.create', 'Object.assign', 'Date.now', 'String.prototype.trim'];
    const OLD = ['WebSocket', 'EventSource', 'fetch', 'Promise', 'ReadableStream', 'TextDecoder', 'AbortController', 'BroadcastChannel', 'crypto', ...LANGUAGE].join();
    const ERAS = [
      ['no WebSocket, EventSource, fetch, Promise', OLD, 'stream'],
      ['no XMLHttpRequest either', OLD + ',XMLHttpRequest', 'iframe'],
      ['no postMessage either', OLD + ',XMLHttpRequest,postMessage', 'jsonp'],
    ];
    for (const [era, without, expected] of ERAS) {
      // The scripts of WebKitGTK's driver run in the page, and need there what is taken away.
      await t.test(`an old browser: ${era}`, { skip: name === 'webkitgtk' }, async (t) => {
        const one = await Subscriber.open(t, browser, network, { without, options: { topics: 'old', interval: 200 } });
        await one.over([expected]);
        const supported = await one.get('Switchback.supported()');
        await server.publish('old', era);
        await one.receives([era]);
        await one.get(`line.publish('old', {by: 'form'}, {id: '${expected}'}, function (error, result) { window.fate = error ? error.code : result.cursor; }), 1`);
        assert.match(await until('the outcome of the publish is reported', () => one.get('window.fate')), /-\d+$/);
        const published = [era, { by: 'form' }];
        await one.receives(published);
        for (const to of [...TRANSPORTS, ...TRANSPORTS].filter((each) => supported.includes(each))) {
          const load = (async () => { for (const i of count(5)) { await server.publish('old', i); published.push(i); } })();
          await one.switchTo(to);
          await load;
        }
        for (const json of HOSTILE) { await server.publishRaw('old', json); published.push(JSON.parse(json)); }
        await one.receives(published);
        assert.equal(await one.get('typeof pwned'), 'undefined');
      });
    }
  });
}
