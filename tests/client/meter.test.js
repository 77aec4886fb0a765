// How the comparison page counts: what is lost, repeated, replayed and missed, whatever the order of answers and events.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');

const SOURCE = fs.readFileSync(path.join(__dirname, '../../static/meter.js'), 'utf8');

function meter() {
  const clock = { time: 0 };
  const made = vm.runInNewContext(`${SOURCE}; new Meter()`, { performance: { now: () => clock.time } });
  made.opened('e-0');
  return Object.assign(made, { clock, come: (n, position = n) => made.receive({ cursor: `e-${position}`, data: { n, sent: clock.time } }) });
}

const faults = ({ received, lost, repeated, replayed, gaps }) => ({ received, lost, repeated, replayed, gaps });
const NONE = { received: 0, lost: 0, repeated: 0, replayed: 0, gaps: 0 };

test('events in order are no fault, whether the publisher is answered before or after', () => {
  const one = meter();
  one.expect(1, 1);
  one.come(1);
  one.come(2);
  one.expect(2, 2);
  one.settle('e-2');
  assert.deepEqual(faults(one), { ...NONE, received: 2 });
});

test('an event that the cursor passed is lost, and counted once', () => {
  const one = meter();
  for (const n of [1, 2, 3]) one.expect(n, n);
  one.come(1);
  one.come(3);
  one.settle('e-3');
  one.settle('e-3');
  assert.deepEqual(faults(one), { ...NONE, received: 2, lost: 1 });
});

test('events ahead of the cursor, or before the start, are not lost', () => {
  const one = meter();
  one.start = 5;
  one.expect(1, 4);
  one.expect(2, 9);
  one.settle('e-8');
  assert.deepEqual(faults(one), NONE);
});

test('an event delivered twice is repeated', () => {
  const one = meter();
  one.come(1);
  one.come(1);
  assert.deepEqual(faults(one), { ...NONE, received: 2, repeated: 1 });
});

test('events requested again by the page are replayed: neither received nor repeated', () => {
  const one = meter();
  for (const n of [1, 2, 3, 4]) one.come(n);
  one.replayFrom(2);
  for (const n of [3, 4, 5]) one.come(n);
  assert.deepEqual(faults(one), { ...NONE, received: 5, replayed: 2 });
  one.come(5);
  assert.equal(one.repeated, 1, 'the replay is over');
});

test('events in a gap are not lost', () => {
  const one = meter();
  one.come(1);
  one.expect(2, 2);
  one.gap({ to: 'e-7' });
  one.settle('e-9');
  assert.deepEqual(faults(one), { ...NONE, received: 1, gaps: 1 });
});

test('latency counts events published while the connection was open', () => {
  const one = meter();
  one.receive({ cursor: 'e-1', data: { n: 1, sent: -5 } });
  assert.equal(one.quantile(0.5), undefined);
  one.clock.time = 30;
  one.receive({ cursor: 'e-2', data: { n: 2, sent: 10 } });
  assert.equal(one.quantile(0.5), 20);
});

test('nothing grows with the number of events', () => {
  const one = meter();
  for (let n = 1; n <= 12000; n++) { one.clock.time = n; one.come(n); one.expect(n + 20000, n + 20000); }
  assert.ok(one.seen.size <= 5000 && one.expected.length <= 5000);
  assert.equal(one.columns().length, 100);
  assert.equal(one.newest(200).length, 200);
});
