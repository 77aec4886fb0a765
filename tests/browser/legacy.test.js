// The old browsers' page in every engine there is, the old one (QtWebKit) above all: it opens, publishes when its button is
// pressed, and every lane receives all of it.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { engines, launch, newPage, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');

const LANES = ['iframe', 'jsonp', 'iframe-poll', 'jsonp-poll', 'longpoll', 'poll'];

for (const name of engines) {
  test(`old browsers' page in ${name}`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start();
    t.after(async () => { await browser.close(); await server.stop(); });
    const page = await newPage(browser);
    await page.goto(server.url + '/legacy.html');
    const cell = (lane, index) => page.evaluate(`document.getElementById('lane-${lane}').getElementsByTagName('td')[${index}].innerHTML`);
    const press = (lane) => page.evaluate(`document.getElementById('lane-${lane}').getElementsByTagName('button')[0].click(), 1`);

    for (const lane of LANES.slice(2)) await press(lane);
    for (const lane of LANES) await until(`${lane} is open`, async () => (await cell(lane, 0)) === 'open', 30000);
    await page.evaluate("document.getElementById('tick').click(), 1");
    for (const lane of LANES) await until(`${lane} receives`, async () => Number(await cell(lane, 1)) >= 3, 30000);

    // What is disconnected goes on where it was, and its counters with it.
    await press('iframe');
    await until('it is closed', async () => (await cell('iframe', 0)) === 'closed');
    const before = Number(await cell('iframe', 1));
    const others = Number(await cell('longpoll', 1));
    await until('the others go on', async () => Number(await cell('longpoll', 1)) > others + 1);
    await press('iframe');
    await until('it has caught up', async () => Number(await cell('iframe', 1)) > before + 1);
    for (const lane of LANES) assert.deepEqual([await cell(lane, 2), await cell(lane, 3)], ['0', '0'], `${lane}: lost, repeated`);
  });
}
