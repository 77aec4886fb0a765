// Tokens in a real browser: on every transport an expired token is replaced by the page's next one, and no event is lost.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { names, launch, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { Network } = require('./lib/network.js');
const { Subscriber } = require('./lib/subscriber.js');
const { sign, keyed } = require('./lib/tokens.js');

// How many subtests run at once: most of each is waiting for a token to expire.
const CONCURRENCY = 4;

const TRANSPORTS = ['ws', 'sse', 'stream', 'longpoll', 'iframe', 'jsonp', 'iframe-poll', 'poll', 'jsonp-poll'];

for (const name of names) {
  test(`tokens in ${name}`, { concurrency: CONCURRENCY }, async (t) => {
    const browser = await launch(name);
    const server = await Server.start(...keyed(t), '--public-subscribe', 'public.>');
    server.token = sign({ publish: ['>'] }, 3600);
    t.after(async () => { await browser.close(); await server.stop(); });

    // One subtest for each transport, at an address of its own: a browser has only six connections to one, for all its pages.
    const each = (title, run) => TRANSPORTS.map((transport) => t.test(`${transport}: ${title}`, async (t) => {
      const network = await Network.start(server);
      t.after(() => network.stop());
      await run(t, transport, network);
    }));

    await Promise.all([
      ...each('a token expires, the page provides the next, no event is lost', async (t, transport, network) => {
        const topic = `kept.${transport}`;
        const mint = () => sign({ sub: 'li', subscribe: ['kept.*'] }, 3);
        const one = await Subscriber.open(t, browser, network, { mint, options: { topics: topic, transports: [transport], cursor: 'now', interval: 100 } });
        await one.opened();
        let sent = 0;
        await until('four tokens were requested', async () => {
          await server.publish(topic, sent++);
          return (await one.get('tokenCalls')) >= 4;
        }, 60000);
        await server.publish(topic, sent++);
        await one.receives(Array.from({ length: sent }, (_, i) => i));
        assert.equal(await one.get("controls.filter(function (one) { return one[0] === '$close'; }).length"), 0);
      }),

      ...each('a pattern that is not granted is refused, and none of its events delivered', async (t, transport, network) => {
        const mint = () => sign({ subscribe: ['kept.*'] }, 600);
        const one = await Subscriber.open(t, browser, network, { mint, options: { topics: 'secret.a', transports: [transport], interval: 100 } });
        const refusal = await until('the refusal is reported', async () => (await one.get('controls')).find(([event]) => event === '$error'));
        // The browser keeps to itself why a socket or an EventSource does not open.
        if (!['ws', 'sse'].includes(transport)) assert.equal(refusal[1].code, 'forbidden', JSON.stringify(refusal));
        assert.deepEqual(await one.data(), []);
      }),

      ...each('an expired token is requested once more', async (t, transport, network) => {
        let minted = 0;
        const mint = () => sign({ subscribe: ['kept.*'] }, minted++ ? 600 : -1);
        const one = await Subscriber.open(t, browser, network, { mint, options: { topics: `kept.${transport}`, transports: [transport], cursor: 'now', interval: 100 } });
        await one.opened(30000);
        assert.equal(await one.get('tokenCalls'), 2);
      }),

      ...each('public topics are read without a token', async (t, transport, network) => {
        const one = await Subscriber.open(t, browser, network, { options: { topics: `public.${transport}`, transports: [transport], cursor: 'now', interval: 100 } });
        await one.opened();
        await server.publish(`public.${transport}`, 1);
        await one.receives([1]);
      }),
    ]);

    await t.test('a page publishes only with its token', async (t) => {
      const network = await Network.start(server);
      t.after(() => network.stop());
      const mint = () => sign({ subscribe: ['kept.*'], publish: ['kept.mine'] }, 600);
      const one = await Subscriber.open(t, browser, network, { mint, options: { topics: 'kept.mine', cursor: 'now' } });
      await one.opened();
      assert.equal((await one.get("line.publish('kept.mine', 1)")).duplicate, false);
      const refused = await one.get("line.publish('other', 1).then(null, function (error) { return error.code; })");
      assert.equal(refused, 'forbidden');
      await one.receives([1]);
    });
  });
}
