/*!
 * Switchback client: a page subscribes to events and gets each of them once, in order,
 * over whatever transport its browser and its network let through.
 *
 *   var line = Switchback.connect('', { topics: ['orders.>'] });
 *   line.on('approved', function (item) { show(item.topic, item.data); });
 *   line.on('$gap', function (gap) { reloadEverything(); });
 *
 * Written in ES3 against the APIs of Internet Explorer 8; whatever is newer is looked for
 * before it is used. No build step: this file is what browsers get and what you debug.
 *
 * The map, top-down:
 *   Connection   what the application holds: the cursor, the events, subscribe and publish
 *   its life     from nothing to a working link, from one link to a better one, and back
 *   Chooser      which transport to try next; pure bookkeeping, no I/O
 *   Link         one transport opened once: its hello deadline, its silence, its end
 *   Transports   nine of one shape: { name, wire, stream, sure, supported(env), open(link) }
 *   Requests     the three ways to ask a question: HTTP, a script tag, a hidden frame
 *   Publisher    a publish, followed until its fate is known, or said to be unknown
 *   Small tools  cursors, emitter, backoff, URLs
 *   Environment  the only place that touches the browser's clock, chance and globals
 *
 * Everything rests on one invariant: only the current link delivers, and only what lies after
 * the connection's cursor. Any link may therefore be dropped, doubled or replaced at any
 * moment, and nothing is lost or repeated.
 */
(function (root, define) {
  var api = define(root);
  if (typeof module === 'object' && module && module.exports) module.exports = api;
  else root.Switchback = api;
}(typeof window !== 'undefined' ? window : typeof globalThis !== 'undefined' ? globalThis : this, function (root) {
  var HELLO_MS = 5000;           // a transport that has not said hello by then does not work here
  var PATIENCE_MAX_MS = 40000;   // ... on the slowest of networks
  var HEARTBEAT_MS = 20000;      // until $hello tells the server's own
  var BACKOFF_FIRST_MS = 500;
  var BACKOFF_MAX_MS = 20000;
  var PROBE_FIRST_MS = 60000;
  var PROBE_MAX_MS = 600000;
  var REMEMBER_MS = 86400000;
  var ACK_MS = 30000;
  var HOLD_S = 25;               // of a long poll; common proxies cut at 55 to 100
  var POLL_MS = 3000;            // between short polls
  var BATCH = 256;               // a fuller batch than this means: ask again at once
  var PUBLISH_MS = 30000;        // until a publish without an answer is called unknown
  var TOKEN_MS = 30000;          // for the application's token callback
  var COMPLETE_MS = 3000;        // that frames and held scripts wait for the page to be complete
  var URL_MAX = 2000;            // of a script or a frame: IE refuses 2083
  var XHR_RECYCLE = 524288;      // an XHR keeps all it has read: start anew now and then

  // ------------------------------------------------------------------ Connection

  function create(env) {
    var api = {
      connect: function (url, options) { return new Connection(env, url, options); },
      emitter: emitter,
      transports: names(env.transports),
      // One more transport, the best of all from now on; share.js brings one.
      use: function (transport) {
        env.transports.unshift(transport);
        api.transports = names(env.transports);
      },
      supported: function () {
        return names(filter(env.transports, function (transport) { return transport.supported(env); }));
      },
      // A second library with another clock, chance or window: how the tests simulate time.
      create: function (overrides) { return create(merge(browser(root), overrides)); }
    };
    return api;
  }

  function Connection(env, url, options) {
    options = options || {};
    this.env = env;
    this.options = options;
    this.base = absolute(env, url || '');
    this.foreign = origin(this.base) !== pageOrigin(env);
    this.topics = list(options.topics || options.topic);
    this.events = emitter(function (error) { env.setTimer(function () { throw error; }, 0); });

    this.clientId = options.client || env.uuid();
    this.cursor = isCursor(options.cursor) ? options.cursor : undefined;
    this.transport = undefined;
    this.state = 'connecting';
    this.stats = { received: 0, repeated: 0, gaps: 0, requests: 0, bytes: 0, opens: 0, switches: 0, failures: 0, rtt: undefined };

    this.chooser = new Chooser(env, options, this.base);
    this.publisher = new Publisher(this);
    this.current = null;       // the link that delivers
    this.candidate = null;     // the link that is being tried
    this.queue = [];           // transports still to be tried, now
    this.waiting = [];         // callbacks of subscribe that the next link answers
    this.round = 0;            // rounds in a row in which none worked
    this.slowness = 0;         // of those, the ones in which none even answered
    this.probeDelay = 0;
    this.timers = {};
    this.holdSeconds = this.longestHold = options.wait === undefined ? HOLD_S : options.wait;

    this.watchPage();
    // Later, not now: the caller has yet to register its listeners.
    this.after('retry', 0, this.begin);
    this.after('ack', ACK_MS, this.ackRegularly);
  }

  Connection.prototype = {
    // The emitter, in the manner of mitt: '*' hears everything as (name, item).
    on: function (name, listener) {
      this.events.on(name, listener);
      each([this.current, this.candidate], function (link) { if (link && link.handle && link.handle.hear) link.handle.hear(name); });
      return this;
    },
    once: function (name, listener) {
      var self = this;
      function once(a, b) { self.off(name, once); listener(a, b); }
      once.listener = listener;
      return this.on(name, once);
    },
    off: function (name, listener) { this.events.off(name, listener); return this; },
    clear: function () { this.events.clear(); return this; },

    // Adds patterns. `done(error, cursor)` tells from which cursor on they are heard.
    subscribe: function (topics, done) {
      var fresh = without(list(topics), this.topics);
      this.topics = this.topics.concat(fresh);
      this.retopic({ type: 'subscribe', topics: fresh }, done);
      return this;
    },

    unsubscribe: function (topics, done) {
      var gone = both(list(topics), this.topics);
      this.topics = without(this.topics, gone);
      this.retopic({ type: 'unsubscribe', topics: gone }, done);
      return this;
    },

    /*
     * `done(error, { cursor, duplicate, id })`, and the same as a promise where there are any.
     * An error with the code `unknown` says honestly that the event may or may not have been
     * stored; publishing it again with that error's `id` is safe for two minutes.
     */
    publish: function (topic, data, options, done) {
      if (typeof options === 'function') { done = options; options = null; }
      options = options || {};
      var message = { topic: topic, data: data, id: options.id || this.env.uuid() };
      if (options.event) message.event = options.event;
      var publisher = this.publisher;
      var Promise = this.env.window.Promise;
      if (done || !Promise) { publisher.publish(message, done || nothing); return undefined; }
      return new Promise(function (resolve, reject) {
        publisher.publish(message, function (error, result) { if (error) reject(error); else resolve(result); });
      });
    },

    /*
     * Moves to the named transport and stays with it while it works; 'auto' gives the choice
     * back. The old one goes on delivering until the new one has said hello.
     */
    switchTo: function (name, done) {
      if (name !== 'auto' && !find(this.env.transports, name)) throw new Error('Switchback: no transport is called "' + name + '". There are: auto, ' + names(this.env.transports).join(', '));
      if (this.state === 'closed') throw new Error('Switchback: the connection is closed.');
      this.settleSwitch({ message: 'Another switch was asked for.' });
      this.chooser.pinned = name === 'auto' ? null : name;
      this.switched = done;
      this.probeDelay = 0;
      this.abandon();
      if (!this.current) this.begin();
      else if (this.chooser.better(this.current.name).length) this.probe();
      else this.settleSwitch(null);
      return this;
    },

    close: function () {
      if (this.state !== 'closed') this.finish({ reason: 'closed' });
      return this;
    }
  };

  // ------------------------------------------------------------------ its life

  /*
   * Nothing works at the moment: try one transport after the other. What is sure comes first
   * (or what worked last time), so that the first event is one round trip away; the search
   * for something better starts when that runs, and costs the application nothing.
   */
  Connection.prototype.begin = function () {
    this.stop('retry');
    if (this.current || this.candidate || this.state === 'closed' || this.away) return;
    if (!this.topics.length && !this.options.client) return;   // a subscribe will call again
    this.queue = this.chooser.start(this.round);
    if (!this.queue.length) return this.finish({ code: 'unsupported', message: 'This browser supports none of the allowed transports.' });
    this.failure = null;
    this.silent = true;
    this.tryNext();
  };

  Connection.prototype.tryNext = function () {
    var name = this.queue.shift();
    if (name) this.open(name);
    else if (this.current) this.probeLater();
    else this.roundFailed();
  };

  Connection.prototype.open = function (name) {
    var transport = find(this.env.transports, name);
    if (this.current && this.current.wire === transport.wire) this.current.rivalled = true;
    this.candidate = new Link(this, transport);
    this.candidate.open();
  };

  Connection.prototype.roundFailed = function () {
    var failure = this.failure;
    // Asked on every transport and refused: asking again would be rude and useless.
    if (failure.refused && !this.renewable()) return this.finish(failure);
    // A silence of the whole patience says that the round trip is at least that long.
    if (this.silent) this.slowness += 1;
    this.chooser.forgive();
    var wait = Math.max(backoff(this.env, this.round), failure.retry || 0);
    this.round += 1;
    this.trouble(failure, wait);
    this.after('retry', wait, this.begin);
  };

  // Called by a link when its hello, or a poll's first answer, has come in time.
  Connection.prototype.promote = function (link) {
    var before = this.current;
    var from = this.transport;
    this.candidate = null;
    this.current = link;
    // Break only now that the new one is made. What both delivered falls to the cursor test.
    if (before) before.shut();
    this.round = this.slowness = 0;
    this.transport = link.name;
    this.chooser.worked(link.name);
    var opening = this.state !== 'open';
    this.state = 'open';
    if (opening) { this.stats.opens += 1; this.emit('$open', { transport: link.name, client: this.clientId, cursor: this.cursor }); }
    if (from && from !== link.name) { this.stats.switches += 1; this.emit('$switch', { from: from, to: link.name }); }
    // Whatever patterns were changed meanwhile, this link was opened with them.
    var waiting = this.waiting;
    this.waiting = [];
    for (var i = 0; i < waiting.length; i++) waiting[i](null, this.cursor);
    if (link === this.current) { this.settleSwitch(null); this.probeLater(); }
  };

  // Called by a link once, when it is over and did not end by our own wish.
  Connection.prototype.ended = function (link, how) {
    // A socket that does not open can't say why. Perhaps the token has ended meanwhile.
    if (how.code === 'expired' || how.status === 401 || (link.wire === 'ws' && !link.working)) this.token = undefined;
    if (link === this.candidate) this.candidateFailed(how);
    else if (link === this.current) this.currentEnded(link, how);
  };

  Connection.prototype.candidateFailed = function (how) {
    this.candidate = null;
    this.stats.failures += 1;
    if (!how.silent) this.silent = false;
    if (this.isFinal(how)) return this.finish(how);
    if (how.refused || !this.failure || !this.failure.refused) this.failure = how;
    if (this.current && this.current.outdated) { this.current.shut(); this.current = null; return this.begin(); }
    if (!this.queue.length) this.settleSwitch(how);
    this.tryNext();
  };

  Connection.prototype.currentEnded = function (link, how) {
    this.current = null;
    // Our own newer link on the same transport made the server end this one.
    var ours = how.reason === 'replaced' && link.rivalled;
    if (!ours && this.isFinal(how)) return this.finish(how);
    if (how.planned || how.bye || ours) {
      // A pause that the server announced, or a full stream: no trouble, so nothing is said.
      if (!this.candidate) this.after('retry', how.retry || 0, this.begin);
      return;
    }
    // A question that found no answer says nothing against asking questions.
    if (link.stream && !how.woken) this.chooser.broke(link.name, this.env.now() - link.openedAt, link.heartbeat, how.muted);
    this.stats.failures += 1;
    this.probeDelay = Math.max(this.probeDelay, PROBE_FIRST_MS);
    var wait = how.woken ? 0 : Math.max(backoff(this.env, 0), how.retry || 0);
    this.trouble(how, wait);
    if (this.state === 'closed' || this.candidate) return;
    this.after('retry', wait, this.begin);
  };

  /*
   * Would coming back be told the same? A bad parameter is bad on every transport, and a
   * goodbye without `retry` means it: two tabs with one id would replace each other for ever.
   */
  Connection.prototype.isFinal = function (how) {
    if (how.reason === 'expired') return !this.renewable();
    return how.status === 400 || (!!how.bye && how.retry === undefined);
  };

  Connection.prototype.probeLater = function () {
    if (!this.chooser.better(this.current.name).length && !this.chooser.blocked()) {
      this.probeDelay = PROBE_FIRST_MS;
      return this.stop('probe');
    }
    this.after('probe', this.probeDelay, this.probe);
    this.probeDelay = Math.min(Math.max(this.probeDelay * 2, PROBE_FIRST_MS), PROBE_MAX_MS);
  };

  // Tries what is better than the current transport, best first, while that goes on delivering.
  Connection.prototype.probe = function () {
    if (!this.current || this.away) return;
    this.abandon();
    this.stop('probe');
    this.queue = this.chooser.better(this.current.name);
    this.tryNext();
  };

  // Opens the same transport once more at the cursor: fresh patterns, or a fresh network.
  Connection.prototype.renew = function () {
    this.abandon();
    this.open(this.current.name);
  };

  Connection.prototype.abandon = function () {
    this.queue = [];
    if (this.candidate) this.candidate.shut();
    this.candidate = null;
  };

  Connection.prototype.settleSwitch = function (failure) {
    var done = this.switched;
    this.switched = null;
    if (done) done(failure && problem(failure), this.transport);
  };

  Connection.prototype.trouble = function (how, wait) {
    this.state = 'connecting';
    this.emit('$error', { message: this.explain(how), code: how.code, status: how.status, transport: how.transport, retry: Math.round(wait) });
  };

  Connection.prototype.finish = function (how) {
    if (this.state === 'closed') return;
    if (this.current) this.ack(this.current);
    this.abandon();
    if (this.current) this.current.shut();
    this.current = null;
    for (var name in this.timers) this.stop(name);
    this.unwatchPage();
    this.state = 'closed';
    this.publisher.close();
    each(this.waiting, function (done) { done(problem(how)); });
    if (how.reason !== 'closed') this.emit('$error', { message: this.explain(how), code: how.code || how.reason, status: how.status, transport: how.transport });
    this.emit('$close', { reason: how.reason || how.code || 'refused' });
    this.settleSwitch(how);
  };

  Connection.prototype.explain = function (how) {
    if (how.message) return how.message;
    if (how.bye) return 'The server ended the connection: ' + how.reason + '.';
    var text = 'No answer from ' + (this.base || 'the server') + (how.transport ? ' over ' + how.transport : '') + '. Is it running?';
    // A browser hides from scripts why another origin's answer was withheld.
    if (this.foreign) text += ' It is not this page\'s origin, so it must also allow it: --allow-origin ' + pageOrigin(this.env) + '.';
    return text;
  };

  // -- what arrives

  /*
   * Is this news? The new link of a switch starts where the old one stood when it was opened,
   * so it repeats what the old one delivered meanwhile; a gap may also move the cursor back
   * (the log was lost), which only a link that has seen all that we have seen may tell us.
   */
  Connection.prototype.advance = function (link, cursor, isGap) {
    var upToDate = link.at === this.cursor;
    var order = this.cursor === undefined ? -1 : compare(this.cursor, cursor);
    link.at = cursor;
    if (order < 0 || (isGap && (upToDate || order === undefined))) { this.cursor = cursor; return true; }
    if (order === undefined) link.end({ code: 'protocol', message: 'The server moved to another log without telling the gap.' });
    return false;
  };

  Connection.prototype.deliver = function (link, item) {
    if (!this.advance(link, item.cursor)) { this.stats.repeated += 1; return; }
    this.stats.received += 1;
    this.publisher.heard(item);
    this.emit(item.event, item);
  };

  Connection.prototype.gap = function (link, item) {
    if (!this.advance(link, item.cursor, true)) return;
    this.stats.gaps += 1;
    this.emit('$gap', item.data);
  };

  Connection.prototype.emit = function (name, item) { this.events.emit(name, item); };

  // For ten minutes, as long as a transport is left out at most: networks change.
  Connection.prototype.holdLess = function (seconds) {
    this.holdSeconds = seconds;
    this.after('hold', PROBE_MAX_MS, function () { this.holdSeconds = this.longestHold; });
  };

  // -- patterns

  Connection.prototype.retopic = function (message, done) {
    var self = this;
    done = done || nothing;
    if (this.state === 'closed') return done(problem({ message: 'The connection is closed.' }));
    if (!message.topics.length) return done(null, this.cursor);
    // A candidate was opened with the old patterns: whatever it was for starts again.
    var wasTrying = this.candidate !== null;
    this.abandon();
    if (!this.topics.length && !this.options.client) return this.idle(done);
    if (this.current && this.current.handle.send) {
      this.current.ask(message, function (failure, reply) {
        // The socket went before it answered: the next link is opened with the new patterns.
        if (failure && !failure.code) return self.waiting.push(done);
        // What was refused must not be asked again by the next link.
        if (failure && message.type === 'subscribe') self.topics = without(self.topics, message.topics);
        done(failure && problem(failure), reply && reply.cursor);
      });
      if (wasTrying) this.probeLater();
      return;
    }
    this.waiting.push(done);
    if (this.current) { this.current.outdated = true; this.renew(); }
    else if (wasTrying || this.timers.retry === undefined) this.begin();
  };

  // Nothing is wanted any more: nothing is held open for it.
  Connection.prototype.idle = function (done) {
    if (this.current) this.current.shut();
    this.current = null;
    this.state = 'connecting';
    done(null, this.cursor);
  };

  // -- how far it got

  Connection.prototype.ackRegularly = function () {
    if (this.current) this.ack(this.current);
    this.after('ack', ACK_MS, this.ackRegularly);
  };

  Connection.prototype.ack = function (link) {
    // A poll acknowledges by presenting its cursor. A socket refuses more than it has sent.
    var cursor = link.handle && link.handle.send ? link.at : this.cursor;
    if (!link.stream || link.transport.local || !cursor || cursor === this.acked) return;
    this.acked = cursor;
    if (link.handle.send) link.handle.send({ type: 'ack', cursor: cursor });
    else if (canHttp(this.env)) http(this.env, this.ackRequest(cursor), nothing);
  };

  Connection.prototype.ackRequest = function (cursor) {
    return { method: 'POST', url: this.endpoint('ack', this.token ? [['token', this.token]] : []), timeout: HELLO_MS, credentials: this.options.credentials,
      // As text, like a beacon: JSON would cost a preflight on another origin.
      type: 'text/plain', body: JSON.stringify({ client: this.clientId, cursor: cursor }) };
  };

  Connection.prototype.endpoint = function (path, params) {
    return this.base + '/v1/' + path + (params.length ? '?' + query(params) : '');
  };

  // -- who asks

  /*
   * The application's token: a string, or a function that answers by a callback, a promise or
   * at once. It is kept until the server says that it has expired, then asked for anew.
   */
  Connection.prototype.withToken = function (done) {
    var self = this;
    var option = this.options.token;
    if (this.token || typeof option !== 'function') return done(null, this.token || (this.token = option));
    var timer = this.env.setTimer(function () { settle({ code: 'token', message: 'The token callback did not answer.' }); }, TOKEN_MS);
    var settle = onlyOnce(function (error, token) {
      self.env.clearTimer(timer);
      if (!error) self.token = token;
      done(error && { code: 'token', message: 'The token callback failed: ' + (error.message || error) }, token);
    });
    try {
      var answer = option(settle);
      if (answer && typeof answer.then === 'function') answer.then(function (token) { settle(null, token); }, settle);
      else if (typeof answer === 'string') settle(null, answer);
    } catch (error) { settle(error); }
  };

  Connection.prototype.renewable = function () { return typeof this.options.token === 'function'; };

  /*
   * EventSource and frames can't set a header, and a token in a URL ends up in logs: a ticket
   * is good for one opening. Where there are none (no XHR, an older server), the token itself.
   */
  Connection.prototype.withTicket = function (wire, done) {
    var self = this;
    this.withToken(function (error, token) {
      if (error || !token || !canHttp(self.env)) return done(error, token ? [['token', token]] : []);
      http(self.env, { method: 'POST', url: self.endpoint('tickets', []), type: 'application/json', token: token,
        body: JSON.stringify({ transport: wire }), timeout: self.patience(), credentials: self.options.credentials }, function (failure, text) {
        if (failure && failure.status !== 404 && failure.status !== 501) return done(failure);
        var answer = failure ? null : parse(text);
        done(null, [answer && answer.ticket ? ['ticket', answer.ticket] : ['token', token]]);
      });
    });
  };

  // A fixed short timeout would give up healthy connections on slow networks.
  Connection.prototype.patience = function () {
    var roundTrips = 2 * (this.stats.rtt || 0);
    return Math.min(Math.max(HELLO_MS, roundTrips) * Math.pow(2, this.slowness), Math.max(PATIENCE_MAX_MS, roundTrips));
  };

  // -- the page around it

  /*
   * Never `unload`: it keeps pages out of the back/forward cache and phones do not fire it.
   * An open connection does that too, so on `pagehide` the links go, and the cursor stays.
   */
  Connection.prototype.watchPage = function () {
    var self = this;
    var window = this.env.window;
    function wake() { self.wake(); }
    this.unlisten = [
      listen(window, 'pagehide', function () { self.leave(); }),
      listen(window, 'pageshow', function () { self.comeBack(); }),
      listen(window, 'online', function () { self.networkChanged(); }),
      listen(window.document, 'resume', wake),
      listen(window.document, 'visibilitychange', function () { if (window.document.visibilityState === 'visible') wake(); })
    ];
  };

  Connection.prototype.unwatchPage = function () {
    for (var i = 0; i < this.unlisten.length; i++) this.unlisten[i]();
  };

  Connection.prototype.leave = function () {
    this.away = true;
    var navigator = this.env.window.navigator;
    if (this.cursor && this.cursor !== this.acked && navigator && navigator.sendBeacon) {
      var request = this.ackRequest(this.cursor);
      if (navigator.sendBeacon(request.url, request.body)) this.acked = this.cursor;
    }
    this.abandon();
    if (this.current) this.current.shut();
    this.current = null;
    this.stop('retry');
    this.stop('probe');
  };

  Connection.prototype.comeBack = function () {
    if (!this.away) return;
    this.away = false;
    this.round = 0;
    this.begin();
  };

  // Slept, hidden or throttled: don't wait out a timer that was set in another life.
  Connection.prototype.wake = function () {
    if (this.timers.retry) { this.round = 0; this.begin(); }
    if (this.current) this.current.checkSilence(true);
  };

  // Another network may allow more, and streams over the old one die without a word.
  Connection.prototype.networkChanged = function () {
    if (this.away || this.state === 'closed') return;
    this.chooser.forgive(true);
    this.probeDelay = 0;
    if (this.current) this.renew();
    else this.wake();
  };

  // -- timers by name, so that setting one twice can't leave a stray

  Connection.prototype.after = function (name, ms, then) {
    var self = this;
    this.stop(name);
    this.timers[name] = this.env.setTimer(function () { delete self.timers[name]; then.call(self); }, ms);
  };

  Connection.prototype.stop = function (name) {
    if (this.timers[name] !== undefined) this.env.clearTimer(this.timers[name]);
    delete this.timers[name];
  };

  // ------------------------------------------------------------------ Chooser

  /*
   * What to try, in which order. One failure never latches: a transport that keeps breaking
   * is left out for a minute, then two, up to ten, and is then tried again.
   */
  function Chooser(env, options, base) {
    this.env = env;
    this.allowed = options.transports ? list(options.transports) : names(filter(env.transports, function (transport) { return !transport.optional || options[transport.optional]; }));
    // With another choice there is another best.
    this.key = 'switchback:' + base + ' ' + this.allowed.join(' ');
    this.pinned = null;
    this.last = null;
    this.records = {};
    for (var i = 0; i < env.transports.length; i++) this.records[env.transports[i].name] = { strikes: 0, penalty: PROBE_FIRST_MS, until: 0 };
  }

  Chooser.prototype = {
    // A full tour at first; later, while the server is away, three tries a round are enough.
    start: function (round) {
      var usable = this.usable();
      var sure = filter(usable, this.isSure, this);
      var order = this.pinned ? [this.pinned] : [];
      order = unique(order.concat(both([this.last || this.recall()], usable), sure, usable));
      if (!round || order.length < 4) return order;
      return [order[0], order[1], order[2 + (round - 1) % (order.length - 2)]];
    },

    // Better than the named one, best first. The application's own order is the preference.
    better: function (than) {
      if (this.pinned) return this.pinned === than ? [] : [this.pinned];
      var usable = this.usable();
      for (var i = 0; i < usable.length; i++) if (this.preference(usable[i]) >= this.preference(than)) break;
      return usable.slice(0, i);
    },

    usable: function () {
      var all = filter(this.allowed, this.isSupported, this);
      var free = filter(all, this.isFree, this);
      return free.length ? free : all;
    },

    // Is one left out that may come back, so that a later probe makes sense?
    blocked: function () { return this.usable().length < filter(this.allowed, this.isSupported, this).length; },

    worked: function (name) {
      if (this.pinned) return;
      this.last = name;
      store(this.env, this.key, name + ' ' + (this.env.now() + REMEMBER_MS));
    },

    recall: function () {
      var kept = (store(this.env, this.key) || '').split(' ');
      return Number(kept[1]) > this.env.now() ? kept[0] : undefined;
    },

    // A mute stream cost two heartbeats: once is enough. A short-lived one may break twice.
    broke: function (name, lived, heartbeat, muted) {
      var record = this.records[name];
      if (lived >= 2 * heartbeat && !muted) { record.strikes = 0; record.penalty = PROBE_FIRST_MS; return; }
      record.strikes += muted ? 2 : 1;
      if (record.strikes < 2) return;
      record.strikes = 0;
      record.until = this.env.now() + record.penalty;
      record.penalty = Math.min(record.penalty * 2, PROBE_MAX_MS);
    },

    // When nothing works at all, it is the server or the network, and no transport's fault.
    forgive: function (everything) {
      for (var name in this.records) {
        this.records[name].strikes = 0;
        if (everything) this.records[name].until = 0;
      }
    },

    preference: function (name) {
      for (var i = 0; i < this.allowed.length; i++) if (this.allowed[i] === name) return i;
      return this.allowed.length;
    },

    isSure: function (name) { return find(this.env.transports, name).sure; },
    isFree: function (name) { return this.records[name].until <= this.env.now(); },
    isSupported: function (name) {
      var transport = find(this.env.transports, name);
      return !!transport && transport.supported(this.env);
    }
  };

  // ------------------------------------------------------------------ Link

  /*
   * One transport, opened once. It turns whatever the transport reports into: working, an
   * item for the connection, or one end. After its end nothing it hears matters any more.
   */
  function Link(connection, transport) {
    this.connection = connection;
    this.env = connection.env;
    this.transport = transport;
    this.name = transport.name;
    this.wire = transport.wire;
    this.stream = transport.stream;
    this.at = connection.cursor;
    this.heartbeat = HEARTBEAT_MS;
    this.working = this.over = this.rivalled = this.outdated = false;
    this.handle = null;
    this.replies = {};
    this.refs = 0;
  }

  Link.prototype = {
    open: function () {
      var self = this;
      this.openedAt = this.heardAt = this.env.now();
      function go(failure, credentials) {
        if (self.over) return;
        if (failure) return self.end(failure);
        self.credentials = credentials;
        self.openedAt = self.heardAt = self.env.now();
        self.alarm(self.connection.patience(), function () { self.end({ silent: true }); });
        try { self.handle = self.transport.open(self); } catch (error) { self.end({ message: 'Can\'t open ' + self.name + ': ' + (error.message || error) }); }
        if (self.over && self.handle) self.handle.close();
      }
      if (this.transport.ticket) this.connection.withTicket(this.wire, go);
      else this.connection.withToken(function (failure, token) { self.token = token; go(failure, []); });
    },

    // -- what a transport may call

    url: function (params) {
      var connection = this.connection;
      var options = connection.options;
      var all = [];
      for (var i = 0; i < connection.topics.length; i++) all.push(['topic', connection.topics[i]]);
      this.at = connection.cursor;
      var start = this.at || options.cursor;
      if (start) all.push(['cursor', start]);
      else if (options.last) all.push(['last', options.last]);
      all.push(['client', connection.clientId]);
      // Old browsers and odd caches believe `no-store` less than a URL they have never seen.
      all = all.concat(params || [], this.credentials || [], [['_', this.env.uuid().slice(0, 8)]]);
      return connection.endpoint(this.wire, all);
    },

    count: function (requests, bytes) {
      this.connection.stats.requests += requests;
      this.connection.stats.bytes += bytes;
    },

    text: function (text) {
      var item = parse(text);
      if (item) this.hear(item);
    },

    hear: function (item) {
      if (this.over) return;
      this.heardAt = this.env.now();
      var name = item.event;
      if (name === '$bye') return this.bye(item.data || {});
      if (name === '$error') return this.end(told(item));
      this.works(item);
      if (this.over) return;
      if (name === '$gap') this.connection.gap(this, item);
      else if (name === '$beat') this.connection.advance(this, item.cursor);
      else if (name === '$reply') this.reply(item.data || {});
      // Other control items are from a newer server: not ours to show.
      else if (name.charAt(0) !== '$') this.connection.deliver(this, item);
    },

    batch: function (batch) {
      if (this.over) return;
      this.heardAt = this.env.now();
      for (var i = 0; i < batch.events.length; i++) {
        this.hear(batch.events[i]);
        if (this.over) return;
      }
      this.works(batch);
      if (!this.over && batch.cursor) this.connection.advance(this, batch.cursor);
    },

    // The question was answered, and nothing is new.
    nothingNew: function () { this.batch({ events: [] }); },

    end: function (how) {
      if (this.over) return;
      this.shut();
      how.transport = this.name;
      this.connection.ended(this, how);
    },

    shut: function () {
      this.over = true;
      this.env.clearTimer(this.timer);
      if (this.handle) this.handle.close();
      for (var ref in this.replies) this.replies[ref]({ message: 'The connection closed before the answer came.' });
      this.replies = {};
    },

    // -- WebSocket only: a message that will be answered

    ask: function (message, done) {
      var ref = String(this.refs += 1);
      this.replies[ref] = done;
      message.ref = ref;
      this.handle.send(message);
    },

    reply: function (data) {
      var done = this.replies[data.ref];
      delete this.replies[data.ref];
      if (done) done(data.ok ? null : refusal(data.error || {}), data);
    },

    // -- its own business

    works: function (item) {
      if (this.working) return;
      this.working = true;
      this.env.clearTimer(this.timer);
      if (item.event === '$hello' && item.data && item.data.heartbeat) this.heartbeat = item.data.heartbeat;
      this.connection.stats.rtt = this.env.now() - this.openedAt;
      // A cursor before the first event. Later ones only repeat what we presented.
      if (item.event === '$hello' && !this.connection.cursor) this.connection.cursor = this.at = item.cursor;
      if (this.stream) this.watch(2 * this.heartbeat);
      this.connection.promote(this);
    },

    bye: function (data) { this.end({ bye: true, reason: data.reason, code: data.reason, retry: data.retry }); },

    alarm: function (ms, then) {
      this.env.clearTimer(this.timer);
      this.timer = this.env.setTimer(then, ms);
    },

    // One timer a stream, set again for the rest when it rings early: cheaper than one an item.
    watch: function (ms) {
      var self = this;
      var due = this.env.now() + ms;
      this.alarm(ms, function () { self.checkSilence(self.env.now() - due > self.heartbeat); });
    },

    // A timer that rang far too late means that this machine slept: no blame on the transport.
    checkSilence: function (slept) {
      var silence = this.env.now() - this.heardAt;
      if (!this.stream || !this.working || this.over) return;
      if (silence < 2 * this.heartbeat) this.watch(2 * this.heartbeat - silence);
      else this.end({ muted: !slept, woken: slept, code: 'muted', message: 'Nothing was heard over ' + this.name + ' for two heartbeats.' });
    }
  };

  // ------------------------------------------------------------------ Transports

  /*
   * Best first. `wire` is the server's name for it; `stream`: it runs on and has heartbeats;
   * `sure`: plain questions and answers, which pass wherever the page itself passed;
   * `ticket`: can't set a header; `local`: not to the server itself; `optional`: only where
   * that option is set. `open` gives back { close(), send?(message), hear?(name) }.
   */
  var ws = {
    name: 'ws', wire: 'ws', stream: true,
    supported: function (env) {
      // The drafts before RFC 6455 had no CLOSING state, and another framing.
      var WebSocket = env.window.WebSocket;
      return !!WebSocket && WebSocket.CLOSING === 2;
    },
    open: function (link) {
      // The list of subprotocols is the one header that a page may fill.
      var protocols = ['switchback.v1'];
      if (link.token) protocols.push('switchback.token.' + link.token);
      var socket = new link.env.window.WebSocket(link.url().replace(/^http/i, 'ws'), protocols);
      link.count(1, 0);
      socket.onmessage = function (event) { link.count(0, event.data.length); link.text(event.data); };
      // `error` says nothing that `close` does not say better.
      socket.onclose = function (event) { link.end(closing(event)); };
      return {
        send: function (message) { if (socket.readyState === 1) socket.send(JSON.stringify(message)); },
        close: function () { socket.onmessage = socket.onclose = null; socket.close(); }
      };
    }
  };

  // `$bye` says all this in time; a close frame alone may be what is left of it.
  function closing(event) {
    if (event.code === 1008) return { bye: true, reason: event.reason, code: event.reason, message: 'The server closed the WebSocket: ' + event.reason };
    return event.code === 1001 ? { planned: true } : {};
  }

  /*
   * EventSource hands an event only to listeners of its name, and has no '*'. So each name the
   * application listens to is registered, and the server is asked (`named=0`) to leave names
   * to the JSON. Where it does not, and '*' wants everything, this is the wrong transport:
   * better said than half heard.
   */
  var sse = {
    name: 'sse', wire: 'sse', stream: true, ticket: true,
    supported: function (env) { return !!env.window.EventSource; },
    open: function (link) {
      var connection = link.connection;
      var source = new link.env.window.EventSource(link.url([['named', '0']]), { withCredentials: !!connection.options.credentials });
      var registered = {};
      link.count(1, 0);
      var named = false;
      function item(event) {
        link.count(0, event.data.length);
        if (event.type === '$hello') { named = true; hear(connection.events.has('*') ? '*' : '$hello'); }
        link.text(event.data);
      }
      function hear(name) {
        if (name === '*' && named) return link.end({ message: 'This server names its SSE events, so "*" can\'t be heard over EventSource.' });
        // The server never names these: `open` and `error` are the browser's own.
        if (/^(open|error|message|\*)$/.test(name) || registered['on ' + name]) return;
        registered['on ' + name] = true;
        source.addEventListener(name, item, false);
      }
      source.onmessage = item;
      // It would reconnect by itself, but never after a 502, and with a ticket that is used up.
      source.onerror = function () { link.end({}); };
      each(['$hello', '$gap', '$beat', '$bye', '$error'].concat(connection.events.names()), hear);
      return { hear: hear, close: function () { source.onmessage = source.onerror = null; source.close(); } };
    }
  };

  var stream = {
    name: 'stream', wire: 'stream', stream: true,
    supported: function (env) { return canFetchStream(env) || canXhrStream(env); },
    open: function (link) { return (canFetchStream(link.env) ? fetchStream : xhrStream)(link, lines(link)); }
  };

  function lines(link) {
    var rest = '';
    return function (chunk) {
      link.count(0, chunk.length);
      var parts = (rest + chunk).split('\n');
      rest = parts.pop();
      for (var i = 0; i < parts.length; i++) if (parts[i]) link.text(parts[i]);
    };
  }

  function canFetchStream(env) {
    var window = env.window;
    return !!(window.fetch && window.ReadableStream && window.TextDecoder && window.AbortController);
  }

  function fetchStream(link, read) {
    var window = link.env.window;
    var abort = new window.AbortController();
    var decoder = new window.TextDecoder();
    function fail() { link.end({}); }
    link.count(1, 0);
    window.fetch(link.url(), {
      cache: 'no-store', signal: abort.signal,
      credentials: link.connection.options.credentials ? 'include' : 'same-origin',
      headers: link.token ? { Authorization: 'Bearer ' + link.token } : {}
    }).then(function (response) {
      if (response.status !== 200) return response.text().then(function (text) { link.end(answered(response.status, text, response.headers.get('Retry-After'))); });
      var reader = response.body.getReader();
      function pump() {
        return reader.read().then(function (part) {
          if (part.done) return fail();
          read(decoder.decode(part.value, { stream: true }));
          return link.over ? undefined : pump();
        });
      }
      return pump();
    }).then(null, fail);
    return { close: function () { abort.abort(); } };
  }

  // `responseType` marks the XHRs that show what has come so far; IE 8 and 9 throw instead.
  function canXhrStream(env) {
    var Xhr = env.window.XMLHttpRequest;
    return !!Xhr && 'responseType' in new Xhr();
  }

  function xhrStream(link, read) {
    var seen = 0;
    var xhr = new link.env.window.XMLHttpRequest();
    xhr.open('GET', link.url(), true);
    prepare(xhr, { token: link.token, credentials: link.connection.options.credentials });
    xhr.onreadystatechange = function () {
      if (xhr.readyState < 3) return;
      if (xhr.status !== 200) { if (xhr.readyState === 4) link.end(answered(xhr.status, xhr.responseText, header(xhr, 'Retry-After'))); return; }
      var text = xhr.responseText;
      var chunk = text.substring(seen);
      seen = text.length;
      read(chunk);
      if (xhr.readyState === 4) link.end({});
      else if (seen > XHR_RECYCLE && link.working) link.end({ planned: true });
    };
    link.count(1, 0);
    xhr.send();
    return { close: function () { xhr.onreadystatechange = nothing; xhr.abort(); } };
  }

  /*
   * The frame's document calls our window once an item. `load` means that the stream ended;
   * a `$bye` was posted before it, but may be handled after it, hence the grace.
   */
  var iframe = {
    name: 'iframe', wire: 'iframe', stream: true, ticket: true,
    supported: canFrame,
    open: function (link) {
      return { close: frame(link, [], function (item) { link.hear(item); }, function () { link.end({}); }) };
    }
  };

  var longpoll = polling('longpoll', 'longpoll', canHttp, askHttp, true);
  var jsonp = polling('jsonp', 'jsonp', canScript, askScript, true);
  var iframePoll = polling('iframe-poll', 'iframe', canFrame, askFrame, true);
  var poll = polling('poll', 'poll', canHttp, askHttp, false);
  var jsonpPoll = polling('jsonp-poll', 'jsonp', canScript, askScript, false);

  /*
   * Polling is asking again. The first question is never held (`wait=0`): its answer is the
   * hello, and its cursor makes sure of the very first event. A held question that is cut off
   * is asked again unheld before the line is called dead: if that is answered, something in
   * between dislikes long answers, and holding half as long costs less than giving up.
   */
  function polling(name, wire, supported, ask, held) {
    return {
      name: name, wire: wire, stream: false, sure: true, supported: supported,
      open: function (link) {
        var connection = link.connection;
        var cancel = nothing;
        var timer;
        function next(wait) {
          var asked = link.env.now();
          cancel = ask(link, wait, function (failure, batch) {
            if (link.over) return;
            if (failure) return failed(failure, wait, link.env.now() - asked);
            if (batch) link.batch(batch); else link.nothingNew();
            if (link.over) return;
            var full = batch && batch.events.length >= BATCH;
            var hold = held ? connection.holdSeconds : 0;
            if (held && hold) next(hold);
            else if (full) next(0);
            else timer = link.env.setTimer(function () { next(0); }, connection.options.interval || POLL_MS);
          });
        }
        function failed(failure, wait, lasted) {
          if (!wait || failure.status || failure.code) return link.end(failure);
          if (lasted >= 1000) connection.holdLess(Math.max(1, Math.min(wait - 1, Math.floor(lasted / 2000))));
          next(0);
        }
        next(0);
        return { close: function () { link.env.clearTimer(timer); cancel(); } };
      }
    };
  }

  // ------------------------------------------------------------------ Requests

  // Each asks one question: ask(link, wait, done(failure, batch)) gives back how to cancel it.

  function askHttp(link, wait, done) {
    var params = link.wire === 'longpoll' ? [['wait', wait]] : [];
    var request = { method: 'GET', url: link.url(params), token: link.token, timeout: wait * 1000 + link.connection.patience(), credentials: link.connection.options.credentials };
    // Lets a quiet poll cost no body. Not across origins: the header would cost a preflight.
    if (link.wire === 'poll' && link.at && !link.connection.foreign) request.etag = '"' + link.at + '"';
    link.count(1, 0);
    return http(link.env, request, function (failure, text) {
      if (failure && failure.status === 304) return done(null, null);
      if (failure) return done(failure);
      link.count(0, text.length);
      var batch = parse(text);
      if (batch && batch.events) done(null, batch);
      else done({ code: 'not_switchback', message: 'What answered at ' + link.connection.base + ' is not a Switchback server, or something in between changed its answer.' });
    });
  }

  function askScript(link, wait, done) {
    var env = link.env;
    var document = env.window.document;
    var registry = callbacks(env);
    var name = 'c' + env.uuid().replace(/-/g, '').slice(0, 12);
    var url = link.url([['wait', wait], ['callback', 'Switchback.jsonp.' + name]].concat(link.token ? [['token', link.token]] : []));
    if (url.length > URL_MAX) return later(env, function () { done(tooLong(link)); });
    var script = document.createElement('script');
    // `error` does not come in every browser: a timer a little past the hold.
    var timer = env.setTimer(function () { settle({ silent: true }); }, wait * 1000 + link.connection.patience());
    var settle = onlyOnce(function (failure, batch) {
      env.clearTimer(timer);
      script.onload = script.onerror = script.onreadystatechange = null;
      if (script.parentNode) script.parentNode.removeChild(script);
      // Removing the tag does not stop the load. A late answer must find something to call.
      if (batch) delete registry[name]; else registry[name] = nothing;
      done(failure, batch);
    });
    registry[name] = function (batch) { link.count(0, JSON.stringify(batch).length + name.length + 26); settle(null, batch); };
    script.onerror = function () { settle({}); };
    // Loaded, and the callback was not called: what came is not an answer.
    script.onload = function () { settle({}); };
    script.onreadystatechange = function () { if (script.readyState === 'loaded') later(env, function () { settle({}); }); };
    function load() {
      script.async = true;
      // The server hands scripts only to pages that may read, and this is how it knows; the page's path is nobody's business.
      script.referrerPolicy = 'origin';
      script.src = url;
      link.count(1, 0);
      (document.head || document.getElementsByTagName('head')[0] || document.body).appendChild(script);
    }
    var cancel = nothing;
    if (wait) cancel = whenComplete(env, load); else load();
    return function () { cancel(); done = nothing; settle({}); };
  }

  // Under a module system there is no global yet, and a script tag can call nothing else.
  function callbacks(env) {
    var window = env.window;
    if (!window.Switchback) window.Switchback = {};
    return window.Switchback.jsonp || (window.Switchback.jsonp = {});
  }

  function askFrame(link, wait, done) {
    var timer = link.env.setTimer(function () { settle({ silent: true }); }, wait * 1000 + link.connection.patience());
    var settle = onlyOnce(function (failure, batch) {
      link.env.clearTimer(timer);
      remove();
      done(failure, batch);
    });
    var params = [['once', 1], ['wait', wait]].concat(link.token ? [['token', link.token]] : []);
    var remove = frame(link, params, function (batch) {
      if (batch.events) settle(null, batch);
      else if (batch.event === '$error') settle(told(batch));
    }, function () { settle({}); });
    return function () { done = nothing; settle({}); };
  }

  function canScript(env) { return !!(env.window.document && env.window.document.createElement); }

  function canFrame(env) { return canScript(env) && !!env.window.postMessage; }

  function frame(link, params, onItem, onGone) {
    var env = link.env;
    var window = env.window;
    var from = origin(link.connection.base);
    var url = link.url(link.connection.foreign ? params.concat([['origin', pageOrigin(env)]]) : params);
    if (url.length > URL_MAX) return later(env, function () { link.end(tooLong(link)); });
    var element;
    var unlisten = listen(window, 'message', function (event) {
      if (!element || event.source !== element.contentWindow || event.origin !== from) return;
      link.count(0, event.data.length + 20);
      var item = parse(event.data);
      if (item) onItem(item);
    });
    var cancel = whenComplete(env, function () {
      element = hiddenFrame(window.document, 'switchback-' + link.name);
      var unload = listen(element, 'load', function () { unload(); cancel = later(env, onGone, 1000); });
      element.src = url;
      link.count(1, 0);
      window.document.body.appendChild(element);
    });
    return function () {
      cancel();
      unlisten();
      if (element && element.parentNode) element.parentNode.removeChild(element);
      element = null;
    };
  }

  function hiddenFrame(document, name) {
    var element;
    // IE 8 takes a frame's name only in this form, at which every other browser throws.
    try { element = document.createElement('<iframe name="' + name + '">'); } catch (error) { element = document.createElement('iframe'); }
    element.name = name;
    element.title = 'Switchback';
    element.style.display = 'none';
    element.setAttribute('aria-hidden', 'true');
    return element;
  }

  function tooLong(link) { return { message: 'The patterns are too long for a URL of ' + URL_MAX + ' characters, all that ' + link.name + ' has.' }; }

  function canHttp(env) { return !!(env.window.XMLHttpRequest || env.window.fetch); }

  /*
   * done(failure, text): once, always later, and never after the cancel it gives back.
   * Internet Explorer 8 and 9 cross origins only by XDomainRequest: no headers, no status.
   */
  function http(env, request, done) {
    var timer;
    var finish = onlyOnce(function (failure, text) { env.clearTimer(timer); done(failure, text); });
    var Xhr = env.window.XMLHttpRequest;
    var Xdr = env.window.XDomainRequest;
    var crosses = origin(request.url) !== pageOrigin(env);
    var send = Xhr && crosses && Xdr && !('withCredentials' in new Xhr()) ? byXdr : Xhr ? byXhr : byFetch;
    var abort = send(env, request, finish);
    timer = env.setTimer(function () { abort(); finish({ silent: true }); }, request.timeout);
    return function () { finish = done = nothing; env.clearTimer(timer); abort(); };
  }

  function byXhr(env, request, finish) {
    var xhr = new env.window.XMLHttpRequest();
    xhr.open(request.method, request.url, true);
    prepare(xhr, request);
    xhr.onreadystatechange = function () {
      if (xhr.readyState !== 4) return;
      // IE 8 says 1223 for 204, and may throw on the status of a request that was cut.
      var status = 0;
      try { status = xhr.status === 1223 ? 204 : xhr.status; } catch (error) { status = 0; }
      if (status >= 200 && status < 300) finish(null, xhr.responseText);
      else finish(answered(status, status ? xhr.responseText : '', status && header(xhr, 'Retry-After')));
    };
    xhr.send(request.body || null);
    return function () { xhr.onreadystatechange = nothing; xhr.abort(); };
  }

  function prepare(xhr, request) {
    if (request.credentials) xhr.withCredentials = true;
    if (request.type) xhr.setRequestHeader('Content-Type', request.type);
    if (request.token) xhr.setRequestHeader('Authorization', 'Bearer ' + request.token);
    if (request.etag) xhr.setRequestHeader('If-None-Match', request.etag);
  }

  function header(xhr, name) { return xhr.getResponseHeader ? xhr.getResponseHeader(name) : null; }

  function byXdr(env, request, finish) {
    var xdr = new env.window.XDomainRequest();
    xdr.onload = function () { finish(null, xdr.responseText); };
    xdr.onerror = xdr.ontimeout = function () { finish({}); };
    xdr.onprogress = nothing;   // without it, IE 9 drops requests
    xdr.open(request.method, request.token ? request.url + (request.url.indexOf('?') < 0 ? '?' : '&') + query([['token', request.token]]) : request.url);
    xdr.send(request.body || '');
    return function () { xdr.abort(); };
  }

  // Workers of some browsers, and Node.
  function byFetch(env, request, finish) {
    var abort = env.window.AbortController ? new env.window.AbortController() : { abort: nothing };
    var headers = {};
    prepare({ setRequestHeader: function (name, value) { headers[name] = value; } }, request);
    env.window.fetch(request.url, { method: request.method, body: request.body, headers: headers, signal: abort.signal, cache: 'no-store', credentials: request.credentials ? 'include' : 'same-origin' }).then(function (response) {
      return response.text().then(function (text) {
        if (response.status >= 200 && response.status < 300) finish(null, text);
        else finish(answered(response.status, text, response.headers.get('Retry-After')));
      });
    }).then(null, function () { finish({}); });
    return function () { abort.abort(); };
  }

  // A proxy's 403 is an obstacle on one path; only the server's own error object is a verdict.
  function answered(status, text, retryAfter) {
    if (!status) return {};
    var body = parse(text);
    var failure = body && body.error ? refusal(body.error) : { message: 'The answer was HTTP status ' + status + ', not by Switchback.' };
    failure.status = failure.code || status === 304 || status > 400 ? status : undefined;
    failure.refused = !!failure.code && (status === 401 || status === 403);
    if (retryAfter > 0) failure.retry = retryAfter * 1000;
    return failure;
  }

  // An `$error` item stands in for the status line and the body that frames and scripts can't read.
  function told(item) {
    var data = item.data || {};
    return refusal(merge({ retry: data.retry }, data.error || data));
  }

  // The server's error object, as it comes in bodies, in `$error` and in `$reply`.
  var STATUSES = { unauthorized: 401, forbidden: 403 };
  function refusal(error) {
    var status = STATUSES[error.code];
    return { code: error.code || 'error', message: error.message || 'The server refused.', retry: error.retry, status: status, refused: error.retry === undefined };
  }

  // ------------------------------------------------------------------ Publisher

  /*
   * Every publish carries an idempotency id. So one whose answer was lost can be sent again
   * without being stored twice; and where no answer can be read, or none comes, hearing the
   * event on the own subscription is one. (Not before: it can't tell whether it was a repeat.)
   */
  function Publisher(connection) {
    this.connection = connection;
    this.pending = {};
  }

  Publisher.prototype = {
    publish: function (message, done) {
      var self = this;
      var key = message.topic + ' ' + message.id;
      var entry = { message: message, attempt: 0, cancel: nothing };
      entry.settle = onlyOnce(function (failure, answer) {
        self.connection.env.clearTimer(entry.timer);
        entry.cancel();
        if (self.pending[key] === entry) delete self.pending[key];
        if (failure) done(problem(failure, message.id));
        else done(null, { cursor: answer.cursor, duplicate: !!answer.duplicate, id: message.id });
      });
      entry.timer = this.connection.env.setTimer(function () { entry.settle(entry.heard ? null : unknown(), entry.heard); }, PUBLISH_MS);
      this.pending[key] = entry;
      this.send(entry);
    },

    // Over what there is: the open socket, HTTP, or a form in a hidden frame.
    send: function (entry) {
      var link = this.connection.current;
      if (this.connection.state === 'closed') later(this.connection.env, function () { entry.settle({ code: 'closed', message: 'The connection is closed.' }); });
      else if (link && !link.over && link.handle.send) this.bySocket(link, entry);
      else if (canHttp(this.connection.env)) this.byHttp(entry);
      else this.byForm(entry);
    },

    again: function (entry, failure) {
      var self = this;
      if (entry.heard) return entry.settle(null, entry.heard);
      if (failure.refused || failure.status === 400 || failure.status === 404 || failure.status === 413 || failure.status === 415) return entry.settle(failure);
      var wait = Math.max(failure.retry || 0, backoff(this.connection.env, entry.attempt));
      entry.attempt += 1;
      entry.cancel = later(this.connection.env, function () { self.send(entry); }, wait);
    },

    bySocket: function (link, entry) {
      var self = this;
      var message = entry.message;
      link.ask({ type: 'publish', topic: message.topic, event: message.event, data: message.data, id: message.id }, function (failure, reply) {
        if (!failure) entry.settle(null, reply);
        else if (failure.code) self.again(entry, failure);
        else self.send(entry);   // the socket went: at once over the next best
      });
    },

    byHttp: function (entry) {
      var self = this;
      var connection = this.connection;
      connection.withToken(function (failure, token) {
        if (failure) return entry.settle(failure);
        // Text needs no preflight; with a token there is one anyway.
        http(connection.env, { method: 'POST', url: connection.endpoint('events', []), type: connection.foreign && !token ? 'text/plain' : 'application/json',
          token: token, body: JSON.stringify(entry.message), timeout: connection.patience(), credentials: connection.options.credentials }, function (failure, text) {
          var answer = failure ? null : parse(text);
          if (answer) return entry.settle(null, answer);
          if (failure && failure.status === 401 && connection.renewable() && !entry.renewed) { connection.token = undefined; entry.renewed = true; return self.send(entry); }
          self.again(entry, failure || {});
        });
      });
    },

    /*
     * A page can't read what another origin answers to its form. On the own origin the frame
     * can be read; elsewhere the event coming back on the subscription is the answer; and if
     * neither tells within the time, the honest result is `unknown`.
     */
    byForm: function (entry) {
      var connection = this.connection;
      var document = connection.env.window.document;
      entry.blind = true;
      connection.withToken(function (failure, token) {
        if (failure) return entry.settle(failure);
        var name = 'switchback-publish-' + connection.env.uuid();
        var answer = hiddenFrame(document, name);
        var form = document.createElement('form');
        form.method = 'POST';
        form.action = connection.endpoint('events', token ? [['token', token]] : []);
        form.target = name;
        form.style.display = 'none';
        var fields = { topic: entry.message.topic, event: entry.message.event || '', data: JSON.stringify(entry.message.data), id: entry.message.id };
        for (var field in fields) {
          if (!fields[field]) continue;
          var input = document.createElement('input');
          input.type = 'hidden';
          input.name = field;
          input.value = fields[field];
          form.appendChild(input);
        }
        document.body.appendChild(answer);
        document.body.appendChild(form);
        entry.cancel = function () { document.body.removeChild(form); document.body.removeChild(answer); };
        var unlisten = listen(answer, 'load', function () { readFrame(answer, entry, unlisten); });
        form.submit();
      });
    },

    heard: function (item) {
      var entry = item.id !== undefined && this.pending[item.topic + ' ' + item.id];
      if (entry) entry.heard = { cursor: item.cursor };
      if (entry && entry.blind) entry.settle(null, entry.heard);
    },

    close: function () {
      for (var key in this.pending) this.pending[key].settle(unknown());
    }
  };

  function readFrame(frame, entry, unlisten) {
    var text = '';
    try {
      // Some browsers say `load` once for the empty document that a frame is born with.
      if (frame.contentWindow.location.href === 'about:blank') return;
      text = frame.contentWindow.document.body.innerText || frame.contentWindow.document.body.textContent;
    } catch (error) { text = ''; }
    unlisten();
    var answer = parse(text);
    if (answer && answer.cursor) entry.settle(null, answer);
    else if (answer && answer.error) entry.settle(refusal(answer.error));
  }

  function unknown() { return { code: 'unknown', message: 'No answer came: the event may or may not have been stored. Publishing it again with the same id is safe.' }; }

  // ------------------------------------------------------------------ Small tools

  /*
   * A cursor is `<epoch>-<position>`. Positions are 64 bits wide, more than a number holds
   * here, so they are compared as they are written: the longer is the larger.
   */
  function isCursor(text) { return typeof text === 'string' && /^[a-z0-9]{1,32}-[0-9]{1,20}$/.test(text); }

  // Below zero: a before b. Undefined: of different logs, which have no order.
  function compare(a, b) {
    var left = a.split('-');
    var right = b.split('-');
    if (left[0] !== right[0]) return undefined;
    if (left[1].length !== right[1].length) return left[1].length - right[1].length;
    return left[1] < right[1] ? -1 : left[1] > right[1] ? 1 : 0;
  }

  // Names come from publishers: the prefix keeps `__proto__` and `constructor` ordinary.
  function emitter(onError) {
    var all = {};
    function run(listeners, a, b) {
      // A copy: a listener may add or remove listeners.
      var now = listeners ? listeners.slice(0) : [];
      for (var i = 0; i < now.length; i++) {
        // One listener's fault is not the next one's.
        try { now[i](a, b); } catch (error) { if (onError) onError(error); else throw error; }
      }
    }
    return {
      on: function (name, listener) { (all['on ' + name] || (all['on ' + name] = [])).push(listener); },
      off: function (name, listener) {
        if (!listener) { delete all['on ' + name]; return; }
        all['on ' + name] = filter(all['on ' + name] || [], function (kept) { return kept !== listener && kept.listener !== listener; });
      },
      clear: function () { all = {}; },
      emit: function (name, item) { run(all['on ' + name], item); run(all['on *'], name, item); },
      has: function (name) { return !!all['on ' + name] && all['on ' + name].length > 0; },
      names: function () {
        var found = [];
        for (var key in all) if (key !== 'on *') found.push(key.slice(3));
        return found;
      }
    };
  }

  // Full jitter: after a restart, ten thousand pages come back spread out, not in step.
  function backoff(env, attempt) { return env.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * Math.pow(2, Math.min(attempt, 10))); }

  function problem(failure, id) {
    var error = new Error(failure.message || 'No answer from the server.');
    error.code = failure.code || failure.reason || 'no_answer';
    error.status = failure.status;
    if (id) error.id = id;
    return error;
  }

  function parse(text) { try { return JSON.parse(text); } catch (error) { return null; } }

  function query(params) {
    var parts = [];
    for (var i = 0; i < params.length; i++) parts.push(params[i][0] + '=' + encodeURIComponent(params[i][1]));
    return parts.join('&');
  }

  function pageOrigin(env) {
    var location = env.window.location;
    return location && location.host ? origin(location.protocol + '//' + location.host) : 'null';
  }

  function absolute(env, url) {
    var location = env.window.location;
    if (url.indexOf('//') === 0) url = location.protocol + url;
    else if (!/^https?:/i.test(url) && location && location.host) url = location.protocol + '//' + location.host + (url && url.charAt(0) !== '/' ? '/' : '') + url;
    return url.replace(/\/+$/, '');
  }

  // As `event.origin` writes it: in small letters, without the scheme's own port.
  function origin(url) {
    var parts = /^(https?):\/\/([^\/?#]+)/i.exec(url);
    if (!parts) return 'null';
    var scheme = parts[1].toLowerCase();
    return scheme + '://' + parts[2].toLowerCase().replace(scheme === 'https' ? /:443$/ : /:80$/, '');
  }

  function listen(target, name, listener) {
    if (target && target.addEventListener) {
      target.addEventListener(name, listener, false);
      return function () { target.removeEventListener(name, listener, false); };
    }
    if (target && target.attachEvent) {
      target.attachEvent('on' + name, listener);
      return function () { target.detachEvent('on' + name, listener); };
    }
    return nothing;
  }

  /*
   * A page's `load` waits for the frames and scripts that were added before it, so one that
   * never ends would show the page 'loading' for ever. But a slow picture must not hold up
   * events for long: after COMPLETE_MS a spinner is the lesser evil.
   */
  function whenComplete(env, then, since) {
    var document = env.window.document;
    since = since || env.now();
    if (document.readyState === 'complete' || (document.body && env.now() - since >= COMPLETE_MS)) { then(); return nothing; }
    var cancel = later(env, function () { cancel = whenComplete(env, then, since); }, 50);
    return function () { cancel(); };
  }

  function later(env, then, ms) {
    var timer = env.setTimer(then, ms || 0);
    return function () { env.clearTimer(timer); };
  }

  // Private windows and blocked cookies throw at the very mention of localStorage.
  function store(env, key, value) {
    try {
      if (value !== undefined) env.window.localStorage.setItem(key, value);
      return env.window.localStorage.getItem(key);
    } catch (error) { return null; }
  }

  function onlyOnce(run) {
    var done = false;
    return function (a, b) { if (!done) { done = true; run(a, b); } };
  }

  function nothing() {}

  function list(value) { return value === undefined || value === null ? [] : typeof value === 'string' ? [value] : value.slice(0); }

  function each(values, run) { for (var i = 0; i < values.length; i++) run(values[i]); }

  function filter(values, keep, self) {
    var kept = [];
    for (var i = 0; i < values.length; i++) if (keep.call(self, values[i])) kept.push(values[i]);
    return kept;
  }

  function without(values, gone) {
    return filter(values, function (value) {
      for (var i = 0; i < gone.length; i++) if (gone[i] === value) return false;
      return true;
    });
  }

  function both(values, others) { return without(values, without(values, others)); }

  function unique(values) {
    var kept = [];
    for (var i = 0; i < values.length; i++) kept = kept.concat(without([values[i]], kept));
    return kept;
  }

  function find(transports, name) {
    for (var i = 0; i < transports.length; i++) if (transports[i].name === name) return transports[i];
    return null;
  }

  function names(transports) {
    var found = [];
    for (var i = 0; i < transports.length; i++) found.push(transports[i].name);
    return found;
  }

  function merge(into, from) {
    for (var key in from) into[key] = from[key];
    return into;
  }

  // ------------------------------------------------------------------ Environment

  function browser(window) {
    return {
      window: window,
      transports: [ws, sse, stream, longpoll, iframe, jsonp, iframePoll, poll, jsonpPoll],
      now: function () { return new Date().getTime(); },
      setTimer: function (then, ms) { return window.setTimeout(then, ms); },
      clearTimer: function (timer) { window.clearTimeout(timer); },
      random: function () { return Math.random(); },
      uuid: uuid
    };

    // RFC 9562, version 4. Guessable only where the browser has nothing better to offer.
    function uuid() {
      var crypto = window.crypto || window.msCrypto;
      var bytes = [];
      if (crypto && crypto.getRandomValues && window.Uint8Array) bytes = crypto.getRandomValues(new window.Uint8Array(16));
      else for (var i = 0; i < 16; i++) bytes.push(Math.floor(Math.random() * 256));
      var at = 0;
      return 'xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx'.replace(/[xy]/g, function (letter) {
        var digit = (bytes[at >> 1] >> (at & 1 ? 4 : 0)) & 15;
        at += 1;
        return (letter === 'y' ? (digit & 3) | 8 : digit).toString(16);
      });
    }
  }

  return create(browser(root));
}));
