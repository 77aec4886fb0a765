// The examples, as they are, against a real server that requires tokens.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { spawn, execFileSync } = require('node:child_process');
const { randomBytes } = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { createElement } = require('react');
const { renderToStaticMarkup } = require('react-dom/server');

const EXAMPLES = path.join(__dirname, '../../examples');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'switchback-examples-'));
const secret = path.join(home, 'secret');
fs.writeFileSync(secret, randomBytes(32).toString('base64') + '\n', { mode: 0o600 });
test.after(() => fs.rmSync(home, { recursive: true, force: true }));

// Starts a program; resolves with the address that it prints, once it prints one.
function start(t, command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options, env: { ...process.env, ...options.env } });
  let printed = '';
  const ended = new Promise((resolve) => { child.on('exit', resolve); child.on('error', resolve); });
  t.after(async () => { child.kill(); await ended; });
  return new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (bytes) => {
        printed += bytes;
        const found = printed.match(/https?:\/\/[\d.]+:\d+/);
        if (found) resolve(found[0]);
      });
    }
    ended.then((how) => reject(new Error(`${command} ended (${how}): ${printed}`)));
  });
}

const server = (t) => start(t, process.env.SWITCHBACK_BIN, ['--listen', '127.0.0.1:0', '--store', 'memory', '--jwt-secret-file', secret]);

async function json(address, options) {
  const response = await fetch(address, { ...options, signal: AbortSignal.timeout(20000) });
  assert.ok(response.ok, `${address}: ${response.status}`);
  return response.json();
}

// What every backend does: an order is created and approved; with the page's token both events are there, in order.
async function check(backend, events) {
  const order = await json(`${backend}/orders`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"item":"tea"}' });
  const approved = await json(`${backend}/orders/${order.id}/approve`, { method: 'POST' });
  const again = await json(`${backend}/orders/${order.id}/approve`, { method: 'POST' });
  assert.equal(again.cursor, approved.cursor, 'the same id is stored once');
  const { token } = await json(`${backend}/token`);
  const batch = await json(`${events}/v1/poll?topic=orders.%3E&cursor=earliest`, { headers: { Authorization: `Bearer ${token}` } });
  assert.deepEqual(batch.events.map(({ topic, event, data }) => ({ topic, event, data })), ['created', 'approved'].map((event) => ({ topic: `orders.${order.id}.status`, event, data: { item: 'tea' } })));
  const unread = await fetch(`${events}/v1/topics/orders.1.status`, { method: 'POST', body: '1', headers: { Authorization: `Bearer ${token}` } });
  assert.equal(unread.status, 403, 'a visitor may not publish');
}

test('express', { timeout: 60000 }, async (t) => {
  const events = await server(t);
  // Its packages are installed here, not in the example's folder.
  fs.cpSync(path.join(EXAMPLES, 'express'), path.join(home, 'express'), { recursive: true });
  fs.symlinkSync(path.join(__dirname, 'node_modules'), path.join(home, 'express/node_modules'));
  const backend = await start(t, process.execPath, ['server.js'], { cwd: path.join(home, 'express'), env: { EVENTS_URL: events, EVENTS_SECRET_FILE: secret, PORT: '0' } });
  await check(backend, events);
  assert.match(await (await fetch(backend + '/')).text(), /client\.js/);
  assert.ok((await (await fetch(backend + '/settings.js')).text()).includes(events));
});

test('FastAPI', { timeout: 60000 }, async (t) => {
  const events = await server(t);
  const backend = await start(t, process.env.UVICORN, ['app:app', '--port', '0'], { cwd: path.join(EXAMPLES, 'fastapi'), env: { EVENTS_URL: events, EVENTS_SECRET_FILE: secret, PYTHONDONTWRITEBYTECODE: '1' } });
  await check(backend, events);
});

test('React: the hook on a server, and its store with events', { timeout: 60000 }, async (t) => {
  const events = await start(t, process.env.SWITCHBACK_BIN, ['--listen', '127.0.0.1:0', '--store', 'memory']);
  const publish = (topic, query, body) => json(`${events}/v1/topics/${topic}?${query}`, { method: 'POST', body });
  await publish('orders.1.status', 'event=created', '1');
  await publish('orders.1.status', 'event=paid', '1');
  await publish('orders.2.status', 'event=created', '1');
  // A module beside the packages.
  const file = path.join(__dirname, 'node_modules/useLatest.mjs');
  fs.copyFileSync(path.join(EXAMPLES, 'react/useLatest.js'), file);
  const { latestStore, useLatest } = await import(file);
  const Orders = () => createElement('p', null, String(useLatest(null, 'orders.*.status').length));
  assert.equal(renderToStaticMarkup(createElement(Orders)), '<p>0</p>');

  const connection = require('switchback-events').connect(events);
  t.after(() => connection.close());
  const store = latestStore(connection, 'orders.*.status');
  const seen = () => store.getSnapshot().map((item) => `${item.topic} ${item.event}`).join();
  let wake = () => {};
  const end = store.subscribe(() => wake());
  const until = async (wanted) => { while (seen() !== wanted) await new Promise((resolve) => { wake = resolve; }); };
  await until('orders.1.status paid,orders.2.status created');
  const before = store.getSnapshot();
  assert.equal(store.getSnapshot(), before, 'the same until something changes');
  await publish('orders.2.status', 'deleted=1', '');
  await publish('orders.3.status', 'event=created', '1');
  await until('orders.1.status paid,orders.3.status created');
  assert.equal(before.length, 2, 'a snapshot does not change');
  end();
  assert.deepEqual(store.getSnapshot(), []);
  assert.deepEqual([...connection.topics], [], 'it has released its pattern');
});
