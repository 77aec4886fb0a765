// Random calls in a real browser against the real server, over a network that cuts and refuses, and a server that is killed:
// the model of tests/client, shorter. CHAOS_SEED=n plays one again, as far as clocks and machines let it.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { engines, launch, until } = require('./lib/browsers.js');
const { Server } = require('./lib/server.js');
const { Network } = require('./lib/network.js');
const { Subscriber } = require('./lib/subscriber.js');
const { sign, keyed } = require('./lib/tokens.js');

const SEED = Number(process.env.CHAOS_SEED || 0) || Math.floor(Math.random() * 1e9);
const STEPS = 60;
const TOPICS = ['a.1', 'a.2', 'b.1'];
const PATTERNS = ['a.*', 'a.1', 'b.>', '>', 'bad..one'];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const position = (cursor) => Number(cursor.split('-')[1]);

function randomFrom(seed) {
  let state = seed;
  return () => { state = (state * 48271) % 2147483647; return state / 2147483647; };
}

// NATS's subject rules.
function matches(pattern, topic) {
  const parts = pattern.split('.').map((token) => (token === '*' ? '[^.]+' : token === '>' ? '.+' : token));
  return new RegExp(`^${parts.join('\\.')}$`).test(topic);
}

// In the page: every call of an application's function is noted by the call's number, and some of them throw.
const PAGE = `(function () {
  window.answers = {}; window.handles = {};
  function done(id) {
    answers[id] = [];
    return function (error, result) {
      answers[id].push(error ? { error: error.code || String(error) } : { result: result === undefined ? null : result });
      if (id % 4 === 0) throw new Error('the application');
    };
  }
  window.act = function (what, id, arg) {
    if (what === 'subscribe') handles[id] = line.subscribe(arg, done(id));
    else if (what === 'unsubscribe') handles[arg].unsubscribe(done(id));
    else if (what === 'switchTo') line.switchTo(arg, done(id));
    else line.publish(arg, 'p' + id, null, done(id));
    return 1;
  };
  return 1;
})()`;

for (const name of engines) {
  test(`chaos in ${name}, seed ${SEED}`, async (t) => {
    const browser = await launch(name);
    t.after(() => browser.close());
    // Within: its page is closed before the browser is.
    await t.test('no event lost or repeated, each call answered once', (t) => chaos(t, browser));
  });
}

async function chaos(t, browser) {
  const random = randomFrom(SEED);
  const int = (n) => Math.floor(random() * n);
  const pick = (list) => list[int(list.length)];
  const server = await Server.start(...keyed(t));
  server.token = sign({ subscribe: ['>'], publish: ['>'] }, 3600);
  const bad = { on: false };
  const network = await Network.start(server, { refuse: (count, response) => { if (!bad.on) return false; response.writeHead(502); response.end('<h1>502</h1>'); return true; } });
  t.after(async () => { await network.stop(); await server.stop(); });

  const token = sign({ subscribe: ['c.>'], publish: ['c.>'] }, 3600);
  const one = await Subscriber.open(t, browser, network, { options: { topics: 'c.base', token, interval: 300, wait: 4 } });
  await one.get(PAGE);
  const supported = (await one.get('Switchback.supported()')).concat('auto');
  const live = new Map();
  let ids = 0;
  const act = async (what, arg) => {
    ids += 1;
    await one.get(`act(${JSON.stringify(what)}, ${ids}, ${JSON.stringify(arg)})`)
      .catch(async (error) => { throw new Error(`${what} ${arg}: ${error.message}; ${JSON.stringify(await one.get('[line.state, line.transport, line.topics, controls.slice(-4)]'))}`); });
    return ids;
  };
  const publish = (n) => server.publish(`c.${pick(TOPICS)}`, n).catch(() => {});   // it may be down

  for (let step = 0; step < STEPS; step++) {
    const chance = random();
    if (chance < 0.35) await publish(step);
    else if (chance < 0.55) { const topics = [random() < 0.1 ? 'secret.1' : `c.${pick(PATTERNS)}`]; live.set(await act('subscribe', topics), topics); }
    else if (chance < 0.65 && live.size) { const id = pick([...live.keys()]); live.delete(id); await act('unsubscribe', id); }
    else if (chance < 0.75) await act('switchTo', pick(supported));
    else if (chance < 0.83) await act('publish', `c.${pick(TOPICS)}`);
    else if (chance < 0.88) for (const socket of network.sockets) socket.destroy();
    else if (chance < 0.92) { bad.on = true; await pause(500); bad.on = false; }
    else if (chance < 0.94) { await server.kill(); await pause(300); await server.boot(); }
    else await pause(random() * 800);
  }

  await until('every call has been answered', async () => Object.values(await one.get('answers')).every((each) => each.length), 90000)
    .catch(async (error) => { throw new Error(`${error.message}; ${JSON.stringify(await one.get('[line.state, line.transport, line.topics, answers, controls.slice(-4)]'))}`); });
  await server.publish('c.base', 'last');
  await until('the last event arrives', () => one.get("seen.length > 0 && seen[seen.length - 1].data === 'last'"), 60000)
    .catch(async (error) => { throw new Error(`${error.message}; ${JSON.stringify(await one.get('[line.state, line.transport, line.topics, line.cursor, controls.slice(-4)]'))}`); });
  await pause(1000);   // nothing more may come: a second call of a callback, an event twice

  const answers = await one.get('answers');
  for (const [id, each] of Object.entries(answers)) assert.equal(each.length, 1, `call ${id}: ${JSON.stringify(each)}`);
  const seen = (await one.get('JSON.parse(JSON.stringify(seen))')).map((item) => item.cursor);
  for (let i = 1; i < seen.length; i++) assert.ok(position(seen[i]) > position(seen[i - 1]), `${seen[i]} after ${seen[i - 1]}`);
  const log = [];
  for (let cursor = 'earliest', more = true; more;) {
    const response = await fetch(`${server.url}/v1/poll?topic=c.%3E&limit=1000&cursor=${cursor}`, { headers: server.headers() });
    const batch = await response.json();
    log.push(...batch.events);
    cursor = batch.cursor;
    more = batch.events.length > 0;
  }
  for (const [id, topics] of live) {
    const [{ error, result }] = answers[id];
    if (/secret|\.\./.test(topics[0])) { assert.ok(['forbidden', 'bad_topic'].includes(error), `${topics}: ${error}`); continue; }
    assert.equal(error, undefined, `${topics}: ${error}`);
    const due = log.filter((item) => position(item.cursor) > position(result) && matches(topics[0], item.topic)).map((item) => item.cursor);
    assert.deepEqual(due.filter((cursor) => !seen.includes(cursor)), [], `${topics} from ${result} on`);
  }
  const unexpected = (await one.get('faults')).filter((fault) => !/the application/.test(fault));
  assert.deepEqual(unexpected, []);
  assert.equal(await one.get('line.state'), 'open');
}
