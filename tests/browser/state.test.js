// State in a real page against the real server: a page that is reloaded, a snapshot joined to its stream, and the recipe of
// docs/own-database.md as it is printed.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { engines, names, launch, newPage, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { Network } = require('./lib/network.js');

const ROOT = path.join(__dirname, '../..');
const STATE = fs.readFileSync(path.join(ROOT, 'static/state.js'), 'utf8');
const count = (n) => Array.from({ length: n }, (_, i) => i + 1);
const EVENTS = 100;
const RELOADS = 4;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/*
 * What a page has received is noted here at once: by a beacon, which outlives the page, or by a request that the listener waits
 * for. What a page notes by itself may be lost as it is left.
 */
const LISTEN = (options) => `(function () {
  window.line = Switchback.connect('', ${JSON.stringify(options)});
  line.on('message', function (item) {
    var address = '/received?' + item.data;
    if (navigator.sendBeacon && navigator.sendBeacon(address)) return;
    var request = new XMLHttpRequest();
    request.open('POST', address, false);
    request.send();
  });
  return 1;
}())`;

for (const name of engines) {
  test(`${name}: a page that is reloaded goes on exactly`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start('--store', 'memory');
    let received = [];
    const network = await Network.start(server, { routes: { '/received': (query) => { received.push(Number(query)); return ''; } } });
    t.after(async () => { await browser.close(); await network.stop(); await server.stop(); });

    for (const transport of ['auto', 'longpoll', 'jsonp']) {
      await t.test(`over ${transport}`, async (t) => {
        const topic = `reload.${transport}`;
        const options = { topics: topic, resume: topic, cursor: 'earliest', interval: 200, ...(transport !== 'auto' && { transports: [transport] }) };
        received = [];
        const page = await newPage(browser);
        t.after(() => page.close());
        await page.goto(network.url + '/__page');
        await page.evaluate(LISTEN(options));
        await until('it is open', () => page.evaluate("line.state === 'open'"));
        const publishing = (async () => { for (const n of count(EVENTS)) { await server.publish(topic, n); await pause(10); } })();
        for (let i = 1; i <= RELOADS; i++) {
          await until('more is received', () => received.length >= i * EVENTS / (RELOADS + 2));
          await page.goto(`${network.url}/__page?visit=${i}`);
          await page.evaluate(LISTEN(options));
        }
        await publishing;
        await until('all is received', () => received.length >= EVENTS)
          .catch((error) => { throw new Error(`${error.message}; missing ${count(EVENTS).filter((n) => !received.includes(n))}`); });
        // Beacons may overtake each other.
        assert.deepEqual(received.slice().sort((a, b) => a - b), count(EVENTS));
        await page.evaluate('line.close(), 1');
      });
    }
  });
}

for (const name of engines) {
  test(`${name}: a snapshot is joined to its stream, over every transport`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start('--store', 'memory');
    const network = await Network.start(server);
    t.after(async () => { await browser.close(); await network.stop(); await server.stop(); });
    const topics = count(300).map((n) => `gauge.${n}`);
    await server.publishEvents(topics.map((topic) => ({ topic, data: 0 })));
    const page = await newPage(browser);
    await page.goto(network.url + '/__page');
    await page.evaluate(`(function () { ${STATE}\n return 1; }())`);
    for (const transport of await page.evaluate('Switchback.supported()')) {
      await t.test(transport, async () => {
        const values = {};
        let stop = false;
        const changing = (async () => {
          for (let n = 1; !stop; n++) {
            const topic = topics[(n * 7) % topics.length];
            const event = n % 5 ? { topic, data: `${transport} ${n}` } : { topic, deleted: true };
            await server.publishEvents([event]);
            values[topic] = event.data;
            await pause(5);
          }
        })();
        await page.evaluate(`window.line = Switchback.connect('', { topics: 'other', transports: ['${transport}'], interval: 200 }), 1`);
        await until('it is open', () => page.evaluate("line.state === 'open'"));
        await page.evaluate("window.gauges = Switchback.state(line, 'gauge.*'), 1");
        await until('the snapshot is complete', () => page.evaluate('gauges.live'));
        await pause(300);
        stop = true;
        await changing;
        await server.publish('gauge.0', transport);
        await until('the last change is there', () => page.evaluate(`!!gauges.get('gauge.0') && gauges.get('gauge.0').data === '${transport}'`));
        const batch = await snapshot(server, 'gauge.*');
        const shown = JSON.parse(await page.evaluate('JSON.stringify(gauges.all())'));
        assert.deepEqual(Object.fromEntries(shown.map((item) => [item.topic, item.data])), batch);
        assert.ok(Object.keys(values).length > 10);
        await page.evaluate('gauges.close(), line.close(), 1');
      });
    }
    await page.close();
  });
}

// The newest event of each topic, folded here from the whole log.
async function snapshot(server, pattern) {
  const values = {};
  for (let cursor = 'earliest', more = true; more;) {
    const batch = await (await fetch(`${server.url}/v1/poll?topic=${pattern}&limit=1000&cursor=${cursor}`)).json();
    for (const { topic, data, deleted } of batch.events) { if (deleted) delete values[topic]; else values[topic] = data; }
    cursor = batch.cursor;
    more = batch.events.length > 0;
  }
  return values;
}

// ---------------------------------------------------------------- the recipe

const RECIPE = fs.readFileSync(path.join(ROOT, 'docs/own-database.md'), 'utf8');

// The block of code after `<!-- part -->`.
function block(part) {
  const found = new RegExp(`<!-- ${part} -->\\s*\`\`\`js\\n([^]*?)\`\`\``).exec(RECIPE);
  assert.ok(found, `docs/own-database.md has a block "${part}"`);
  return found[1];
}

// Rows with versions; each call takes a moment, before or after what it does.
class Database {
  constructor(random) { Object.assign(this, { rows: new Map(), random }); }

  wait() { return pause(this.random() * 8); }

  async update(id, status) {
    await this.wait();
    const row = { id, status, version: (this.rows.get(id) || { version: 0 }).version + 1 };
    this.rows.set(id, row);
    await this.wait();
    return row;
  }

  async all() {
    await this.wait();
    const rows = [...this.rows.values()];
    await this.wait();
    return rows;
  }
}

for (const name of names) {
  test(`${name}: the recipe for an application's own database loses no change`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start('--store', 'memory');
    const database = new Database(Math.random);
    const code = `${block('writer')}\n${block('reader')}\nreturn { setStatus, ordersWithCursor };`;
    const { setStatus, ordersWithCursor } = new Function('SWITCHBACK', 'database', code)(server.url, database);
    const network = await Network.start(server, { routes: { '/orders': async () => JSON.stringify(await ordersWithCursor()) } });
    t.after(async () => { await browser.close(); await network.stop(); await server.stop(); });
    let stop = false;
    const writers = count(4).map(async (writer) => {
      for (let n = 0; !stop; n++) await setStatus(`${writer}-${n % 20}`, `status ${n}`);
    });
    const pages = [];
    for (let i = 0; i < 6; i++) {
      const page = await newPage(browser);
      await page.goto(network.url + '/__page');
      await page.evaluate(`(function () { window.eval(${JSON.stringify(block('page'))}); return 1; }())`);
      pages.push(page);
      await pause(150);
    }
    await pause(500);
    stop = true;
    await Promise.all(writers);
    const expected = Object.fromEntries([...database.rows].map(([id, row]) => [id, row]));
    for (const page of pages) {
      await until('the page has the database', async () => JSON.stringify(sorted(await page.evaluate('orders'))) === JSON.stringify(sorted(expected)))
        .catch(async (error) => { throw new Error(`${error.message}; ${JSON.stringify(await page.evaluate('connection && [connection.state, connection.transport, connection.cursor, connection.stats]'))}`); });
    }
  });
}

const sorted = (rows) => Object.keys(rows).sort().map((id) => [id, rows[id].status, rows[id].version]);
