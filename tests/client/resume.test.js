// The option `resume`: a page that is reloaded, and a tab that is opened later, go on where they were.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World, Switchback } = require('./world.js');
const share = require('../../static/share.js');

const SECOND = 1000;
const { endings } = Switchback;

// A tab: `session` is its sessionStorage, which a reload keeps and other tabs do not see.
function tab(world, session = {}) {
  const page = world.tab();
  page.session = session;
  page.window.sessionStorage = {
    getItem: (key) => (key in session ? session[key] : null),
    setItem: (key, value) => { session[key] = String(value); },
  };
  return page;
}

const connect = (world, page, options) => world.connect({ resume: 'orders', ...options }, page.library);

// The page is left: its connections end as the browser ends them.
function leave(world, page) {
  page.window.fire('pagehide');
  for (const held of [...world.links]) if (held.link.env.window === page.window) { held.open = false; world.links.delete(held); }
}

function reload(world, page) {
  leave(world, page);
  return tab(world, page.session);
}

for (const name of ['ws', 'sse', 'longpoll', 'poll']) {
  test(`a page that is reloaded goes on exactly, over ${name}`, () => {
    const world = new World({ transports: [name] });
    let page = tab(world);
    const heard = [];
    let line = connect(world, page, { cursor: 'earliest', interval: 200 });
    for (let n = 1; n <= 300; n++) {
      world.publish(n);
      world.pass(37);
      if (n % 7) continue;
      heard.push(...line.heard);
      page = reload(world, page);
      line = connect(world, page, { cursor: 'earliest', interval: 200 });
    }
    world.pass(20 * SECOND);
    heard.push(...line.heard);
    assert.deepEqual(heard, Array.from({ length: 300 }, (_, i) => i + 1));
  });
}

test('two tabs of one name go on each where it was', () => {
  const world = new World({ transports: ['ws'] });
  const first = tab(world);
  let second = tab(world);
  const one = connect(world, first);
  let two = connect(world, second);
  world.pass(SECOND);
  // The second is cut off, the first goes on.
  for (const held of world.links) if (held.link.env.window === second.window) held.open = false;
  for (let n = 1; n <= 3; n++) world.publish(n);
  world.pass(SECOND);
  assert.deepEqual([one.heard, two.heard], [[1, 2, 3], []]);
  second = reload(world, second);
  two = connect(world, second);
  world.pass(SECOND);
  assert.deepEqual(two.heard, [1, 2, 3]);
});

test('a tab that is opened later goes on where the last one was', () => {
  const world = new World({ transports: ['ws'] });
  const first = tab(world);
  const one = connect(world, first);
  world.pass(SECOND);
  world.publish(1);
  world.pass(SECOND);
  assert.deepEqual(one.heard, [1]);
  leave(world, first);
  world.publish(2);
  const later = connect(world, tab(world));
  world.pass(SECOND);
  assert.deepEqual(later.heard, [2]);
});

test('names and addresses are apart, and a first visit starts as the options say', () => {
  const world = new World({ transports: ['ws'] });
  world.publish(1);
  const page = tab(world);
  const all = { cursor: 'earliest' };
  connect(world, page, all);
  world.pass(SECOND);
  const next = reload(world, page);
  const lines = [connect(world, next, all), connect(world, next, { ...all, resume: 'others' })];
  const elsewhere = next.library.connect('http://other.test', { topics: ['t.>'], resume: 'orders' });
  assert.equal(elsewhere.cursor, undefined);
  world.pass(SECOND);
  assert.deepEqual(lines.map((line) => line.heard), [[], [1]]);
});

test('a page that is left while a listener waits gets that event again', () => {
  const world = new World({ transports: ['ws'] });
  const page = tab(world);
  const line = connect(world, page);
  world.pass(SECOND);
  // As a dialogue or a synchronous request does, where the browser goes on meanwhile.
  let left;
  line.on('message', (item) => {
    if (item.data !== 2) return;
    leave(world, page);
    left = { ...page.session };
  });
  world.publish(1);
  world.publish(2);
  world.pass(SECOND);
  const back = connect(world, tab(world, left));
  world.pass(SECOND);
  assert.deepEqual(back.heard, [2]);
});

test('what a crash leaves is at most a tenth of a second old', () => {
  const world = new World({ transports: ['ws'] });
  const page = tab(world);
  const line = connect(world, page);
  world.pass(SECOND);
  for (let n = 1; n <= 5; n++) { world.publish(n); world.pass(60); }
  world.crash(page.window);
  // A copy: the timers of the page that is gone still run here.
  const back = connect(world, tab(world, { ...page.session }));
  world.pass(SECOND);
  const both = line.heard.concat(back.heard);
  assert.deepEqual([...new Set(both)], [1, 2, 3, 4, 5], 'none is lost');
  assert.ok(both.length <= 8, `${both}`);
});

test('many events are few writes', () => {
  const world = new World({ transports: ['ws'] });
  const page = tab(world);
  let writes = 0;
  const { setItem } = page.window.sessionStorage;
  page.window.sessionStorage.setItem = (key, value) => { writes += 1; setItem(key, value); };
  connect(world, page);
  world.pass(SECOND);
  writes = 0;
  for (let n = 0; n < 1000; n++) { world.publish(n); world.pass(1); }
  assert.ok(writes <= 11, `${writes}`);
});

test('a log that was lost meanwhile is a gap', () => {
  const world = new World({ transports: ['ws'] });
  const page = tab(world);
  world.publish(1);
  connect(world, page);
  world.pass(SECOND);
  world.epoch = 'e2';
  world.log = [];
  const line = connect(world, reload(world, page));
  world.pass(SECOND);
  assert.deepEqual(line.told.filter(([name]) => name === '$gap').map(([, gap]) => gap.reason), ['epoch']);
});

test('without storage, or with nonsense in it, it starts as the options say', () => {
  for (const broken of ['none', 'throws', 'nonsense']) {
    const world = new World({ transports: ['ws'] });
    world.publish(1);
    const page = tab(world);
    if (broken === 'none') delete page.window.sessionStorage;
    for (const area of ['sessionStorage', 'localStorage']) {
      if (broken === 'throws') Object.defineProperty(page.window, area, { get() { throw new Error('denied'); } });
      if (broken === 'nonsense') page.window[area].getItem = () => 'earliest of all';
    }
    const line = connect(world, page, { cursor: 'earliest' });
    world.pass(SECOND);
    assert.deepEqual(line.heard, [1], broken);
    world.endAll(endings.lost());
    world.publish(2);
    world.pass(20 * SECOND);
    assert.deepEqual(line.heard, [1, 2], broken);
  }
});

test('tabs that share a connection resume each by itself', async () => {
  const world = new World({ transports: ['ws', 'longpoll', 'iframe-poll'] });
  world.answer = (message) => ({ ok: true, cursor: world.cursor(), type: message.type });
  const pages = [tab(world), tab(world)];
  pages.forEach(({ library }) => share(library));
  const lines = pages.map((page) => connect(world, page, { share: true }));
  await world.passSlowly(3 * SECOND);
  world.publish(1);
  await world.passSlowly(SECOND);
  assert.deepEqual(lines.map((line) => line.heard), [[1], [1]]);
  leave(world, pages[1]);
  world.publish(2);
  await world.passSlowly(SECOND);
  const again = tab(world, pages[1].session);
  share(again.library);
  const back = connect(world, again, { share: true });
  await world.passSlowly(6 * SECOND);
  assert.deepEqual([lines[0].heard, back.heard], [[1, 2], [2]]);
});
