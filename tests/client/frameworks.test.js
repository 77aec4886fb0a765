// A store of static/state.js, given to React, Svelte and Vue as it is.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World } = require('./world.js');
const install = require('../../static/state.js');

const SECOND = 1000;

function orders() {
  const world = new World({ transports: ['ws'] });
  world.answer = (message) => ({ ok: true, cursor: world.cursor(), type: message.type });
  install(world.library);
  world.publish('new', { topic: 't.1' });
  return { world, store: world.library.state(world.connect({ topics: undefined }), 't.*') };
}

const text = (items) => items.map((item) => `${item.topic} ${item.data}`).join(', ');

test('React: useSyncExternalStore', async () => {
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  const React = require('react');
  const { create } = require('react-test-renderer');
  const { world, store } = orders();
  let drawn = 0;
  function Orders() {
    drawn += 1;
    return text(React.useSyncExternalStore(store.subscribe, store.all));
  }
  function Live() { return String(React.useSyncExternalStore(store.subscribe, () => store.live)); }
  let root;
  const act = (run) => React.act(async () => run());
  await act(() => { root = create(React.createElement(React.StrictMode, null, React.createElement(Orders), ' ', React.createElement(Live))); });
  assert.deepEqual(root.toJSON(), [' ', 'false']);
  await act(() => world.pass(5 * SECOND));
  assert.deepEqual(root.toJSON(), ['t.1 new', ' ', 'true']);
  await act(() => { world.publish('paid', { topic: 't.1' }); world.pass(SECOND); });
  assert.deepEqual(root.toJSON(), ['t.1 paid', ' ', 'true']);
  const before = drawn;
  await act(() => { world.publish('elsewhere', { topic: 'u.1' }); world.pass(60 * SECOND); });
  assert.equal(drawn, before, 'nothing is drawn where nothing has changed');
  await act(() => root.unmount());
  world.publish('gone', { topic: 't.1' });
  world.pass(SECOND);
  assert.equal(drawn, before);
});

test('Svelte: a store', async () => {
  const { get, derived } = await import('svelte/store');
  const { world, store } = orders();
  const values = [];
  const stop = derived(store, text).subscribe((value) => values.push(value));
  world.pass(5 * SECOND);
  world.publish('paid', { topic: 't.1' });
  world.pass(SECOND);
  assert.deepEqual(values, ['', 't.1 new', 't.1 paid']);
  assert.equal(get(store), store.all());
  stop();
  world.publish('gone', { topic: 't.1' });
  world.pass(SECOND);
  assert.equal(values.length, 3);
});

test('Vue: a shallow reference that subscribes', async () => {
  const { shallowRef, computed, effect } = await import('@vue/reactivity');
  const { world, store } = orders();
  const items = shallowRef([]);
  const stop = store.subscribe((list) => { items.value = list; });
  const line = computed(() => text(items.value));
  const values = [];
  effect(() => values.push(line.value));
  world.pass(5 * SECOND);
  world.publish('paid', { topic: 't.1' });
  world.pass(SECOND);
  assert.deepEqual(values, ['', 't.1 new', 't.1 paid']);
  stop();
  world.publish('gone', { topic: 't.1' });
  world.pass(SECOND);
  assert.equal(values.length, 3);
});
