// Bad networks: the client ends on something that works, and nothing is lost or repeated.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { names, launch, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { Network, NETWORKS, mutable } = require('./lib/network.js');
const { Subscriber } = require('./lib/subscriber.js');

// How many networks are tried at once: most of each is waiting for a timeout.
const CONCURRENCY = 5;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const count = (n, from = 0) => Array.from({ length: n }, (_, i) => from + i);

for (const name of names) {
  test(`bad networks in ${name}`, { concurrency: CONCURRENCY }, async (t) => {
    const browser = await launch(name);
    const server = await Server.start();
    t.after(async () => { await browser.close(); await server.stop(); });
    let topics = 0;

    await Promise.all(Object.entries(NETWORKS).map(([title, { habits, ends, quiet }]) => {
      const topic = `net.${++topics}`;
      return t.test(title, async (t) => {
        const network = await Network.start(server, habits());
        t.after(() => network.stop());
        const one = await Subscriber.open(t, browser, network, { options: { topics: topic, cursor: 'earliest', interval: 500 } });
        const expected = [];
        const send = async (n) => { for (const i of count(n, expected.length)) { await server.publish(topic, i); expected.push(i); } };
        await one.opened();
        await send(30);
        await one.receives(expected);
        // Silence is what such networks punish; twice, since the first time is forgiven.
        for (let i = 0; quiet && i < 3; i++) { await pause(quiet); await send(5); await one.receives(expected); }
        // Each of four streams is cut twice before it is left out.
        await one.over(ends, 30000);
        await send(100);
        await one.receives(expected);
        assert.equal(await one.get('line.stats.gaps'), 0);
      });
    }));

    // Six connections are all that a browser has for one host.
    await t.test('eight tabs where no WebSocket gets through: all receive, and the page\'s own request is answered', async (t) => {
      const network = await Network.start(server, { noUpgrade: true });
      t.after(() => network.stop());
      const tabs = [];
      for (let i = 0; i < 8; i++) {
        tabs.push(await Subscriber.open(t, browser, network, { options: { topics: 'tabs', interval: 500 } }));
        await tabs[i].opened();
      }
      await server.publish('tabs', 'to all');
      for (const tab of tabs) await tab.receives(['to all']);
      await tabs[0].get("window.own = false, fetch('/client.js').then(function () { own = true; }), 1");
      await until('the page\'s own request is answered', () => tabs[0].get('own'));
    });

    await t.test('a silent stream is replaced within two heartbeats', async (t) => {
      const quick = await Server.start('--heartbeat', '1s');
      const habits = mutable();
      const network = await Network.start(quick, habits);
      // What is left open when it fails would keep the run from ending.
      t.after(async () => { await network.stop(); await quick.stop(); });
      for (const transport of ['ws', 'sse', 'stream', 'iframe']) {
        const one = await Subscriber.open(t, browser, network, { options: { topics: 'mute.' + transport, transports: [transport, 'longpoll'] } });
        await one.over([transport]);
        await quick.publish('mute.' + transport, 'before');
        await one.receives(['before']);
        habits.muteAll();
        const since = Date.now();
        await quick.publish('mute.' + transport, 'while it is mute');
        await one.receives(['before', 'while it is mute']);
        assert.ok(Date.now() - since < 4500, `${transport}: took ${Date.now() - since} ms`);
        assert.equal(await one.get("controls.filter(function (t) { return t[1].code === 'silent'; }).length"), 1);
        await one.close();
      }
    });

    await t.test('the server is killed and restarted under the page, three times', async (t) => {
      const network = await Network.start(server);
      t.after(() => network.stop());
      const all = await Promise.all(['ws', 'sse', 'longpoll', 'poll'].map((transport) => Subscriber.open(t, browser, network, { options: { topics: 'kill', transports: [transport], interval: 300 } })));
      for (const one of all) await one.opened();
      const expected = [];
      for (const signal of ['SIGKILL', 'SIGTERM', 'SIGKILL']) {
        for (const i of count(20, expected.length)) { await server.publish('kill', i); expected.push(i); }
        await server.kill(signal);
        await until('a page says that the server is away', () => all[0].get("line.state === 'connecting'"));
        await server.boot();
        for (const i of count(20, expected.length)) { await server.publish('kill', i); expected.push(i); }
        for (const one of all) await one.receives(expected, 30000);
      }
    });
  });
}
