// The page in the README and the example page, as they are, in a real browser: over reloads each event is shown once.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { names, launch, newPage, collectFaults, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');

const ROOT = path.join(__dirname, '../..');
const [, README] = fs.readFileSync(path.join(ROOT, 'README.md'), 'utf8').match(/```html\n([^]*?)```/);
const EXAMPLE = fs.readFileSync(path.join(ROOT, 'examples/page/index.html'), 'utf8');

// A web server of another origin than the event server's, with one page.
async function pageServer(t, html) {
  let page = '';
  const server = http.createServer((request, response) => { response.setHeader('Content-Type', 'text/html; charset=utf-8'); response.end(request.url === '/' ? page : ''); });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => { server.close(); server.closeAllConnections(); });
  const url = `http://127.0.0.1:${server.address().port}`;
  const events = await Server.start('--allow-origin', url);
  t.after(() => events.stop());
  page = `<!doctype html><meta charset="utf-8">${html.replaceAll('http://127.0.0.1:8080', events.url)}`;
  return { url, events };
}

for (const name of names) {
  test(`pages of the documentation in ${name}`, async (t) => {
    const browser = await launch(name);
    t.after(() => browser.close());

    async function open(t, html) {
      const { url, events } = await pageServer(t, html);
      const page = await newPage(browser);
      t.after(() => page.isClosed() || page.close());
      collectFaults(page);
      await page.goto(url);
      const rows = () => page.$$eval('#orders li', (nodes) => nodes.map((node) => node.textContent));
      const shows = (wanted) => until(`it shows ${wanted}`, async () => JSON.stringify(await rows()) === JSON.stringify(wanted));
      return { page, url, events, shows };
    }

    await t.test('the README\'s page goes on after the last event that it handled', async (t) => {
      const { page, url, events, shows } = await open(t, README);
      const approve = (order, by) => events.publish(`orders.${order}.status`, { by }, { event: 'approved' });
      await approve(1, 'li');
      await shows(['orders.1.status by li']);
      await page.goto('about:blank');
      await approve(2, 'mo');
      await page.goto(url);
      await shows(['orders.2.status by mo']);
      await approve(3, 'al');
      await shows(['orders.2.status by mo', 'orders.3.status by al']);
      assert.deepEqual(page.faults, []);
    });

    await t.test('the example page keeps what it shows, too', async (t) => {
      const { page, url, events, shows } = await open(t, EXAMPLE);
      await events.publish('orders.1.status', 1, { event: 'created' });
      await shows(['orders.1.status: created']);
      await page.goto('about:blank');
      await events.publish('orders.1.status', 1, { event: 'paid' });
      await events.publish('orders.2.status', 1, { event: 'created' });
      await page.goto(url);
      await shows(['orders.1.status: paid', 'orders.2.status: created']);
      assert.equal(await page.evaluate('line.stats.received'), 2, 'only what came after the cursor');
      await page.reload();
      await shows(['orders.1.status: paid', 'orders.2.status: created']);
      assert.deepEqual(page.faults, []);
    });
  });
}
