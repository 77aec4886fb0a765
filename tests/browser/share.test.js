// Real tabs of one real browser: how many connections the server sees, whose they are, and what a closed tab costs.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { names, launch, newPage, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { Network } = require('./lib/network.js');
const { sign, keyed } = require('./lib/tokens.js');

const SHARE = fs.readFileSync(path.join(__dirname, '../../static/share.js'), 'utf8');
const count = (n) => Array.from({ length: n }, (_, i) => i + 1);

for (const name of names) {
  test(`several tabs in ${name}`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start();
    const network = await Network.start(server);
    t.after(async () => { await browser.close(); await network.stop(); await server.stop(); });

    async function tab(topic, { of = network, token } = {}) {
      const page = await newPage(browser);
      await page.goto(of.url + '/__page');
      await page.evaluate(SHARE);
      await page.evaluate(`window.seen = []; window.line = Switchback.connect('', { topics: '${topic}', share: 'test', token: ${JSON.stringify(token)} });
        line.on('*', function (name, item) { if (name.charAt(0) !== '$') seen.push(item.data); }); 0`);
      await until('it shares', () => page.evaluate("line.transport === 'shared' && line.state === 'open'"));
      return page;
    }

    const receives = (page, expected) => until(`${expected.length} events are received`, async () => (await page.evaluate('seen.length')) >= expected.length).then(async () => assert.deepEqual(await page.evaluate('seen'), expected));

    await t.test('share one socket, also after the leading one is closed', async () => {
      const tabs = [];
      for (const topic of ['tab.>', 'tab.a', 'tab.*']) tabs.push(await tab(topic));
      await until('one socket is left', () => network.upgraded === 1);
      const [first, second, third] = tabs;
      for (const i of count(10)) await server.publish(i % 2 ? 'tab.a' : 'tab.b', i);
      await receives(first, count(10));
      await receives(second, [1, 3, 5, 7, 9]);
      await receives(third, count(10));

      // The leading tab goes, while events come.
      await Promise.all([first.close(), (async () => { for (const i of count(20)) if (i > 10) await server.publish('tab.a', i); })()]);
      await receives(third, count(20));
      await receives(second, [1, 3, 5, 7, 9, ...count(20).slice(10)]);
      for (const page of [second, third]) await until('it shares', () => page.evaluate("line.transport === 'shared' && line.state === 'open'"));
      await until('one socket is left', () => network.upgraded === 1);

      for (const page of [second, third]) await page.evaluate('line.close(); 0');
      await until('no socket is left', () => network.upgraded === 0);
      for (const page of [second, third]) await page.close();
    });

    await t.test('tokens of one user share, another user has another connection', async (t) => {
      const asking = await Server.start(...keyed(t));
      const other = await Network.start(asking);
      t.after(async () => { await other.stop(); await asking.stop(); });
      asking.token = sign({ publish: ['>'] }, 600);
      const of = (sub, seconds) => ({ of: other, token: sign({ sub, subscribe: ['tab.>'] }, seconds) });
      const headers = { Authorization: `Bearer ${sign({ admin: true }, 600)}` };
      const patterns = async () => {
        const { clients } = await (await fetch(asking.url + '/v1/clients', { headers })).json();
        return clients.filter((each) => each.transports.length).map((each) => each.patterns.slice().sort()).sort();
      };
      const become = (expected) => until(`the server has ${JSON.stringify(expected)}`, async () => JSON.stringify(await patterns()) === JSON.stringify(expected));

      const first = await tab('tab.a', of('li', 600));
      const second = await tab('tab.b', of('li', 900));
      await become([['tab.a', 'tab.b']]);
      const third = await tab('tab.c', of('mo', 600));
      await become([['tab.a', 'tab.b'], ['tab.c']]);
      await asking.publish('tab.c', 'for mo');
      await receives(third, ['for mo']);

      // A crash gives no notice; Firefox's driver can't cause one.
      if (name === 'chromium') (await second.createCDPSession()).send('Page.crash').catch(() => {});
      else await second.close();
      await become([['tab.a'], ['tab.c']]);
      await first.evaluate('line.close(); 0');
      await become([['tab.c']]);
      await first.close();
      await third.close();
    });
  });
}
