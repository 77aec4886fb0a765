/*
 * One connection a browser, however many tabs. Load it after client.js and ask for it:
 *
 *   Switchback.connect('', { topics: ['orders.>'], share: 'user-7' });
 *
 * Tabs with the same `share` name (give each signed-in user their own, or `true`) elect a
 * leading tab by a Web Lock. That one holds the connection, for the patterns of all, and tells
 * what it hears on a BroadcastChannel. To the client this is one more transport, the best one:
 * so where it is not possible it is not supported, where it fails the client falls back to a
 * connection of its own, and every tab keeps its own cursor, which makes each change exact.
 *
 *   tab                                    leading tab
 *   join { id, topics }             ->     subscribes to what it does not hear yet
 *                                   <-     welcome { id, cursor }: from there on I tell you all
 *   reads from its own cursor up to
 *   that one, by itself; then           <- item, gap, beat
 *   leave { id }                    ->     forgets the patterns that nobody else wants
 *                                   <-     lead { leader }: a new one; join again
 *
 * A file of its own, and in modern JavaScript: browsers without Web Locks need none of it.
 */
(function (root) {
  'use strict';

  const BEAT_MS = 20000;
  // Browsers let the timers of hidden tabs ring once a minute: two of these must be longer.
  const HEARTBEAT_MS = 45000;
  const CATCH_UP = ['longpoll', 'jsonp', 'iframe-poll'];   // whose every answer moves the cursor
  const CHECK_MS = 20;

  const positionOf = (cursor) => BigInt(cursor.split('-')[1]);
  const epochOf = (cursor) => cursor.split('-')[0];

  // NATS's subject rules: `*` is one token, `>` at the end one or more.
  function matches(pattern, topic) {
    const wanted = pattern.split('.');
    const tokens = topic.split('.');
    for (let i = 0; i < wanted.length; i++) {
      if (wanted[i] === '>') return tokens.length > i;
      if (i >= tokens.length || (wanted[i] !== '*' && wanted[i] !== tokens[i])) return false;
    }
    return wanted.length === tokens.length;
  }

  // ---------------------------------------------------------------- the leading tab

  /*
   * Every tab stands for election once, and leads when its turn comes. While it is in the
   * back/forward cache it must not: it could neither hear nor tell anything.
   */
  class Candidate {
    constructor(Switchback, env, name, base, options) {
      Object.assign(this, { Switchback, env, name, base, options, members: new Map() });
      this.id = env.uuid();
      env.window.addEventListener('pagehide', () => this.resign());
      env.window.addEventListener('pageshow', () => this.stand());
      this.stand();
    }

    stand() {
      if (this.standing) return;
      this.standing = true;
      const { AbortController } = this.env.window;
      this.abort = new AbortController();
      this.env.window.navigator.locks.request(this.name, { signal: this.abort.signal }, () => {
        if (!this.standing) return undefined;
        this.lead();
        return new Promise((resolve) => { this.release = resolve; });
      }).catch(() => { this.standing = false; });   // given up while waiting
    }

    resign() {
      if (!this.standing) return;
      this.standing = false;
      if (!this.release) { this.abort.abort(); return; }
      this.env.clearTimer(this.timer);
      this.line.close();
      this.channel.close();
      this.members.clear();
      this.release();
      this.release = null;
    }

    lead() {
      this.channel = new this.env.window.BroadcastChannel(this.name);
      this.channel.onmessage = ({ data }) => this.told(data);
      this.line = this.Switchback.connect(this.base, { ...this.options, topics: [], cursor: undefined, last: undefined, share: undefined });
      this.line.on('*', (event, item) => { if (event.charAt(0) !== '$') this.tell({ type: 'item', item }); });
      this.line.on('$gap', (gap) => this.tell({ type: 'gap', gap }));
      // Closed by ourselves: another will lead. Else each may have better luck by itself.
      this.line.on('$close', ({ reason }) => this.tell({ type: 'lead', leader: null, lost: reason !== 'closed' }));
      this.tell({ type: 'lead', leader: this.id });
      this.beat();
    }

    beat() {
      if (this.line.cursor && this.line.state === 'open') this.tell({ type: 'beat', cursor: this.line.cursor });
      this.timer = this.env.setTimer(() => this.beat(), BEAT_MS);
    }

    tell(message) { this.channel.postMessage(message); }

    told(message) {
      if (message.type === 'join') this.join(message);
      if (message.type === 'leave' && this.members.has(message.id)) {
        this.members.get(message.id).unsubscribe();
        this.members.delete(message.id);
      }
    }

    join({ id, topics }) {
      const subscription = this.line.subscribe(topics, (error, cursor) => {
        if (error) { this.members.delete(id); this.tell({ type: 'refused', id, message: error.message }); return; }
        this.whenKnown(cursor, (known) => this.tell({ type: 'welcome', id, cursor: known, leader: this.id }));
      });
      this.members.set(id, subscription);
    }

    // A poll is open a moment before its first cursor is read.
    whenKnown(cursor, then) {
      const known = cursor || this.line.cursor;
      if (known) then(known);
      else if (this.release) this.env.setTimer(() => this.whenKnown(undefined, then), CHECK_MS);
    }
  }

  // ---------------------------------------------------------------- each tab's link

  function open(Switchback, candidates, link) {
    const { env, connection } = link;
    const { options, base } = connection;
    const name = `switchback ${base} ${options.share}`;
    const key = candidates.get(env) || candidates.set(env, new Map()).get(env);
    if (!key.has(name)) key.set(name, new Candidate(Switchback, env, name, base, options));

    const id = env.uuid();
    const topics = connection.topics.slice();
    const channel = new env.window.BroadcastChannel(name);
    let leader;
    let behind;            // a connection of our own, until it has caught up with the leader's
    let buffer = [];       // what the leader tells meanwhile
    let timer;

    const join = () => channel.postMessage({ type: 'join', id, topics });

    const handlers = {
      welcome(message) {
        if (message.id !== id || leader) return;
        leader = message.leader;
        // Without a cursor and without a wish, we start where the leader tells us from.
        const start = connection.cursor || options.cursor;
        const history = start && start !== 'now' ? { cursor: start } : !start && options.last ? { last: options.last } : null;
        link.hear({ event: '$hello', cursor: history ? undefined : message.cursor, data: { heartbeat: HEARTBEAT_MS } });
        if (link.over) return;
        if (history && history.cursor !== message.cursor) catchUp(history, message.cursor);
        else live();
      },
      refused(message) { if (message.id === id) link.end({ message: message.message }); },
      lead(message) {
        if (leader && message.lost) link.end({ message: 'The leading tab lost its connection.' });
        else if (leader) link.end({ planned: true });
        else if (message.leader) join();
      },
      item({ item }) { if (topics.some((pattern) => matches(pattern, item.topic))) hear(item); },
      gap({ gap }) {
        const ours = !gap.patterns || gap.patterns.some((pattern) => topics.includes(pattern));
        hear(ours ? { event: '$gap', cursor: gap.to, data: gap } : { event: '$beat', cursor: gap.to });
      },
      beat({ cursor }) { hear({ event: '$beat', cursor }); },
    };
    channel.onmessage = ({ data }) => handlers[data.type] && handlers[data.type](data);

    function hear(item) {
      if (!leader) return;
      if (buffer) buffer.push(item);
      else link.hear(item);
    }

    /*
     * What lies between our cursor and the leader's is read by ourselves. What the leader tells
     * meanwhile waits, and what came both ways falls to the connection's cursor test.
     */
    function catchUp(history, goal) {
      behind = Switchback.connect(base, { ...options, topics, cursor: undefined, last: undefined, ...history, share: undefined, client: undefined, transports: CATCH_UP });
      behind.on('*', (event, item) => { if (event.charAt(0) !== '$') link.hear(item); });
      behind.on('$gap', (gap) => link.hear({ event: '$gap', cursor: gap.to, data: gap }));
      behind.on('$close', (how) => { if (how.reason !== 'closed') link.end({ message: 'Could not catch up with the leading tab.' }); });
      check(goal);
    }

    function check(goal) {
      const at = behind.state === 'open' && behind.cursor;
      if (link.over) return;
      if (!at || epochOf(at) !== epochOf(goal) || positionOf(at) < positionOf(goal)) { timer = env.setTimer(() => check(goal), CHECK_MS); return; }
      behind.close();
      behind = null;
      live();
    }

    function live() {
      const waiting = buffer;
      buffer = null;
      waiting.forEach((item) => link.hear(item));
    }

    join();
    return {
      close() {
        env.clearTimer(timer);
        channel.postMessage({ type: 'leave', id });
        channel.onmessage = null;
        channel.close();
        if (behind) behind.close();
      },
    };
  }

  function install(Switchback) {
    const candidates = new Map();
    Switchback.use({
      name: 'shared', wire: 'shared', stream: true, local: true, optional: 'share',
      supported: ({ window }) => !!(window.navigator && window.navigator.locks && window.BroadcastChannel && window.AbortController),
      open: (link) => open(Switchback, candidates, link),
    });
  }

  if (typeof module === 'object' && module.exports) module.exports = install;
  else install(root.Switchback);
}(typeof window !== 'undefined' ? window : globalThis));
