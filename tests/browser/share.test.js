// Real tabs of one real browser: how many connections the server sees, and what a closed tab costs.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { names, launch, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { Network } = require('./lib/network.js');

const SHARE = fs.readFileSync(path.join(__dirname, '../../static/share.js'), 'utf8');
const count = (n) => Array.from({ length: n }, (_, i) => i + 1);

for (const name of names) {
  test(`several tabs in ${name}`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start();
    const network = await Network.start(server);
    t.after(async () => { await browser.close(); await network.stop(); await server.stop(); });

    async function tab(topic) {
      const page = await browser.newPage();
      await page.goto(network.url + '/__page');
      await page.evaluate(SHARE);
      await page.evaluate(`window.seen = []; window.line = Switchback.connect('', { topics: '${topic}', share: 'test' });
        line.on('*', function (name, item) { if (name.charAt(0) !== '$') seen.push(item.data); }); 0`);
      return page;
    }

    const shared = (page) => until('it shares', () => page.evaluate("line.transport === 'shared' && line.state === 'open'"));
    const hears = (page, expected) => until(`it hears ${expected.length}`, async () => (await page.evaluate('seen.length')) >= expected.length).then(async () => assert.deepEqual(await page.evaluate('seen'), expected));

    const tabs = [];
    for (const topic of ['tab.>', 'tab.a', 'tab.*']) { tabs.push(await tab(topic)); await shared(tabs[tabs.length - 1]); }
    await until('one socket is left', () => network.upgraded === 1);
    const [first, second, third] = tabs;
    for (const i of count(10)) await server.publish(i % 2 ? 'tab.a' : 'tab.b', i);
    await hears(first, count(10));
    await hears(second, [1, 3, 5, 7, 9]);
    await hears(third, count(10));

    // The leading tab goes, while events come.
    await Promise.all([first.close(), (async () => { for (const i of count(20)) if (i > 10) await server.publish('tab.a', i); })()]);
    await hears(third, count(20));
    await hears(second, [1, 3, 5, 7, 9, ...count(20).slice(10)]);
    for (const page of [second, third]) await shared(page);
    await until('one socket is left', () => network.upgraded === 1);
  });
}
