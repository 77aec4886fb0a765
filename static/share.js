/*
 * One connection a browser, however many tabs. Load it after client.js and connect with `share`:
 *
 *   Switchback.connect('', { topics: ['orders.>'], share: true });
 *
 * Tabs of one group elect a leading tab by a Web Lock. The leading tab holds one connection, for
 * the patterns of all tabs, and relays its items on a BroadcastChannel. To the client this is one
 * more transport, the preferred one: in a browser without Web Locks or BroadcastChannel it is not
 * supported, after a failure the client falls back to a connection of its own, and every tab keeps
 * its own cursor, which makes each switch exact.
 *
 *   member                                 leading tab
 *   takes a lock named by its id
 *   join { id, topics }             ->     subscribes; queues for that lock
 *                                   <-     welcome { id, cursor }: relays all after that cursor
 *   reads from its own cursor up to
 *   that one, by itself; then       <-     item, gap, beat
 *   gives the lock back, or dies    ->     gets the lock: unsubscribes the member's patterns
 *                                   <-     lead { leader }: a new leader; join again
 *
 * A group is: the same server, the same `share`, and the same rights. Tokens with equal claims,
 * but for their times and ids, are of one group; a tab with another user's token is in another
 * group, whatever its `share`. If cookies distinguish users, use the user's name as `share`.
 *
 * A tab is a member as long as one of its connections runs over this transport: when the last one
 * is closed the tab steps down, and when no tab is left the connection ends.
 *
 * A file of its own, in the JavaScript of 2018, since browsers without Web Locks do not need it.
 */
(function (root) {
  'use strict';

  const PROTOCOL = 2;            // of the messages below; tabs with another version share nothing
  const BEAT_MS = 20000;
  // Browsers run the timers of hidden tabs once a minute: two of these must be longer.
  const HEARTBEAT_MS = 45000;
  const LINGER_MS = 1000;        // a session that ends is often followed by the next one at once
  const CHECK_MS = 20;           // between checks of a member's catching up
  const STALLED_MS = 30000;      // catching up without progress
  const BUFFER_MAX = 10000;      // items that wait until a member has caught up
  const MEMBERS_MAX = 256;       // of one leading tab; more have connections of their own
  // Transports whose every response moves the cursor.
  const CATCH_UP = ['longpoll', 'jsonp', 'iframe-poll'];
  // Claims that differ between tokens of equal rights.
  const OWN_TIMES = ['exp', 'iat', 'nbf', 'jti'];

  const positionOf = (cursor) => BigInt(cursor.split('-')[1]);
  const epochOf = (cursor) => cursor.split('-')[0];
  const reaches = (cursor, goal) => epochOf(cursor) === epochOf(goal) &&
    positionOf(cursor) >= positionOf(goal);

  // NATS's subject rules: `*` is one level, `>` at the end one or more.
  function matches(pattern, topic) {
    const wanted = pattern.split('.');
    const levels = topic.split('.');
    for (let i = 0; i < wanted.length; i++) {
      if (wanted[i] === '>') return levels.length > i;
      if (i >= levels.length || (wanted[i] !== '*' && wanted[i] !== levels[i])) return false;
    }
    return wanted.length === levels.length;
  }

  /*
   * A token's claims, in canonical order, without those that differ between two tokens of equal
   * rights. The result becomes part of a name that other scripts of this origin can list, so a
   * token that is no JWT is hashed: the whole token may be secret.
   */
  function rightsOf(window, token) {
    if (!token) return 'anonymous';
    try {
      const claims = JSON.parse(window.atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')));
      const kept = Object.keys(claims).filter((name) => !OWN_TIMES.includes(name)).sort();
      return JSON.stringify(kept.map((name) => [name, claims[name]]));
    } catch (error) {
      return 'opaque ' + hash(token);
    }
  }

  // FNV-1a over two bases: enough to tell a browser's few tokens apart.
  function hash(text) {
    const of = (base) => {
      let value = base;
      for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
      return (value >>> 0).toString(36);
    };
    return of(0x811c9dc5) + of(0x050c5d1f);
  }

  // ---------------------------------------------------------------- the leading tab

  // The connection for all members, and the table of them. `group` is this tab's part in it.
  class Leader {
    constructor(group) {
      const { library, env, name, base, options } = group;
      this.group = group;
      this.env = env;
      this.id = env.uuid();
      this.members = new Map();
      this.channel = new env.window.BroadcastChannel(name);
      this.channel.onmessage = ({ data }) => { if (data.type === 'join') this.join(data); };
      const transports = [].concat(options.transports || []).filter((each) => each !== 'shared');
      this.connection = library.connect(base, {
        // Other members may want every event. A member that is behind reads as its own options have it.
        ...options, latest: undefined, pace: undefined,
        topics: [], cursor: undefined, last: undefined, client: undefined, share: undefined, resume: undefined,
        transports: transports.length ? transports : undefined,
        token: options.token === undefined ? undefined : (done) => group.token(done),
      });
      this.connection.on('*', (event, item) => {
        if (event.charAt(0) !== '$') this.broadcast({ type: 'item', item });
      });
      this.connection.on('$gap', (gap) => this.broadcast({ type: 'gap', gap }));
      this.connection.on('$live', ({ cursor }) => this.broadcast({ type: 'live', cursor }));
      this.connection.on('$close', ({ reason }) => { if (reason !== 'closed') group.lost(); });
      this.broadcast({ type: 'lead', leader: this.id });
      this.beat();
    }

    broadcast(message) { this.channel.postMessage(message); }

    beat() {
      const { cursor, state } = this.connection;
      if (cursor && state === 'open') this.broadcast({ type: 'beat', cursor });
      this.timer = this.env.setTimer(() => this.beat(), BEAT_MS);
    }

    /*
     * The welcome waits until the server has confirmed every pattern. Sent earlier, it would carry
     * a cursor that covers other members' patterns only, and events up to there would be missed.
     */
    join({ id, topics }) {
      if (this.members.has(id)) return;
      if (this.members.size >= MEMBERS_MAX) {
        const message = `The leading tab serves ${MEMBERS_MAX} connections already.`;
        this.broadcast({ type: 'refused', id, message });
        return;
      }
      const { AbortController, navigator } = this.env.window;
      const member = { abort: new AbortController(), subscription: null };
      this.members.set(id, member);
      member.subscription = this.connection.subscribe(topics, (error, cursor) => {
        if (this.members.get(id) !== member) return;
        if (!error) { this.broadcast({ type: 'welcome', id, cursor, leader: this.id }); return; }
        this.forget(id);
        const { message, code, status } = error;
        this.broadcast({ type: 'refused', id, message, code, status });
      });
      // The browser releases the locks of a tab that is closed or crashes, sooner than any timeout.
      const { signal } = member.abort;
      navigator.locks.request(lockOf(id), { signal }, () => this.forget(id)).catch(() => {});
    }

    forget(id) {
      const member = this.members.get(id);
      if (!member) return;
      this.members.delete(id);
      member.abort.abort();
      member.subscription.unsubscribe();
    }

    // `lost`: each member opens a connection of its own. Otherwise another tab will lead.
    end(lost) {
      if (lost) this.broadcast({ type: 'lost' });
      this.env.clearTimer(this.timer);
      for (const { abort } of this.members.values()) abort.abort();
      this.members.clear();
      this.connection.close();
      this.channel.close();
    }
  }

  const lockOf = (id) => 'switchback member ' + id;

  // ---------------------------------------------------------------- this tab's part in a group

  /*
   * The tab is a candidate while it has a session in the group, and leads once it gets the lock;
   * but not while the page is in the back/forward cache, where no message arrives.
   */
  class Group {
    constructor(library, env, name, rights, base, retired) {
      Object.assign(this, { library, env, name, rights, base, retired, sessions: new Set() });
      this.hidden = () => this.resign();
      env.window.addEventListener('pagehide', this.hidden);
    }

    attach(session) {
      this.sessions.add(session);
      this.options = session.connection.options;
      this.env.clearTimer(this.lingering);
      this.requestLead();
    }

    // A close by the application is final; after any other end a new session may follow.
    detach(session) {
      this.sessions.delete(session);
      if (this.sessions.size) return;
      this.env.clearTimer(this.lingering);
      this.lingering = this.env.setTimer(() => this.retire(), LINGER_MS);
      // Deferred: the connection's state is closed only when all its sessions are.
      Promise.resolve().then(() => { if (session.connection.state === 'closed') this.retire(); });
    }

    retire() {
      if (this.sessions.size) return;
      this.env.clearTimer(this.lingering);
      this.env.window.removeEventListener('pagehide', this.hidden);
      this.resign();
      this.retired();
    }

    requestLead() {
      if (this.abort) return;
      const { AbortController, navigator } = this.env.window;
      const abort = this.abort = new AbortController();
      navigator.locks.request(this.name, { signal: abort.signal }, () => {
        if (abort !== this.abort) return undefined;
        this.leader = new Leader(this);
        return new Promise((resolve) => { this.release = resolve; });
      }).catch(() => { if (abort === this.abort) this.abort = null; });
    }

    resign(lost) {
      const { abort, leader, release } = this;
      this.abort = this.leader = this.release = null;
      if (leader) { leader.end(lost); release(); }
      else if (abort) abort.abort();
    }

    // No other tab is elected: the same error would end its connection as well.
    lost() { this.resign(true); }

    /*
     * The token for the leading connection, from the options of a connection in this tab. A token
     * from a function must grant the same as before: otherwise a page that signs in another user
     * would pass that user's events to the previous user's tabs. `null` ends the connection.
     */
    token(done) {
      const options = [...this.sessions].map((session) => session.connection.options.token);
      options.push(this.options.token);
      const provider = options.find((token) => typeof token === 'function');
      const same = (token) => (typeof token !== 'string' || this.grants(token) ? token : null);
      if (!provider) {
        const text = options.find((token) => token !== this.given && this.grants(token));
        this.given = text;
        return done(null, text === undefined ? null : text);
      }
      const answer = provider((error, token) => done(error, same(token)));
      return answer && typeof answer.then === 'function' ? answer.then(same) : same(answer);
    }

    grants(token) {
      return typeof token === 'string' && rightsOf(this.env.window, bare(token)) === this.rights;
    }
  }

  const bare = (token) => token.replace(/^\s*(Bearer\s+)?|\s+$/gi, '');

  // ---------------------------------------------------------------- each session

  // One session of the client's over this transport: a member of the group.
  class Member {
    constructor(library, group, session) {
      const { env } = session;
      Object.assign(this, { library, group, session, env });
      this.id = env.uuid();
      this.topics = session.texts;
      this.leader = undefined;
      this.behind = null;     // a connection of its own, until it has caught up with the leader's
      this.buffer = [];       // items that the leader relays meanwhile; null once caught up
      this.channel = new env.window.BroadcastChannel(group.name);
      this.channel.onmessage = ({ data }) => this.receive(data);
      this.abort = new env.window.AbortController();
      group.attach(this.session);
      env.window.navigator.locks.request(lockOf(this.id), { signal: this.abort.signal }, () => {
        if (this.closed) return undefined;
        this.join();
        return new Promise((resolve) => { this.release = resolve; });
      }).catch((error) => {
        if (!this.closed) session.end({ message: 'No Web Lock: ' + error.message });
      });
    }

    join() { this.channel.postMessage({ type: 'join', id: this.id, topics: this.topics }); }

    receive(message) {
      switch (message.type) {
        case 'welcome': if (message.id === this.id && !this.leader) this.welcome(message); break;
        case 'refused': if (message.id === this.id) this.refused(message); break;
        // A welcomed member starts over: a new leader's connection is at another cursor.
        case 'lead':
          if (this.leader) this.session.end({ planned: true });
          else if (this.release) this.join();
          break;
        case 'lost': this.session.end({ message: 'The leading tab lost its connection.' }); break;
        case 'item': if (this.wants(message.item.topic)) this.take(message.item); break;
        case 'gap': this.gap(message.gap); break;
        case 'beat': this.take({ event: '$beat', cursor: message.cursor }); break;
        case 'live': this.take({ event: '$live', cursor: message.cursor }); break;
        default:
      }
    }

    // The server's refusal of a pattern applies to this session too; any other error is one of sharing.
    refused({ message, code, status }) {
      const isVerdict = status === 400 || status === 403;
      this.session.end(isVerdict ? this.library.endings.refused({ code, message }, status) : { message });
    }

    wants(topic) { return this.topics.some((pattern) => matches(pattern, topic)); }

    gap(gap) {
      // The cursor to catch up to is one of the log before: it may name another event by now.
      if (this.behind && gap.reason !== 'expired') { this.session.end({ planned: true }); return; }
      const ours = !gap.patterns || gap.patterns.some((pattern) => this.topics.includes(pattern));
      this.take(ours ? { event: '$gap', cursor: gap.to, data: gap } : { event: '$beat', cursor: gap.to });
    }

    // Items that the leader relays before the welcome are for other members.
    take(item) {
      if (!this.leader) return;
      if (!this.buffer) this.session.receive(item);
      else if (this.buffer.length < BUFFER_MAX) this.buffer.push(item);
      else this.session.end({ message: 'Catching up with the leading tab takes too long.' });
    }

    // Without a cursor of its own, and without an option that names one, it starts at the leader's.
    welcome({ leader, cursor }) {
      const { session } = this;
      const history = this.history();
      this.leader = leader;
      const data = { heartbeat: HEARTBEAT_MS };
      session.receive({ event: '$hello', cursor: history ? undefined : cursor, data });
      if (this.closed) return;
      if (history && history.cursor !== cursor) this.catchUp(history, cursor);
      else this.live(cursor);
    }

    history() {
      const { connection, now } = this.session;
      const { options } = connection;
      const start = now ? undefined : connection.cursor || options.cursor;
      if (start) return start === 'now' ? null : { cursor: start };
      return options.last && !now ? { last: options.last } : null;
    }

    /*
     * Reads the events between its own cursor and the leader's. Items that the leader relays meanwhile
     * are buffered; duplicates are dropped by the connection's cursor check.
     */
    catchUp(history, goal) {
      const { session, topics } = this;
      const { base, options } = session.connection;
      this.behind = this.library.connect(base, {
        ...options, cursor: undefined, last: undefined, ...history,
        topics, token: session.token, share: undefined, client: undefined, resume: undefined, transports: CATCH_UP,
      });
      this.behind.on('*', (event, item) => {
        if (event.charAt(0) !== '$') session.receive(item);
      });
      this.behind.on('$gap', (gap) => session.receive({ event: '$gap', cursor: gap.to, data: gap }));
      this.behind.on('$close', ({ reason }) => {
        if (reason !== 'closed') session.end({ message: 'Could not catch up with the leading tab.' });
      });
      this.check(goal, undefined, 0);
    }

    check(goal, before, idle) {
      const at = this.behind.state === 'open' ? this.behind.cursor : undefined;
      if (this.closed) return;
      if (at && reaches(at, goal)) {
        this.behind.close();
        this.behind = null;
        this.live(goal);
      } else if (idle >= STALLED_MS) {
        this.session.end({ message: 'Could not catch up with the leading tab.' });
      } else {
        const still = at === before ? idle + CHECK_MS : 0;
        this.timer = this.env.setTimer(() => this.check(goal, at, still), CHECK_MS);
      }
    }

    live(cursor) {
      const waiting = this.buffer;
      this.buffer = null;
      // All up to here is delivered: a batch, since that completes waits for a cursor.
      this.session.batch({ cursor, events: [], live: true });
      waiting.forEach((item) => this.session.receive(item));
    }

    close() {
      if (this.closed) return;
      this.closed = true;
      this.env.clearTimer(this.timer);
      if (this.release) this.release();
      else this.abort.abort();
      this.channel.onmessage = null;
      this.channel.close();
      if (this.behind) this.behind.close();
      this.group.detach(this.session);
    }
  }

  // ---------------------------------------------------------------- the transport

  function install(library) {
    if (library.transports.includes('shared')) return;
    const groups = new Map();
    function groupOf(session) {
      const { env, connection, token } = session;
      const { base, options } = connection;
      const rights = rightsOf(env.window, token);
      const name = ['switchback', PROTOCOL, base, options.share, rights].join(' ');
      if (!groups.has(name)) {
        groups.set(name, new Group(library, env, name, rights, base, () => groups.delete(name)));
      }
      return groups.get(name);
    }

    library.use({
      name: 'shared', wire: 'shared', stream: true, local: true, optional: 'share',
      supported: ({ window }) => !!(window.navigator && window.navigator.locks &&
        window.BroadcastChannel && window.AbortController),
      open: (session) => new Member(library, groupOf(session), session),
    });
  }

  // An import for the side effect is enough, if the file is bundled with the client.
  if (typeof module === 'object' && module.exports) {
    module.exports = install;
    install(require('./client.js'));
  } else install(root.Switchback);
}(typeof window !== 'undefined' ? window : globalThis));
