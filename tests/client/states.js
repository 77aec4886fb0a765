// The state table at the top of client.js, and a watch that holds every transition of a connection against it.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');

// Rows { phase, event, next: [phase] }, as the comment has them: a row goes on until it says what is next.
function readTable() {
  const lines = fs.readFileSync(path.join(__dirname, '../../static/client.js'), 'utf8').split('\n');
  const head = lines.findIndex((line) => /^ \* +phase +holds +event +next$/.test(line));
  const [holds, event, next] = ['holds', 'event', 'next'].map((title) => lines[head].indexOf(title));
  const rows = [];
  let phase = '';
  let text = '';
  for (const line of lines.slice(head + 1)) {
    if (line.trim() === '*') return rows;
    phase = line.slice(2, holds).trim() || phase;
    text = `${text} ${line.slice(event, next).trim()}`.trim();
    if (!line.slice(next).trim()) continue;
    if (text) rows.push({ phase, event: text, next: line.slice(next).trim().split(', '), taken: 0 });
    text = '';
  }
  throw new Error('The state table has no end.');
}

const ROWS = readTable();

/*
 * The methods of a connection in which something happens to it, and the words of the table for that. `moves`: it cannot stay
 * as it was. `to`: what the lines below the table say of all phases.
 */
const EVENTS = {
  begin: { words: /subscribe|the timer/, to: (connection) => (connection.patterns.length || connection.options.client ? [] : ['idle']) },
  opened: { words: /hello/, counts: (connection, session) => session === connection.candidate },
  candidateEnded: { words: /^(it|the candidate) ended/ },
  currentEnded: { words: /the current session ended/, moves: true },
  probe: { words: /a better transport/ },
  renew: { words: /patterns/ },
  switchTo: { words: /switchTo/ },
  wake: { words: /network/ },
  comeBack: { words: /pageshow/ },
  buffered: { words: /the current session ended/ },
  shutSessions: { to: (connection) => [connection.state === 'closed' ? 'closed' : connection.away ? 'away' : 'idle'], moves: true },
  leave: { to: () => ['away'], moves: true },
  finish: { to: () => ['closed'], moves: true },
};

class Watch {
  constructor(connection) {
    this.connection = connection;
    this.reached = new Set([connection.phase()]);
    this.story = [connection.phase()];
    for (const [name, event] of Object.entries(EVENTS)) {
      const method = connection[name];
      connection[name] = (...given) => {
        if (!event.counts || event.counts(connection, ...given)) this.happens(name, event);
        return method.apply(connection, given);
      };
    }
  }

  happens(name, { words, to = () => [], moves }) {
    const rows = words ? ROWS.filter((row) => this.reached.has(row.phase) && words.test(row.event)) : [];
    const next = new Set([...to(this.connection), ...rows.flatMap((row) => row.next)]);
    if (!moves) for (const phase of this.reached) next.add(phase);
    this.story.push(name);
    this.rows = (this.rows || []).concat(rows);
    this.reached = next;
  }

  // Between two turns of the page: the phase is one that the table allows after what has happened.
  check() {
    const phase = this.connection.phase();
    assert.ok(this.reached.has(phase), `the table has no way to: ${this.story.join(', ')}, ${phase}`);
    for (const row of this.rows || []) if (row.next.includes(phase)) row.taken += 1;
    this.rows = [];
    this.reached = new Set([phase]);
    this.story = [phase];
  }
}

module.exports = { Watch, ROWS };
