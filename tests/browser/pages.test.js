// The pages, used as a person would. Screenshots go to $SCREENSHOTS, to be looked at.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { names, launch, newPage, collectFaults, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { sign, keyed } = require('./lib/tokens.js');

const TRANSPORTS = ['ws', 'sse', 'stream', 'longpoll', 'iframe', 'jsonp', 'iframe-poll', 'poll', 'jsonp-poll'];
const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const HOSTILE = '</script><img src=x onerror="window.pwned=1">\u2028<b>bold</b>';

for (const name of names) {
  test(`pages in ${name}`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start();
    t.after(async () => { await browser.close(); await server.stop(); });

    async function visit(t, address, { width = 1280, height = 900, of = server } = {}) {
      const page = await newPage(browser);
      t.after(() => page.isClosed() || page.close());
      collectFaults(page);
      await page.setViewport({ width, height });
      await page.goto(of.url + address);
      return page;
    }

    const text = (page, selector) => page.$eval(selector, (node) => node.textContent);
    const number = async (page, selector) => Number((await text(page, selector)).replace(/\D/g, ''));
    const lane = (page, which, fact) => number(page, `[data-lane="${which}"] .${fact} dd`);
    // The whole page, in a window as high as that: charts out of sight are not drawn.
    async function shoot(page, title) {
      await page.bringToFront();
      if (!process.env.SCREENSHOTS) return;
      const before = page.viewport();
      await page.setViewport({ ...before, height: await page.evaluate('document.documentElement.scrollHeight') });
      await page.evaluate('new Promise((resolve) => setTimeout(resolve, 500))');
      await page.screenshot({ path: path.join(process.env.SCREENSHOTS, `${name}-${title}.png`) });
      await page.setViewport(before);
    }
    const click = (page, selector) => page.$eval(selector, (node) => node.click());
    // Events a second, from the comparison page; one a second, from the old browsers'. Nothing comes before that.
    const load = (page, rate) => page.$eval('#rate', (node, value) => { node.value = value; node.dispatchEvent(new Event('input')); }, rate);
    const tick = (page) => page.$eval('#tick', (node) => { if (node.getAttribute('aria-pressed') === 'false') node.click(); });

    await t.test('comparison: each lane by itself', async (t) => {
      const page = await visit(t, '/compare');
      await until('the auto lane runs on a socket', async () => (await text(page, '#auto .mono')) === 'on ws');
      await load(page, 5);
      for (const which of TRANSPORTS) {
        const button = `[data-lane="${which}"] .buttons button`;
        if ((await text(page, button)) === 'Connect') await click(page, button);
        await until(`${which} receives`, async () => (await lane(page, which, 'received')) >= 3);
        assert.equal(await lane(page, which, 'lost'), 0);
        assert.equal(await lane(page, which, 'repeated'), 0);
        await click(page, button);
        await until(`${which} is closed`, async () => (await text(page, `[data-lane="${which}"] .state`)) === 'closed');
      }
      assert.deepEqual(page.faults, []);
    });

    await t.test('comparison: all at once, switching and breaking under load, nothing lost', async (t) => {
      const page = await visit(t, '/compare');
      await click(page, '#all');
      await load(page, 30);
      for (const which of TRANSPORTS) await until(`${which} receives`, async () => (await lane(page, which, 'received')) > 20);
      // All six connections are in use now, and scripts wait the longest for one: make some room.
      for (const which of ['jsonp', 'iframe']) await click(page, `[data-lane="${which}"] .buttons button`);
      for (const to of ['poll', 'ws', 'iframe-poll', 'jsonp-poll', 'auto']) {
        await page.select('#switch-to', to);
        await click(page, '#switch');
        await until(`auto is on ${to}`, async () => [`on ${to === 'auto' ? 'ws' : to}`].includes(await text(page, '#auto .mono')));
      }
      await click(page, '#cut');
      await until('it is back', async () => (await text(page, '#auto .state')) === 'open');
      await click(page, '#pause');
      await until('it is paused', async () => (await text(page, '#auto .state')) === 'paused');
      await until('it is back', async () => (await text(page, '#auto .state')) === 'open');
      await page.$eval('#text', (node, value) => { node.value = value; }, HOSTILE);
      await click(page, '#publish button');
      await until('it is delivered', async () => (await text(page, '#published')).includes('onerror'));
      const before = await number(page, '#auto-received');
      await until('the load goes on', async () => (await number(page, '#auto-received')) > before + 30);
      for (const fault of ['lost', 'repeated']) {
        assert.equal(await number(page, `#auto-${fault}`), 0, `auto: ${fault}`);
        for (const which of TRANSPORTS) assert.equal(await lane(page, which, fault), 0, `${which}: ${fault}`);
      }
      assert.equal((await page.$$('#costs tr')).length, TRANSPORTS.length);
      assert.equal(await page.evaluate('typeof pwned'), 'undefined');
      await shoot(page, 'comparison');
      assert.deepEqual(page.faults, []);
    });

    await t.test('comparison: shows an error while the server is down, and recovers', async (t) => {
      const page = await visit(t, '/compare');
      await load(page, 5);
      await until('it receives events', async () => (await number(page, '#auto-received')) > 2);
      await server.kill();
      await until('it says so', async () => /No answer|connecting/.test(await text(page, '#notice')));
      await server.boot();
      const before = await number(page, '#auto-received');
      await until('it goes on', async () => (await number(page, '#auto-received')) > before, 40000);
      await until('the notice is gone', async () => (await text(page, '#notice')) === '', 40000);
      assert.equal(await number(page, '#auto-lost'), 0);
    });

    await t.test('comparison: on a phone, by keyboard', async (t) => {
      const page = await visit(t, '/compare', { width: 390, height: 844 });
      await load(page, 5);
      await until('it receives events', async () => (await number(page, '#auto-received')) > 2);
      assert.ok(await page.evaluate('document.documentElement.scrollWidth <= 390'), 'nothing sticks out');
      // To the first lane's button and press it, with nothing but keys.
      for (let i = 0; i < 40; i++) {
        await page.keyboard.press('Tab');
        if (await page.evaluate("document.activeElement.getAttribute('aria-label') === 'Disconnect ws'")) break;
      }
      await page.keyboard.press('Enter');
      await until('it is disconnected', async () => (await text(page, '[data-lane=ws] .state')) === 'closed');
      await shoot(page, 'comparison-phone');
      // On to the table of costs, which is wider than the screen: the arrow keys move it.
      for (let i = 0; i < 60 && !(await page.evaluate("document.activeElement.className === 'scroll'")); i++) await page.keyboard.press('Tab');
      await page.keyboard.press('ArrowRight');
      await until('the table scrolls', async () => (await page.$eval('.scroll', (node) => node.scrollLeft)) > 0);
    });

    await t.test('the pages publish only on request', async (t) => {
      const quiet = await Server.start();
      t.after(() => quiet.stop());
      const page = await visit(t, '/compare', { of: quiet });
      await until('the auto lane runs on a socket', async () => (await text(page, '#auto .mono')) === 'on ws');
      const old = await visit(t, '/legacy.html', { of: quiet });
      for (const which of ['iframe', 'jsonp']) await until(`${which} is open`, async () => (await text(old, `#lane-${which} td`)) === 'open');
      await visit(t, '/review.html?as=reviewer&name=Li', { of: quiet });
      await visit(t, '/dashboard.html', { of: quiet });
      for (const [i, each] of [page, old].entries()) {
        await each.$eval('#publish button', (node) => node.click());
        await until('it is stored', async () => new RegExp(`-${i + 1}$`).test(await text(each, '#published')));
      }
    });

    await t.test('comparison: after each button delivery resumes, and counters keep their values', async (t) => {
      const page = await visit(t, '/compare');
      const received = () => number(page, '#auto-received');
      const more = async (than) => { await until('events come', async () => (await received()) > than); return received(); };
      await load(page, 30);
      let before = await more(40);
      for (const button of ['#cut', '#pause', '#replay']) {
        await click(page, button);
        assert.ok((await received()) >= before, `${button} keeps what was counted`);
        await until('it is back', async () => (await text(page, '#auto .state')) === 'open');
        before = await more(Math.max(before, await received()));
      }
      assert.equal(await number(page, '#auto-replayed'), 20);
      const toggle = '[data-lane="ws"] .buttons button';
      await click(page, toggle);
      const kept = await lane(page, 'ws', 'received');
      assert.ok(kept > 0);
      assert.match(await text(page, '[data-lane="ws"] .trouble'), /Closed at .*the counters stay/);
      await more(before + 10);
      await click(page, toggle);
      // What was published meanwhile comes, too: as much as the others have.
      await until('it has caught up', async () => (await lane(page, 'ws', 'received')) >= before + 10);
      for (const fault of ['lost', 'repeated']) {
        assert.equal(await number(page, `#auto-${fault}`), 0, `auto: ${fault}`);
        assert.equal(await lane(page, 'ws', fault), 0, `ws: ${fault}`);
      }
      assert.deepEqual(page.faults, []);
    });

    await t.test('comparison: the cost of drawing does not depend on the number of events', async (t) => {
      const page = await visit(t, '/compare');
      await page.evaluate(`
        window.counts = { draws: 0, styles: 0, rects: 0 };
        const now = draw.now, style = window.getComputedStyle, rect = CanvasRenderingContext2D.prototype.fillRect;
        draw.now = function () { counts.draws += 1; return now.call(draw); };
        window.getComputedStyle = function (...all) { counts.styles += 1; return style.apply(window, all); };
        CanvasRenderingContext2D.prototype.fillRect = function (...all) { counts.rects += 1; return rect.apply(this, all); };
        window.began = performance.now(); 0`);
      await load(page, 100);
      await until('many have come', async () => (await number(page, '#auto-received')) > 100);
      const nodes = () => page.evaluate("document.querySelectorAll('*').length - document.querySelectorAll('#log li').length");
      const first = await nodes();
      await until('many more have come', async () => (await number(page, '#auto-received')) > 600, 40000);
      assert.equal(await nodes(), first);
      const { draws, styles, rects, elapsed } = await page.evaluate('({ ...counts, elapsed: performance.now() - began })');
      assert.ok((draws - 1) * 250 <= elapsed, `${draws} draws in ${elapsed} ms`);
      assert.equal(styles, 0);
      // Ten lanes of a hundred columns, each good or bad, and the comparison's chart.
      assert.ok(rects > 0 && rects <= draws * (10 * 200 + 50), `${rects} rectangles in ${draws} draws`);
    });

    await t.test('dashboard: 500 gauges, the same in every window, drawn once a frame', async (t) => {
      const wide = await visit(t, '/dashboard.html');
      await until('it is live', async () => (await text(wide, '#state')).startsWith('live'));
      const topics = Array.from({ length: 500 }, (_, i) => `dashboard.cpu-${String(i).padStart(3, '0')}`);
      await server.publishEvents(topics.map((topic, i) => ({ topic, data: i / 5 })));
      const tiles = (page) => page.$$eval('.gauge', (nodes) => nodes.map((node) => node.firstChild.textContent + ' ' + node.querySelector('b').textContent));
      await until('it shows all', async () => (await number(wide, '#n-gauges')) === 500);
      const phone = await visit(t, '/dashboard.html', { width: 390, height: 844 });
      await until('so does a page that comes later', async () => (await number(phone, '#n-gauges')) === 500);
      await phone.select('#pace', '250');
      await until('it is live at another pace', async () => (await text(phone, '#state')).startsWith('live'));
      const expected = topics.map((topic, i) => `${topic.slice('dashboard.'.length)} ${(i / 5).toFixed(1)}`);
      for (const page of [wide, phone]) assert.deepEqual(await tiles(page), expected);
      assert.ok(await phone.evaluate('document.documentElement.scrollWidth <= 390'), 'nothing sticks out');

      // Each changed tile once a frame, however often it changed.
      await wide.bringToFront();
      await wide.evaluate("window.frames = 0, window.most = 0, (() => { const draw = gauges.draw; gauges.draw = function () { frames += 1; most = Math.max(most, gauges.marked.size); draw.call(gauges); }; })()");
      for (let i = 0; i < 20; i++) await server.publishEvents(Array.from({ length: 50 }, (_, n) => ({ topic: topics[n % 10], data: i })));
      await server.publishEvents([{ topic: topics[0], deleted: true }, { topic: topics[1], data: 99 }, { topic: topics[2], data: 0 }]);
      await until('the last change is there', async () => (await tiles(wide))[0] === 'cpu-001 99.0' && (await tiles(wide))[1] === 'cpu-002 0.0');
      const { frames, most } = await wide.evaluate('({ frames, most })');
      assert.ok(most <= 10 && frames > 0, `${most} tiles in a frame`);
      // A page in the background draws once it is seen again.
      await phone.bringToFront();
      await until('also where it is slower', async () => (await tiles(phone))[0] === 'cpu-001 99.0');
      assert.equal((await tiles(phone)).length, 499);
      assert.equal(await wide.$eval('.gauge', (node) => node.className), 'gauge high');

      // Its own buttons.
      await click(phone, '#remove');
      for (const page of [phone, wide]) {
        await page.bringToFront();
        await until('ten are gone', async () => (await number(page, '#n-gauges')) === 489);
      }
      await click(wide, '#feed');
      await until('gauges of its own come', async () => (await number(wide, '#n-gauges')) > 520);
      await shoot(wide, 'dashboard');
      await shoot(phone, 'dashboard-phone');
      await click(wide, '#feed');
      const known = (page) => page.evaluate("store.all().map((item) => item.topic.slice('dashboard.'.length) + ' ' + item.data.toFixed(1))");
      for (const page of [wide, phone]) {
        await page.bringToFront();
        await until('it shows what the other page knows', async () => JSON.stringify(await tiles(page)) === JSON.stringify(await known(page === wide ? phone : wide)));
      }
      for (const page of [wide, phone]) assert.deepEqual(page.faults, []);
    });

    await t.test('review desk: submission, verdict, chat', async (t) => {
      const ann = await visit(t, '/review.html?as=submitter&name=Ann');
      const bob = await visit(t, '/review.html?as=submitter&name=Bob', { width: 390, height: 844 });
      const li = await visit(t, '/review.html?as=reviewer&name=Li');
      const items = (page, list) => page.$$eval(`${list} .item`, (nodes) => nodes.map((node) => [node.querySelector('h3').textContent, node.querySelector('.verdict').textContent.slice(2)]));
      const submit = async (page, title) => {
        await page.bringToFront();
        await page.type('#title', title);
        await page.click('#submit button');
        await until('it is listed', async () => (await items(page, '#own')).some(([each]) => each === title));
      };
      await submit(ann, 'Travel costs');
      await submit(bob, 'A bicycle');
      await submit(ann, HOSTILE.replace('\u2028', ' '));
      await li.bringToFront();
      await until('the reviewer sees all three', async () => (await items(li, '#queue')).length === 3);
      assert.equal(await number(li, '#count'), 3);

      await li.type('#queue .item:first-child input', 'fine');
      await li.click('#queue .item:first-child .good');
      await until('it is decided', async () => (await items(li, '#queue')).length === 2);
      await ann.bringToFront();
      await until('the submitter sees the verdict', async () => (await items(ann, '#own')).some(([title, verdict]) => title === 'Travel costs' && verdict === 'Approved'));
      assert.equal(await number(ann, '#count'), 1);
      assert.match(await ann.title(), /^\(1\)/);
      await ann.click('#bell');
      assert.equal(await number(ann, '#count'), 0);

      // The tab is closed before the verdict, and opened again after it.
      await bob.close();
      await li.bringToFront();
      await li.click('#queue .item:first-child .bad');
      await until('it is decided', async () => (await items(li, '#queue')).length === 1);
      const again = await visit(t, '/review.html?as=submitter&name=Bob', { width: 390, height: 844 });
      await until('the verdict is there', async () => JSON.stringify(await items(again, '#own')) === JSON.stringify([['A bicycle', 'Rejected']]));

      await again.type('#line', 'Why?');
      await again.click('#say button');
      await li.bringToFront();
      await li.select('#with', 'bob');
      await until('the question arrives', async () => (await text(li, '#chat')).includes('Why?'));
      await li.type('#line', 'Ask <b>HR</b>.');
      await li.click('#say button');
      await again.bringToFront();
      await until('the answer arrives, as text', async () => (await text(again, '#chat')).includes('Ask <b>HR</b>.'));
      await ann.bringToFront();
      assert.equal(await text(ann, '#chat'), '', 'no other client receives it');

      assert.equal(await number(li, '#n-approved'), 1);
      assert.equal(await number(li, '#n-rejected'), 1);
      await shoot(li, 'review-desk');
      await shoot(again, 'review-phone');
      for (const page of [ann, again, li]) {
        assert.equal(await page.evaluate('typeof pwned'), 'undefined');
        assert.deepEqual(page.faults, []);
      }
    });

    await t.test('review desk: shows a bounded part of a long history, with a notice', async (t) => {
      const long = await Server.start();
      t.after(() => long.stop());
      const submitted = Array.from({ length: 120 }, (_, i) => ({ topic: 'desk.eve', event: 'submitted', data: { item: `i${i}`, title: `No. ${i}` } }));
      const said = Array.from({ length: 300 }, (_, i) => ({ topic: 'desk.eve', event: 'chat', data: { from: 'Eve', text: `Line ${i}` } }));
      for (const events of [submitted, said]) {
        const response = await fetch(`${long.url}/v1/events`, { method: 'POST', headers: long.headers(), body: JSON.stringify(events) });
        assert.equal(response.status, 201);
      }
      const page = await visit(t, '/review.html?as=reviewer&name=Li', { of: long });
      await until('all of it is read', async () => (await text(page, '#n-waiting')) === '120' && (await text(page, '#chat')).includes('Line 299'));
      assert.equal((await page.$$('#queue .item')).length, 50);
      assert.equal(await text(page, '#queue-rest'), 'and 70 more');
      assert.equal((await page.$$('#chat li')).length, 200);
    });

    await t.test('review desk: each person on a different transport', async (t) => {
      const ann = await visit(t, '/review.html?as=submitter&name=Eve');
      const li = await visit(t, '/review.html?as=reviewer&name=Li');
      for (const [page, to] of [[ann, 'jsonp'], [li, 'iframe']]) {
        await page.select('#transport', to);
        await until(`it is on ${to}`, async () => (await text(page, '#state')) === `live over ${to}`);
      }
      await ann.bringToFront();
      await ann.type('#title', 'Over JSONP');
      await ann.click('#submit button');
      await li.bringToFront();
      await until('it arrives over an iframe', async () => (await text(li, '#queue')).includes('Over JSONP'));
      for (const page of [ann, li]) assert.deepEqual(page.faults, []);
    });

    // Rules of WCAG that a program can check: names, contrast, landmarks, focus. By day and by night.
    for (const scheme of ['light', 'dark']) {
      await t.test(`accessibility, ${scheme}`, async (t) => {
        for (const address of ['/', '/compare', '/dashboard.html', '/review.html?as=reviewer&name=Li', '/review.html?as=submitter&name=Ann', '/legacy.html']) {
          const page = await visit(t, address);
          // Firefox's driver can't change the scheme: there it is checked as it comes.
          if (name === 'chromium') await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
          await until('it is connected', () => page.evaluate("document.querySelector('[data-state=open]') !== null || /open/.test(document.body.textContent)"));
          await page.evaluate(AXE);
          const violations = await page.evaluate('axe.run().then((found) => found.violations.map((each) => each.id + ": " + each.nodes.map((node) => node.html).join(", ")))');
          assert.deepEqual(violations, [], address);
          await page.close();
        }
      });
    }

    await t.test('old browsers\' page', async (t) => {
      const page = await visit(t, '/legacy.html');
      await tick(page);
      for (const which of ['iframe-poll', 'jsonp-poll']) await click(page, `#lane-${which} button`);
      const cell = (which, index) => number(page, `#lane-${which} td:nth-of-type(${index})`);
      for (const which of ['iframe', 'jsonp', 'iframe-poll', 'jsonp-poll']) {
        await until(`${which} receives`, async () => (await cell(which, 2)) >= 3);
        assert.equal(await cell(which, 3), 0);
        assert.equal(await cell(which, 4), 0);
      }
      await page.$eval('#text', (node, value) => { node.value = value; }, HOSTILE);
      await click(page, '#publish button');
      await until('it is shown as text', async () => (await text(page, '#log')).includes('<img src=x onerror'));
      assert.equal(await page.evaluate('typeof pwned'), 'undefined');
      await shoot(page, 'legacy');
      assert.deepEqual(page.faults, []);
    });

    await t.test('where the server requires a token', async (t) => {
      const asking = await Server.start(...keyed(t));
      t.after(() => asking.stop());
      const all = (seconds = 600) => sign({ subscribe: ['>'], publish: ['>'] }, seconds);
      const open = (t, address, more) => visit(t, address, { of: asking, ...more });
      const asksForToken = (page) => page.evaluate("PageToken.asking && document.activeElement.id === 'token-text'");
      const shown = (page) => page.evaluate("document.getElementById('token') !== null && document.getElementById('token').offsetHeight > 0");
      const give = async (page, token) => { await page.bringToFront(); await page.type('#token-text', token); await page.keyboard.press('Enter'); };
      const LIVE = {
        '/review.html?as=submitter&name=Ann': async (page) => (await text(page, '#state')).startsWith('live'),
        '/legacy.html': async (page) => (await tick(page), await number(page, '#lane-iframe td:nth-of-type(2)')) >= 1 && (await number(page, '#lane-jsonp td:nth-of-type(2)')) >= 1,
        '/compare': async (page) => (await load(page, 5), await number(page, '#auto-received')) > 2 && (await lane(page, 'sse', 'received')) > 0 && (await lane(page, 'ws', 'received')) > 0,
      };

      for (const [address, live] of Object.entries(LIVE)) {
        await t.test(`${address}: a field, and a pasted token`, async (t) => {
          const page = await open(t, address);
          await until('the field is shown, and has the focus', () => asksForToken(page));
          assert.equal(await text(page, '#token-why'), 'This server requires a token.');
          assert.match(await text(page, '#token-how'), /switchback token /);
          if (name === 'chromium') await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
          await page.evaluate(AXE);
          assert.deepEqual(await page.evaluate('axe.run().then((found) => found.violations.map((each) => each.id + ": " + each.nodes.map((node) => node.html).join(", ")))'), []);
          await shoot(page, `token-${address.replace(/\W+/g, '-').slice(1)}`);

          await give(page, 'no token');
          assert.match(await text(page, '#token-why'), /not a complete token/);
          await page.$eval('#token-text', (node) => { node.value = ''; });
          await give(page, all(-1));
          await until('the reason is shown', async () => /The token is not accepted/.test(await text(page, '#token-why')) && asksForToken(page));
          await give(page, `Bearer ${all()}`);
          await until('it is live', () => live(page));
          assert.equal(await shown(page), false);

          // Until `load`: a script that the old page requests again would delay it, in Firefox.
          await page.reload({ waitUntil: 'load' });
          await until('the tab has kept it', () => live(page));
          assert.equal(await shown(page), false);
          assert.deepEqual(page.faults, []);
        });

        await t.test(`${address}: a token in the address, from which it is removed`, async (t) => {
          const page = await open(t, `${address}#token=${all()}`);
          await until('it is live', () => live(page));
          assert.equal(page.url(), asking.url + address);
          assert.equal(await page.evaluate('location.hash'), '');
          assert.equal(await shown(page), false);
          assert.deepEqual(page.faults, []);
        });
      }

      await t.test('public topics need none, and a token that is added later loses no event', async (t) => {
        const reading = await Server.start(...keyed(t), '--public-subscribe', 'demo.*');
        t.after(() => reading.stop());
        const page = await visit(t, '/compare', { width: 390, height: 844, of: reading });
        await load(page, 5);
        await until('the field is shown, for publishing', () => asksForToken(page));
        await until('the lanes are open all the same', async () => (await text(page, '#auto .state')) === 'open');
        assert.ok(await page.evaluate('document.documentElement.scrollWidth <= 390'), 'nothing sticks out');
        await shoot(page, 'token-phone');
        await give(page, all(4));
        await until('it has expired', async () => (await text(page, '#token-why')).includes('expired'));
        const before = await number(page, '#auto-received');
        await page.evaluate(`location.hash = 'token=${all()}'`);
        await until('it goes on', async () => (await number(page, '#auto-received')) > before + 2);
        for (const fault of ['lost', 'repeated']) assert.equal(await number(page, `#auto-${fault}`), 0);
        assert.equal(await page.evaluate('location.hash'), '');
      });

      await t.test('a new token is requested after a revocation', async (t) => {
        const page = await open(t, `/review.html?as=submitter&name=Eve#token=${sign({ sub: 'eve', subscribe: ['>'], publish: ['>'] }, 600)}`);
        await until('it is live on a socket', async () => (await text(page, '#state')) === 'live over ws');
        const revoked = await fetch(`${asking.url}/v1/revocations`, { method: 'POST', body: JSON.stringify({ sub: 'eve' }),
          headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${sign({ admin: true }, 600)}` } });
        assert.equal(revoked.status, 201);
        await until('the field is shown', async () => (await shown(page)) && /revoked the token/.test(await text(page, '#token-why')));
        await give(page, all());
        await until('it is live', async () => (await text(page, '#state')).startsWith('live'));
      });

      await t.test('a token with too few rights for the desk: the missing rights are named', async (t) => {
        const page = await open(t, `/review.html?as=reviewer&name=Li#token=${sign({ subscribe: ['desk.ann'], publish: ['desk.*'] }, 600)}`);
        await until('it says so', async () => /does not grant subscribing to all of desk\.\*/.test(await text(page, '#token-why')));
        await give(page, all());
        await until('it is live', async () => (await text(page, '#state')).startsWith('live'));
      });
    });
  });
}
