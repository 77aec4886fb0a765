// The front page, used as a newcomer would. Screenshots go to $SCREENSHOTS, to be looked at.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const path = require('node:path');
const { names, launch, newPage, collectFaults, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { sign, keyed } = require('./lib/tokens.js');

const SIZES = { wide: [1440, 900], tablet: [820, 1180], phone: [390, 844] };

// Runs a program until it is told to stop; `said` is what it has printed.
function run(t, command, args, env = {}) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  const running = { said: '' };
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => { running.said += bytes; });
  t.after(() => child.kill());
  return running;
}

for (const name of names) {
  test(`the front page in ${name}`, async (t) => {
    const browser = await launch(name);
    const server = await Server.start();
    t.after(async () => { await browser.close(); await server.stop(); });

    async function visit(t, { of = server, size = 'wide', address = '/' } = {}) {
      const page = await newPage(browser);
      t.after(() => page.isClosed() || page.close());
      collectFaults(page);
      const [width, height] = SIZES[size];
      await page.setViewport({ width, height });
      await page.goto(of.url + address);
      return page;
    }

    const text = (page, selector) => page.$eval(selector, (node) => node.textContent);
    const snippet = async (page, which) => { await page.$eval(`#tab-${which}`, (node) => node.click()); return text(page, '#snippet-code'); };

    await t.test('it says what this server is', async (t) => {
      const page = await visit(t);
      await until('the server answers', async () => (await text(page, '#server-state')) === 'running');
      const info = await (await fetch(server.url + '/v1/info')).json();
      assert.equal(await text(page, '#server-version'), info.version);
      assert.match(await text(page, '#server-access'), /open/);
      assert.equal(await text(page, '#server-cursor'), info.cursor);
      const { cursor } = await server.publish('elsewhere', 1);
      await until('the end of the log moves', async () => (await text(page, '#server-cursor')) === cursor);
      assert.deepEqual(page.faults, []);
    });

    await t.test('by keyboard: a topic of one\'s own', async (t) => {
      const page = await visit(t);
      const other = await visit(t);
      const listen = async (each) => {
        await each.bringToFront();
        await each.$eval('#topic', (node) => { node.value = ''; node.focus(); });
        await each.keyboard.type('demo.kitchen');
        await each.keyboard.press('Enter');
        await until('it listens', async () => /^over /.test(await text(each, '#line-state')));
      };
      await listen(other);
      await listen(page);
      await page.$eval('#data', (node) => { node.value = ''; node.focus(); });
      await page.keyboard.type('{"soup":"<img src=x onerror=window.pwned=1>"}');
      await page.keyboard.press('Enter');
      for (const each of [page, other]) await until('it arrives', async () => /soup.*onerror/.test(await text(each, '#received')));
      await until('it is stored', async () => /^Stored at /.test(await text(page, '#published')));
      assert.equal((await page.$$('#received li')).length, 1);
      assert.equal(await page.evaluate('typeof pwned'), 'undefined');
      await page.$eval('#listen-button', (node) => node.click());
      await until('it has stopped', async () => (await text(page, '#line-state')) === 'not listening');
      assert.deepEqual([...page.faults, ...other.faults], []);
    });

    await t.test('the examples run as they are', async (t) => {
      const page = await visit(t);
      const topic = await page.$eval('#topic', (node) => node.value);
      await page.$eval('#listen-button', (node) => node.click());
      await until('it listens', async () => /^over /.test(await text(page, '#line-state')));
      const [listens, publishes] = (await snippet(page, 'curl')).split('# Publish');
      const listening = run(t, 'bash', ['-c', listens]);
      await until('curl listens', async () => /\$hello/.test(listening.said));
      run(t, 'bash', ['-c', '#' + publishes]);
      await until('curl hears it', async () => /from curl/.test(listening.said));
      const node = run(t, process.execPath, ['-e', await snippet(page, 'Node')]);
      await until(`Node hears it`, async () => /from Node/.test(node.said));
      const python = run(t, 'python3', ['-c', await snippet(page, 'Python')]);
      await until('Python hears it', async () => /from Python/.test(python.said));
      for (const each of ['curl', 'Node', 'Python']) await until(`the page hears ${each}`, async () => (await text(page, '#received')).includes(`from ${each}`));
      assert.ok((await snippet(page, 'Page')).includes(`${server.url}/client.js`));
      assert.ok((await snippet(page, 'Page')).includes(topic));
      // With the arrow keys, as tabs have it.
      await page.focus('#tab-Page');
      await page.keyboard.press('ArrowRight');
      assert.equal(await page.evaluate('document.activeElement.id'), 'tab-Node');
      assert.match(await text(page, '#snippet-code'), /Buffer/);
      assert.deepEqual(page.faults, []);
    });

    await t.test('where the server requires a token', async (t) => {
      const asking = await Server.start(...keyed(t));
      t.after(() => asking.stop());
      const page = await visit(t, { of: asking });
      await until('it says so', async () => /token/.test(await text(page, '#server-access')));
      assert.match(await text(page, '#server-cursor'), /token/);
      await page.$eval('#publish-button', (node) => node.click());
      await until('it asks', () => page.evaluate('PageToken.asking'));
      const token = sign({ subscribe: ['>'], publish: ['>'] }, 600);
      await page.type('#token-text', token);
      await page.keyboard.press('Enter');
      await until('it listens', async () => /^over /.test(await text(page, '#line-state')));
      await page.$eval('#publish-button', (node) => node.click());
      await until('it arrives', async () => /hello/.test(await text(page, '#received')));
      await until('the end of the log is shown', async () => /^[a-z0-9]+-\d+$/.test(await text(page, '#server-cursor')));
      const python = run(t, 'python3', ['-c', await snippet(page, 'Python')], { TOKEN: token });
      await until('Python hears it', async () => /from Python/.test(python.said));
      assert.ok(!(await snippet(page, 'curl')).includes(token), 'an example holds no secret');
      assert.deepEqual(page.faults, []);
    });

    await t.test('at three sizes, by day and by night', async (t) => {
      for (const size of Object.keys(SIZES)) {
        for (const scheme of ['light', 'dark']) {
          const page = await visit(t, { size });
          if (name === 'chromium') await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
          await until('the server answers', async () => (await text(page, '#server-state')) === 'running');
          await page.$eval('#publish-button', (node) => node.click());
          await until('it arrives', async () => /world/.test(await text(page, '#received')));
          assert.ok(await page.evaluate(`document.documentElement.scrollWidth <= ${SIZES[size][0]}`), 'nothing sticks out');
          if (process.env.SCREENSHOTS) await page.screenshot({ path: path.join(process.env.SCREENSHOTS, `${name}-home-${size}-${scheme}.png`), fullPage: true });
          await page.close();
        }
      }
    });
  });
}
