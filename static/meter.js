// What one lane of the comparison page has received: loss, repetition, latency, and a chart's worth of the last seconds.
//
// Loss and repetition are counted by the page itself, not by the library that it shows. Each event of the load has a
// number, and its publisher knows the position that the server gave it. So a lane has lost one if its cursor lies behind
// that position and the number never came. (The numbers alone would not do: a publish that was cut off and sent again is
// stored behind its successors, rightly.) `sent` is this tab's clock, so latency needs no second one.
'use strict';

const LATENCIES = 600;                 // that a lane remembers
const NUMBERS = 5000;                  // of events, received and expected
const SECONDS = 20;                    // of the chart of arrivals
const SLOTS_A_SECOND = 5;              // its columns
const SLOTS = SECONDS * SLOTS_A_SECOND;

const positionOf = (cursor) => Number(cursor.split('-')[1]);

class Meter {
  constructor() {
    Object.assign(this, { received: 0, payload: 0, lost: 0, repeated: 0, replayed: 0, gaps: 0 });
    this.start = undefined;            // the position after which this lane has to receive every event
    this.at = undefined;               // of the newest event
    this.replayTo = undefined;         // up to here events are replayed on the page's request
    this.openedAt = Infinity;          // when the connection opened: what is older was not on its way
    this.seen = new Set();
    this.expected = [];
    this.latencies = new Float64Array(LATENCIES);
    this.timed = 0;
    this.arrivals = Array.from({ length: SLOTS }, () => ({ slot: -1, good: 0, bad: 0 }));
  }

  opened(cursor) {
    this.openedAt = performance.now();
    if (cursor) this.start = this.start === undefined ? positionOf(cursor) : this.start;
  }

  // The page requests events again: these are delivered once more, and count as neither received nor repeated.
  replayFrom(position) {
    this.replayTo = this.at;
    this.at = Math.min(position, this.at === undefined ? position : this.at);
    this.start = Math.min(position, this.start);
  }

  receive(item) {
    const { n, sent } = item.data || {};
    const position = positionOf(item.cursor);
    if (this.start === undefined) this.start = position - 1;
    if (position <= this.replayTo) { this.at = position; this.replayed += 1; this.mark('good'); return; }
    const repeats = this.seen.has(n) || position <= this.at;
    this.at = position;
    this.received += 1;
    this.payload += JSON.stringify(item.data).length;
    if (n !== undefined) this.seen.add(n);
    if (this.seen.size > NUMBERS) this.seen.delete(this.seen.values().next().value);
    if (repeats) this.repeated += 1;
    else if (sent >= this.openedAt) { this.latencies[this.timed % LATENCIES] = performance.now() - sent; this.timed += 1; this.sorted = undefined; }
    this.mark(repeats ? 'bad' : 'good');
  }

  // The publisher's answer: this number is stored there.
  expect(n, position) {
    if (this.start === undefined) return;
    this.expected.push({ n, position });
    if (this.expected.length > NUMBERS) this.expected.shift();
  }

  // What lies behind the cursor must have been seen, unless it lies before the start.
  settle(cursor) {
    if (!cursor || this.start === undefined || !this.expected.length) return;
    const at = positionOf(cursor);
    this.expected = this.expected.filter(({ n, position }) => {
      if (position > at) return true;
      if (position > this.start && !this.seen.has(n)) { this.lost += 1; this.mark('bad'); }
      return false;
    });
  }

  gap(gap) {
    this.gaps += 1;
    this.expected = [];
    this.start = this.at = positionOf(gap.to);
    this.replayTo = undefined;
    this.mark('bad');
  }

  mark(kind) {
    const slot = Math.floor((performance.now() / 1000) * SLOTS_A_SECOND);
    const entry = this.arrivals[slot % SLOTS];
    if (entry.slot !== slot) Object.assign(entry, { slot, good: 0, bad: 0 });
    entry[kind] += 1;
  }

  // The columns of the chart, the oldest first: how many events, and how many faults.
  columns() {
    const last = Math.floor((performance.now() / 1000) * SLOTS_A_SECOND);
    return Array.from({ length: SLOTS }, (_, i) => {
      const slot = last - SLOTS + 1 + i;
      const entry = this.arrivals[((slot % SLOTS) + SLOTS) % SLOTS];
      return entry.slot === slot ? entry : null;
    });
  }

  // Milliseconds; undefined where nothing was timed.
  quantile(q) {
    const count = Math.min(this.timed, LATENCIES);
    if (!count) return undefined;
    if (!this.sorted) this.sorted = this.latencies.slice(0, count).sort();
    return this.sorted[Math.min(count - 1, Math.floor(q * count))];
  }

  // The newest latencies, the oldest of them first.
  newest(most) {
    const count = Math.min(this.timed, LATENCIES, most);
    return Array.from({ length: count }, (_, i) => this.latencies[(this.timed - count + i) % LATENCIES]);
  }
}
