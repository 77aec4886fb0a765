/*
 * Switchback client: a page subscribes to events and gets each once, in order, over whatever
 * transport its browser and network let through. ES3; what IE 8 lacks is tested for.
 *
 * The states (`phase`; the public `state` is coarser):
 *
 *   phase     holds                    event                                    next
 *   idle      nothing; none is wanted  subscribe                                opening
 *   opening   a candidate session      its hello, or a poll's first answer      open
 *                                      it ended; another transport is left      opening
 *                                      it ended; none is left                   pausing
 *   pausing   a timer                  the timer; the network is back           opening
 *   open      the current session      a better transport, switchTo, other
 *                                      patterns, another network                changing
 *                                      a poll gets new patterns                 opening
 *                                      the current session ended                pausing
 *   changing  a current, a candidate   the candidate's hello                    open
 *                                      switchTo the current                     open
 *                                      the candidate ended; none is left        open
 *                                      a poll gets new patterns                 opening
 *                                      the current session ended                opening
 *   away      nothing; page is hidden  pageshow                                 opening, idle
 *   closed    nothing                                                           none
 *
 * From all before `away`: no pattern is left, idle; pagehide, away. From all before `closed`: close() or
 * a fatal ending, closed.
 *
 * The invariant: only the current session delivers, and only what lies after the cursor. So sessions
 * may end, overlap or repeat at any moment, and nothing is lost or repeated.
 */
(function (root, define) {
  var api = define(root);
  var isModule = typeof module === 'object' && module && module.exports;
  // Vite 7 has a `module` that is never read.
  if (!isModule || (root.document && !root.Switchback)) root.Switchback = api;
  if (!isModule) return;
  module.exports = api;
  module.exports.connect = api.connect;
  module.exports.emitter = api.emitter;
  module.exports.transports = api.transports;
  module.exports.supported = api.supported;
}(typeof window !== 'undefined' ? window : typeof globalThis !== 'undefined' ? globalThis : this,
function (root) {
var HELLO_MS = 5000;
var PATIENCE_MAX_MS = 40000;
var HEARTBEAT_MS = 20000;
var BACKOFF_FIRST_MS = 500;
var BACKOFF_MAX_MS = 20000;
var PROBE_FIRST_MS = 60000;
var PROBE_MAX_MS = 600000;
var REMEMBER_MS = 86400000;
var ACK_MS = 30000;
var HOLD_S = 25;               // proxies cut at 55 to 100
var POLL_MS = 3000;
var PUBLISH_MS = 30000;
var PUBLISHES_MAX = 1000;
var MESSAGE_MAX = 300000;      // characters: below the server's 1 MiB
var TOKEN_MS = 30000;
var TOKEN_PAUSE_MS = 1000;
var TOKEN_PAUSE_MAX_MS = 60000;
var COMPLETE_MS = 3000;
var GRACE_MS = 1000;
var ALIVE_MS = 5000;
var FOREIGN_RETRY_MS = 10000;
var WAKE_MS = 1000;
var STRAY_MS = 30000;          // an abandoned request may still arrive
var QUESTIONS_MAX = 3;
var BUFFER_MAX = 1000;
var HOLDS_MAX = 4;
var KEEP_MS = 100;
var HOLD_KEPT_MS = 90000;      // hidden tabs have slow timers
var URL_MAX = 2000;            // IE refuses 2083
var XHR_RECYCLE = 524288;      // an XHR keeps all it has read

// ---- Connection

function create(env) {
  var api = {
    connect: function (url, options) { return new Connection(env, url, options); },
    emitter: function () { return emitter(env); },
    endings: endings,
    compare: compare,
    transports: names(env.transports),
    use: function (transport) {
      env.transports.unshift(transport);
      api.transports = names(env.transports);
    },
    supported: function () {
      return names(filter(env.transports, function (transport) { return transport.supported(env); }));
    },
    create: function (overrides) { return create(merge(browser(root), overrides)); }
  };
  return api;
}

// Its public calls: client.d.ts.
function Connection(env, url, options) {
  var self = this;
  options = options || {};
  this.env = env;
  this.options = options;
  this.events = emitter(env);
  this.clientId = options.client || env.uuid();
  this.state = 'connecting';
  this.topics = [];
  this.stats = {
    received: 0, repeated: 0, gaps: 0, requests: 0, bytes: 0, opens: 0, switches: 0, failures: 0
  };
  var address = resolve(env, url);
  this.base = address.url;
  this.foreign = origin(this.base) !== pageOrigin(env);
  this.cursor = filter(this.keep().concat(options.cursor), isCursor)[0];

  this.chooser = new Chooser(this);
  this.publisher = new Publisher(this);
  this.tokens = new Tokens(env, options.token);
  this.current = null;
  this.candidate = null;
  this.question = null;
  this.joining = false;
  this.queue = [];
  this.handles = [];
  this.patterns = [];        // { text, start, granted: by the server, confirmed: by a session, blind }
  this.requested = [];
  this.questionsLost = 0;
  this.buffer = null;
  this.began = false;
  this.upto = undefined;     // the end of the round of newest events that the cursor is in
  this.live = false;         // all that was in the log at the opening, or after the last gap, has come
  this.failed = 0;
  this.slowness = 0;
  this.verified = undefined; // is it Switchback that answers? undefined: not known
  this.attempt = options.client ? firstAttempt(env) : 0;
  this.abandoned = {};
  this.probeDelay = 0;
  this.notBefore = 0;
  this.resumedAt = -WAKE_MS;
  this.timers = {};
  this.holdSeconds = this.longestHold = options.wait === undefined ? HOLD_S : options.wait;

  this.watchPage();
  // Later: the caller registers listeners first.
  this.after('retry', 0, function () { self.start(address.problem); });
  this.after('ack', ACK_MS, this.ackRegularly);
  this.add(list(options.topics || options.topic), null, true);
}

merge(Connection.prototype, {
  on: function (name, listener) { this.events.on(name, listener); return this; },
  once: function (name, listener) {
    var self = this;
    function once(a, b) { self.off(name, once); listener(a, b); }
    once.listener = listener;
    return this.on(name, once);
  },
  off: function (name, listener) { this.events.off(name, listener); return this; },
  clear: function () { this.events.clear(); return this; },

  subscribe: function (topics, done) { return this.add(list(topics), done || nothing, false); },

  unsubscribe: function (topics, done) {
    var self = this;
    each(unique(list(topics)), function (topic) {
      for (var i = self.handles.length; i--;) if (self.handles[i].drop(topic)) return;
    });
    this.reviewPatterns();
    return this.callLater(done, null, this.cursor);
  },

  publish: function (topic, data, options, done) {
    if (typeof options === 'function') { done = options; options = null; }
    options = options || {};
    var message = { topic: topic, data: data, id: options.id || this.env.uuid() };
    if (options.event) message.event = options.event;
    var publisher = this.publisher;
    var Promise = this.env.window.Promise;
    if (done || !Promise) return publisher.publish(message, guarded(this.env, done || nothing));
    return new Promise(function (resolve, reject) {
      publisher.publish(message, function (error, result) {
        if (error) reject(error); else resolve(result);
      });
    });
  },

  switchTo: function (name, done) {
    if (name !== 'auto' && !find(this.env.transports, name)) throw new Error(unknownName(this.env, name));
    if (this.state === 'closed') throw new Error('Switchback: the connection is closed.');
    this.settleSwitch(endings.misused('superseded', 'Another switch came.'));
    this.chooser.pinned = name === 'auto' ? null : name;
    this.switched = done || nothing;
    this.probeDelay = 0;
    if (this.away) return this;
    this.abandonCandidate();
    if (!this.current) this.begin();
    else if (this.chooser.better(this.current.name).length) this.probe();
    else this.settleSwitch(null);
    return this;
  },

  close: function () { this.finish(endings.closed()); return this; }
});

function unknownName(env, name) {
  return 'Switchback: no transport is called "' + name + '". There are: auto, ' +
    names(env.transports).join(', ');
}

// Smaller numbers, also of an earlier page, are strays to the server.
function firstAttempt(env) {
  var key = 'switchback:attempt';
  var first = Math.max(env.date(), (Number(store(env, key)) || 0) + 1);
  store(env, key, first);
  return first;
}

// ---- Life

merge(Connection.prototype, {
  phase: function () {
    if (this.state === 'closed') return 'closed';
    if (this.away) return 'away';
    if (this.current) return this.candidate ? 'changing' : 'open';
    if (this.candidate) return 'opening';
    return this.timers.retry === undefined ? 'idle' : 'pausing';
  },

  start: function (problem) {
    var unknown = without(this.chooser.allowed, names(this.env.transports))[0];
    if (problem) return this.finish(endings.misused('bad_address', problem));
    if (unknown) this.report(endings.misused('unsupported', unknownName(this.env, unknown)));
    this.begin();
  },

  begin: function () {
    this.stop('retry');
    if (this.phase() !== 'idle') return;
    if (!this.patterns.length && !this.options.client) return this.settleSwitch(null);
    this.queue = this.chooser.start(this.failed);
    if (!this.queue.length) {
      return this.finish(endings.misused('unsupported', 'This browser supports no allowed transport.'));
    }
    this.failure = null;
    this.unanswered = true;
    if (!this.verified) this.verified = undefined;
    this.tryNext();
  },

  tryNext: function () {
    var name = this.queue.shift();
    if (name) this.open(name);
    else if (this.current) { this.probeLater(); this.advancePatterns(); }
    else this.roundFailed();
  },

  open: function (name) {
    var session = new TransportSession(this, find(this.env.transports, name), this.patternsToOpen());
    this.attempt += 1;
    if (this.transport && this.transport !== name) {
      session.switched = this.transport + '.' + name + '.' +
        (this.current ? 'wanted' : this.lastEnding || 'lost');
    }
    this.candidate = session;
    session.open();
  },

  roundFailed: function () {
    var failure = this.failure;
    if (failure.denied && this.refuse(this.requested, failure)) return this.begin();
    if (failure.refused && (!this.tokens.renewable || !this.patterns.length)) return this.finish(failure);
    if (this.unanswered) this.slowness += 1;
    this.chooser.forgive();
    this.probeDelay = 0;
    this.failed += 1;
    this.pause(failure, true);
  },

  pause: function (ending, isTrouble) {
    var failed = this.failed + this.chooser.shortLives(this.failed);
    var wait = Math.max(backoff(this.env, failed), ending.retry || 0);
    this.notBefore = this.env.now() + (ending.retry || 0);
    if (isTrouble) { this.state = 'connecting'; this.report(ending, wait); }
    this.retry(wait);
  },

  retry: function (wait) { if (this.phase() === 'idle') this.after('retry', wait || 0, this.begin); },

  opened: function (session) {
    var before = this.current;
    var from = this.transport;
    var opening = this.state !== 'open';
    if (session !== this.candidate) return;
    this.candidate = null;
    if (this.lacks(session)) { session.shut(); return this.open(session.name); }
    this.current = session;
    this.buffer = null;
    // Make before break.
    if (before) { before.shut(); this.attempt += 1; }
    session.attempt = this.attempt;
    this.slowness = this.notBefore = this.questionsLost = this.failed = 0;
    this.transport = session.name;
    this.chooser.worked(session.name);
    this.tokens.accepted();
    this.verified = true;
    this.grant(this.patternsOf(both(topicsOf(session.pending), session.texts)));
    this.confirm(session);
    this.began = true;
    this.state = 'open';
    if (opening) {
      this.live = false;
      this.stats.opens += 1;
      this.events.emit('$open', { transport: session.name, client: this.clientId, cursor: this.cursor });
    }
    if (from && from !== session.name) {
      this.stats.switches += 1;
      this.events.emit('$switch', { from: from, to: session.name });
    }
    this.keepHold();
    this.publisher.pump();
    if (session !== this.current) return;
    if (!this.chooser.pinned || this.chooser.pinned === session.name) this.settleSwitch(null);
    if (this.switched) this.probeDelay = 0;
    if (session !== this.current || this.candidate) return;
    this.probeLater();
    this.advancePatterns();
  },

  ended: function (session, ending) {
    if (ending.status === 401 && session.ticket) ending = endings.lost(ending.message);
    // A restored log may end before the round; not every transport can tell.
    if (this.upto && (session === this.candidate || ending.status === 400)) {
      this.upto = undefined;
      if (ending.status === 400) ending = endings.lost(ending.message);
    }
    if (ending.code === 'expired' || ending.status === 401) this.tokens.rejected();
    if (ending.kind === 'foreign') this.verified = false;
    else if (ending.kind === 'refused') this.verified = true;
    else if (/^(lost|late)$/.test(ending.kind) && (!this.current || session === this.current)) {
      this.verified = undefined;
    }
    if (session.question) return session.question.ended(ending);
    this.lastEnding = ending.kind;
    if (session === this.candidate) this.candidateEnded(session, ending);
    else if (session === this.current) this.currentEnded(session, ending);
  },

  candidateEnded: function (session, ending) {
    var own = this.ownReplacement(session, ending);
    var pending = session.pending;
    this.candidate = null;
    this.stats.failures += 1;
    if (ending.kind !== 'late') this.unanswered = false;
    if (rank(ending) >= rank(this.failure)) this.failure = ending;
    this.flush();
    // EventSource does not say why: a question next.
    each(this.patterns, function (pattern) { if (pattern.blind) pattern.granted = pattern.blind = false; });
    if (ending.denied && pending.length && (pending.length > 1 || this.current || ending.status === 400)) {
      if (!this.refuse(pending, ending)) return this.finish(ending);
      if (!this.current) return this.begin();
    } else if (!own && this.isFatal(ending)) return this.finish(ending);
    if (this.current && session.name === this.current.name) this.subscribeLater(ending);
    if (ending.kind === 'refused' && ending.status === 404) {
      ending.message = 'Wrong address ' + this.base + '? ' + ending.message;
      this.queue = [];
    }
    if (ending.kind === 'token') this.queue = [];
    if (!this.queue.length && this.current) this.settleSwitch(ending);
    if (!this.candidate && this.state !== 'closed') this.tryNext();
  },

  currentEnded: function (session, ending) {
    var own = this.ownReplacement(session, ending);
    var lived = this.env.now() - session.openedAt >= 2 * session.heartbeat;
    var expired = this.tokens.renewable && (ending.code === 'expired' || ending.status === 401);
    this.current = this.buffer = null;
    this.endQuestion();
    if (!own && this.isFatal(ending)) return this.finish(ending);
    this.probeDelay = 0;
    if (ending.kind === 'recycled' || ending.reason === 'recycle' || (expired && lived)) {
      return this.retry(ending.retry);
    }
    if (ending.kind === 'resumed') {
      this.report(ending, 0);
      return this.retry(0);
    }
    // Announced or not, a short life lengthens the pause.
    var announced = own || expired || ending.kind === 'goodbye' || (ending.kind === 'leaving' && lived);
    this.chooser.broke(session, lived, ending.kind === 'silent', announced);
    if (!announced) this.stats.failures += 1;
    this.pause(ending, !announced);
  },

  // Two tabs with one id would replace each other for ever.
  isFatal: function (ending) {
    if (ending.code === 'expired') return !this.tokens.renewable;
    return ending.fatal || ending.status === 400 || (ending.kind === 'goodbye' && ending.retry === undefined);
  },

  // A newer request of ours ends the older, a stray one the newer.
  ownReplacement: function (session, ending) {
    if (ending.reason !== 'replaced') return false;
    var both = this.current && this.candidate;
    return session.attempt < this.attempt || (both && this.current.wire === this.candidate.wire) ||
      this.env.now() - this.abandoned[session.wire] < STRAY_MS;
  },

  probeLater: function () {
    var chooser = this.chooser;
    if (!chooser.better(this.current.name).length && chooser.usable().length === chooser.supported().length) {
      this.probeDelay = PROBE_FIRST_MS;
      return this.stop('probe');
    }
    this.after('probe', this.probeDelay, this.probe);
    this.probeDelay = Math.min(Math.max(this.probeDelay * 2, PROBE_FIRST_MS), PROBE_MAX_MS);
  },

  probe: function () {
    this.stop('probe');
    if (!this.current || this.away) return;
    if (this.candidate || this.question) return this.after('probe', this.patience(), this.probe);
    this.queue = this.chooser.better(this.current.name);
    this.failure = null;
    this.tryNext();
  },

  /*
   * The same transport again. Where patterns are added, a stream's items are buffered meanwhile: they would
   * move the cursor past events of the new ones.
   */
  renew: function () {
    var session = this.current;
    var tried = this.candidate && this.candidate.name;
    this.abandonCandidate();
    if (tried && tried !== session.name) this.queue.unshift(tried);
    this.failure = null;
    if (this.lacks(session)) {
      if (session.stream) this.buffer = [];
      else { this.current = null; session.shut(); }
    }
    this.open(session.name);
  },

  abandonCandidate: function () {
    var candidate = this.candidate;
    this.candidate = null;
    if (candidate) candidate.shut();
    this.flush();
  },

  settleSwitch: function (ending) {
    var done = this.switched;
    this.switched = null;
    if (!done) return;
    guarded(this.env, done)(ending && problem(ending), this.transport);
    if (this.state !== 'closed') this.after('patterns', 0, this.advancePatterns);
  },

  finish: function (ending) {
    var self = this;
    if (this.state === 'closed') return;
    if (this.current) this.ack(this.current);
    this.state = 'closed';
    this.shutSessions();
    for (var name in this.timers) if (owns(this.timers, name)) this.stop(name);
    each(this.unlisten, function (unlisten) { unlisten(); });
    this.publisher.close();
    if (ending.kind !== 'closed') this.report(ending);
    each(this.handles, function (handle) { self.settle(handle, ending); });
    this.settleSwitch(ending);
    this.events.emit('$close', { reason: ending.reason || ending.code || ending.kind });
  },

  // This tab's own, over reloads; then the start of later tabs.
  keep: function () {
    var self = this;
    var name = this.options.resume;
    return map(name ? ['sessionStorage', 'localStorage'] : [], function (area) {
      return store(self.env, 'switchback:' + self.base + ' resume ' + name, self.handled, area);
    });
  },

  shutSessions: function () {
    var current = this.current;
    this.keep();
    this.queue = [];
    this.abandonCandidate();
    this.endQuestion();
    this.current = null;
    if (current) current.shut();
    this.keepHold();
    this.stop('retry');
    this.stop('probe');
  },

  report: function (ending, wait) {
    var text = ending.message;
    if (!text) {
      text = ending.transport ? ' over ' + ending.transport : '';
      text = 'No answer from ' + this.base + text + '. Is it running?';
      if (this.foreign) {
        text += ' It is another origin than this page, so it must allow it: --allow-origin ' +
          pageOrigin(this.env);
      }
    }
    this.events.emit('$error', {
      message: text, code: ending.code, status: ending.status, transport: ending.transport,
      topics: ending.topics, retry: wait === undefined ? undefined : Math.round(wait)
    });
  },

  callLater: function (done, a, b) {
    if (done) later(this.env, function () { done(a, b); });
    return this;
  },

  // Another tab was faster: on without holding.
  keepHold: function () {
    var session = this.current;
    var holds = !!session && !!session.transport.holds;
    if (this.chooser.hold(holds) || !holds || contains(this.chooser.usable(), session.name)) return;
    session.end(endings.recycled());
  },

  ackRegularly: function () {
    this.keepHold();
    if (this.current) this.ack(this.current);
    this.after('ack', ACK_MS, this.ackRegularly);
  },

  ack: function (session) {
    // Polls acknowledge by presenting it; a socket takes only what it has sent.
    var bySocket = canSend(session);
    var cursor = bySocket ? session.at : this.cursor;
    if (!session.stream || session.transport.local || !cursor || cursor === this.acked) return;
    this.acked = cursor;
    if (bySocket) session.handle.send({ type: 'ack', cursor: cursor });
    else if (canHttp(this.env)) this.send(this.ackRequest(cursor), nothing);
  },

  ackRequest: function (cursor) {
    var token = this.tokens.token;
    return {
      url: this.endpoint('ack', token ? [['token', token]] : []),
      // JSON costs a preflight.
      type: 'text/plain', body: write({ client: this.clientId, cursor: cursor })
    };
  },

  send: function (request, done) {
    return http(this.env, merge({
      method: 'POST', timeout: this.patience(), credentials: this.options.credentials
    }, request), done);
  },

  endpoint: function (path, params) {
    return this.base + '/v1/' + path + (params.length ? '?' + query(params) : '');
  },

  // URLs are logged. Browsers that repeat one use up its ticket: no verdict on the token.
  withTicket: function (session, done) {
    var self = this;
    session.ticket = null;
    this.tokens.get(function (ending, token) {
      if (ending || !token || !canHttp(self.env)) return done(ending, token ? [['token', token]] : []);
      self.send({
        url: self.endpoint('tickets', []), type: 'application/json', token: token,
        body: write({ transport: session.wire })
      }, function (ending, text) {
        if (ending && !/^(404|501)$/.test(ending.status) && ending.kind !== 'lost') return done(ending);
        session.ticket = (parse(text) || {}).ticket;
        done(null, [session.ticket ? ['ticket', session.ticket] : ['token', token]]);
      });
    });
  },

  patience: function () {
    var roundTrips = 2 * (this.stats.rtt || 0);
    var wanted = Math.max(HELLO_MS, roundTrips) * Math.pow(2, this.slowness);
    return Math.min(wanted, Math.max(PATIENCE_MAX_MS, roundTrips));
  },

  holdLess: function (seconds) {
    this.holdSeconds = seconds;
    this.after('hold', PROBE_MAX_MS, function () { this.holdSeconds = this.longestHold; });
  },

  // `unload` would keep the page out of the back/forward cache.
  watchPage: function () {
    var self = this;
    var window = this.env.window;
    function wake() { self.wake(false); }
    this.unlisten = [
      listen(window, 'pagehide', function () { self.leave(); }),
      listen(window, 'pageshow', function () { self.comeBack(); }),
      listen(window, 'online', function () { self.wake(true); }),
      listen(window.document, 'resume', wake),
      listen(window.document, 'visibilitychange', function () {
        if (window.document.visibilityState === 'visible') wake();
      })
    ];
  },

  leave: function () {
    this.away = true;
    var navigator = this.env.window.navigator;
    if (this.cursor && this.cursor !== this.acked && navigator && navigator.sendBeacon) {
      var request = this.ackRequest(this.cursor);
      if (navigator.sendBeacon(request.url, request.body)) this.acked = this.cursor;
    }
    this.shutSessions();
  },

  comeBack: function () {
    if (!this.away) return;
    this.away = false;
    this.failed = 0;
    this.begin();
  },

  // On another network (`moved`) streams die silently. Once a second.
  wake: function (moved) {
    var now = this.env.now();
    if (this.away || this.state === 'closed') return;
    if (now - this.resumedAt < WAKE_MS) return this.after('wake', WAKE_MS, function () { this.wake(moved); });
    this.resumedAt = now;
    if (moved) { this.chooser.forgive(true); this.probeDelay = 0; }
    if (this.phase() === 'pausing' && now >= this.notBefore) { this.failed = 0; this.begin(); }
    if (this.current && moved && !this.candidate) this.renew();
    else if (this.current) this.current.checkSilence(true);
  },

  after: function (name, ms, then) {
    var self = this;
    this.stop(name);
    this.timers[name] = this.env.setTimer(function () { delete self.timers[name]; then.call(self); }, ms);
  },

  stop: function (name) {
    if (this.timers[name] !== undefined) this.env.clearTimer(this.timers[name]);
    delete this.timers[name];
  }
});

// ---- Endings

/*
 * How a session ended: `kind`; for people `message`, `code`, `status`; `retry`: ms to wait; `refused`: would
 * be again; `denied`: the patterns may be why; `fatal`: no retry. Unless noted: `$error`, a pause, no blame
 * on the transport.
 */
var endings = {
  // Cut, or not answered by the server. Blamed.
  lost: function (message) { return { kind: 'lost', message: message }; },
  // No hello or answer in time. Blamed.
  late: function () { return { kind: 'late' }; },
  // Opened, then silent for two heartbeats. Blamed twice.
  silent: function () { return { kind: 'silent', code: 'silent', message: 'Silent for two heartbeats.' }; },
  // WebSocket close code 1001. After a short life blamed, else no `$error`.
  leaving: function () { return { kind: 'leaving' }; },
  // The machine slept. No pause.
  resumed: function () {
    return { kind: 'resumed', code: 'resumed', message: 'It died while this page slept.' };
  },
  // The transport's own limit. No `$error`, no pause.
  recycled: function () { return { kind: 'recycled' }; },
  // The server's `$bye`. No `$error`.
  goodbye: function (reason, retry) {
    return {
      kind: 'goodbye', reason: reason, code: reason, retry: retry,
      message: 'The server ended the connection: ' + reason + '.'
    };
  },
  refused: function (error, status, retry) {
    status = status || STATUSES[error.code];
    var denied = retry === undefined && (!status || status === 400 || status === 403);
    return {
      kind: 'refused', code: error.code || 'error', message: error.message || 'The server refused.',
      status: status, retry: retry, refused: denied || (retry === undefined && status === 401), denied: denied
    };
  },
  foreign: function (base) {
    return {
      kind: 'foreign', code: 'not_switchback', retry: FOREIGN_RETRY_MS,
      message: 'What answered at ' + base + ' is not a Switchback server, or was changed on the way.'
    };
  },
  unusable: function (message) { return { kind: 'unusable', message: message }; },
  // The application's function gave none.
  token: function (message, retry) {
    return { kind: 'token', code: 'token', message: message, retry: retry, fatal: retry === undefined };
  },
  // A call that can't be carried out.
  misused: function (code, message) {
    return { kind: 'misused', code: code, message: message, fatal: true };
  },
  closed: function () {
    return { kind: 'closed', code: 'closed', message: 'The connection is closed.', fatal: true };
  }
};

var STATUSES = { unauthorized: 401, forbidden: 403 };

function rank(ending) {
  if (!ending) return -1;
  if (ending.refused) return 4;
  return /^(token|foreign)$/.test(ending.kind) ? 3 : ending.code ? 2 : ending.kind === 'unusable' ? 0 : 1;
}

// A proxy's 403 is an obstacle; only the server's own error object is a verdict.
function answered(status, text, retryAfter) {
  if (!status) return endings.lost();
  var error = (parse(text) || {}).error;
  var retry = retryAfter > 0 ? retryAfter * 1000 : undefined;
  if (error && error.code) return endings.refused(error, status, retry);
  var ending = endings.lost('The answer was HTTP status ' + status + ', not by Switchback.');
  return merge(ending, { status: status === 400 ? undefined : status, retry: retry });
}

function errorItem(item) {
  var data = item.data || {};
  return endings.refused(data.error || data, undefined, data.retry);
}

function problem(ending, id) {
  var error = new Error(ending.message || 'No answer from the server.');
  error.code = ending.code || 'no_answer';
  error.status = ending.status;
  if (id) error.id = id;
  return error;
}

// ---- Delivery

merge(Connection.prototype, {
  // New sessions repeat events. A gap may move the cursor back, if its session is at the cursor.
  advance: function (session, cursor, isGap) {
    var upToDate = session.at === this.cursor;
    var order = this.cursor === undefined ? -1 : compare(this.cursor, cursor);
    session.at = cursor;
    if (order < 0 || (isGap && (upToDate || order === undefined))) { this.cursor = cursor; return true; }
    if (order === undefined) {
      session.end(merge(endings.lost('The server changed its log without a gap.'), { code: 'protocol' }));
    }
    return false;
  },

  deliver: function (session, item) {
    if (!this.advance(session, item.cursor)) { this.stats.repeated += 1; return; }
    if (!this.admits(item)) return;
    this.stats.received += 1;
    this.publisher.seen(item);
    this.events.emit(item.event, item);
    each(this.handles, function (handle) {
      if (handle.events && some(handle.topics, function (topic) { return matches(topic, item.topic); })) {
        handle.events.emit(item.event, item);
      }
    });
  },

  gap: function (session, item) {
    if (!this.advance(session, item.cursor, true)) return;
    this.stats.gaps += 1;
    if (item.data.reason !== 'expired') {
      each(this.patterns, function (pattern) { pattern.start = undefined; });
      this.live = false;
    }
    this.upto = undefined;
    this.events.emit('$gap', item.data);
  },

  wentLive: function () {
    if (this.live) return;
    this.live = true;
    this.events.emit('$live', { cursor: this.cursor });
  },

  buffered: function (session, item) {
    if (!this.buffer || session !== this.current) return false;
    if (this.buffer.length < BUFFER_MAX) this.buffer.push(item);
    else { this.buffer = this.current = null; session.shut(); }
    return true;
  },

  flush: function () {
    var items = this.buffer || [];
    var session = this.current;
    this.buffer = null;
    each(items, function (item) { if (!session.over) session.process(item); });
  }
});

// ---- Subscriptions

function Handle(connection, topics, done, initial) {
  this.connection = connection;
  this.topics = topics;
  this.done = done;
  this.initial = initial;
}

merge(Handle.prototype, {
  on: function (name, listener) {
    this.events = this.events || emitter(this.connection.env);
    this.events.on(name, listener);
    return this;
  },

  off: function (name, listener) { if (this.events) this.events.off(name, listener); return this; },

  unsubscribe: function (done) {
    this.topics = [];
    this.connection.reviewPatterns();
    this.connection.callLater(done, null, this.connection.cursor);
  },

  drop: function (topic) {
    var before = this.topics;
    this.topics = without(before, [topic]);
    return this.topics.length < before.length;
  }
});

function malformed(topic) {
  var ending = endings.misused('bad_topic', 'The pattern ' + write(topic) + ' is malformed.');
  return merge(ending, { topics: [topic] });
}

merge(Connection.prototype, {
  add: function (topics, done, initial) {
    var self = this;
    var handle = new Handle(this, unique(topics), done, initial);
    var bad = filter(handle.topics, function (topic) { return !isPattern(topic); });
    var fault = this.state === 'closed' ? endings.closed() : bad.length ? malformed(bad[0]) : null;
    if (!initial && fault) handle.topics = [];
    handle.topics = without(handle.topics, bad);
    if (handle.topics.length) {
      this.handles.push(handle);
      this.reviewPatterns();
      if (!fault) return handle;
    }
    later(this.env, function () {
      if (!initial) return self.settle(handle, fault);
      if (fault && !self.handles.length && !self.options.client) self.finish(fault);
      else each(bad, function (topic) { self.report(malformed(topic)); });
    });
    return handle;
  },

  reviewPatterns: function () {
    var self = this;
    this.handles = filter(this.handles, function (handle) {
      if (!handle.topics.length) self.settle(handle, null);
      return handle.topics.length;
    });
    this.topics = topicsOf(this.handles);
    this.patterns = map(this.topics, function (text) {
      return self.pattern(text) || { text: text };
    });
    this.strict = true;
    if (this.state !== 'closed') this.after('patterns', 0, this.advancePatterns);
  },

  pattern: function (text) { return this.patternsOf([text])[0]; },

  patternsOf: function (texts) {
    return filter(this.patterns, function (pattern) { return contains(texts, pattern.text); });
  },

  /*
   * One step; its end calls again, so changes never block each other. A socket takes patterns by message.
   * Else a poll from `now` (the question) subscribes to them alone; then a session with all takes over.
   */
  advancePatterns: function () {
    var self = this;
    var session = this.current;
    if (this.away || this.state === 'closed') return;
    if (!this.patterns.length && !this.options.client) {
      this.shutSessions();
      this.state = 'connecting';
      return this.begin();
    }
    if (!session) return this.timers.retry === undefined ? this.begin() : undefined;
    this.confirm(session);
    this.settleHandles();
    if (this.current !== session || this.question || this.joining || this.timers.later !== undefined) return;
    if (this.candidate && (this.switched || this.candidate.name === session.name)) return;
    var bySocket = canSend(session);
    var granted = this.textsOf('granted');
    var missing = without(granted, session.texts);
    var surplus = without(session.texts, this.topics);
    var pending = this.nextPending();
    var texts = missing.concat(without(topicsOf(pending), granted));
    if (!bySocket && (missing.length || (!texts.length && surplus.length))) return this.renew();
    if (texts.length && bySocket) return this.subscribeBySocket(session, pending, texts);
    if (texts.length) return this.subscribeByQuestion(pending, texts);
    if (!surplus.length) return;
    this.joining = true;
    session.request({ type: 'unsubscribe', topics: surplus }, function (ending) {
      self.joining = false;
      if (ending) return;
      session.texts = without(session.texts, surplus);
      self.advancePatterns();
    });
  },

  nextPending: function () {
    var waiting = filter(this.handles, function (handle) { return !handle.settled; });
    if (waiting.length && waiting[0].alone) return [waiting[0]];
    return filter(waiting, function (handle) { return !handle.alone; });
  },

  patternsToOpen: function () {
    var texts = this.textsOf('granted');
    if (texts.length) {
      var blind = this.textsOf('blind');
      this.requested = filter(this.handles, function (handle) {
        return !handle.settled && both(handle.topics, blind).length;
      });
      return { texts: texts, pending: this.requested, now: false };
    }
    this.requested = this.nextPending();
    if (this.requested.length && this.requested[0].initial && (this.options.cursor || this.options.last)) {
      this.requested = [this.requested[0]];
    }
    return {
      texts: topicsOf(this.requested), pending: this.requested, now: this.began && this.requested.length > 0
    };
  },

  textsOf: function (state) {
    return names(filter(this.patterns, function (pattern) { return pattern[state]; }), 'text');
  },

  lacks: function (session) { return without(this.textsOf('granted'), session.texts).length > 0; },

  subscribeBySocket: function (session, pending, texts) {
    var self = this;
    var patterns = this.patternsOf(texts);
    this.joining = true;
    session.request({ type: 'subscribe', topics: texts }, function (ending, reply) {
      self.joining = false;
      if (ending && ending.kind === 'lost') return;
      if (ending && ending.status === 401) return session.end(ending);
      if (ending) return self.notGranted(pending, ending);
      session.texts = unique(session.texts.concat(texts));
      self.grant(patterns, reply.cursor);
      self.confirm(session);
      self.advancePatterns();
    });
  },

  subscribeByQuestion: function (pending, texts) {
    var self = this;
    var patterns = this.patternsOf(texts);
    this.sendQuestion(texts, function (cursor) {
      self.questionsLost = 0;
      self.grant(patterns, cursor);
      self.advancePatterns();
    }, function (ending) {
      var again = ending.kind !== 'unusable' && (self.questionsLost += 1) < QUESTIONS_MAX;
      if (again || /^(refused|token)$/.test(ending.kind)) return self.notGranted(pending, ending);
      self.grant(patterns, undefined, true);
      self.advancePatterns();
    });
  },

  notGranted: function (pending, ending) {
    if (ending.fatal) return this.finish(ending);
    if (ending.denied && pending.length) {
      this.refuse(pending, ending);
      return this.advancePatterns();
    }
    this.subscribeLater(ending);
  },

  subscribeLater: function (ending) {
    this.failed += 1;
    var wait = Math.max(ending.retry || 0, BACKOFF_FIRST_MS + backoff(this.env, this.failed));
    this.after('later', wait, this.advancePatterns);
  },

  // `answered(cursor)`: granted, and the log's end.
  sendQuestion: function (texts, answered, failed, atCursor) {
    var self = this;
    var env = this.env;
    var last = endings.unusable('This browser has no way to poll.');
    var left = filter(env.transports, function (transport) {
      return transport.reliable && transport.supported(env) && (!transport.frame || self.verified);
    });
    function next() {
      var transport = left.shift();
      if (!transport) { self.question = null; return failed(last); }
      var wanted = { texts: texts, pending: [], now: !atCursor };
      var session = self.question = new TransportSession(self, transport, wanted);
      session.question = {
        answered: function (item) {
          self.question = null;
          self.verified = true;
          session.shut();
          answered(item.cursor, item);
        },
        ended: function (ending) {
          last = ending;
          if (/^(refused|token)$/.test(ending.kind)) left = [];
          next();
        }
      };
      session.open();
    }
    next();
  },

  endQuestion: function () {
    var question = this.question;
    this.question = null;
    this.joining = false;
    this.stop('later');
    if (question) question.shut();
  },

  // A host may answer all with index.html: this page within itself.
  prove: function (session) {
    var env = this.env;
    var others = filter(this.chooser.usable(), function (name) {
      return find(env.transports, name).reliable && !find(env.transports, name).frame;
    });
    if (others.length) return session.fail(endings.unusable('The server has not answered yet.'));
    this.sendQuestion(session.texts, function () { session.open(); }, function (ending) {
      session.end(ending);
    });
  },

  // Not by text: a pattern that was dropped and added again meanwhile starts later.
  grant: function (patterns, start, isBlind) {
    each(patterns, function (pattern) {
      if (pattern.confirmed) return;
      pattern.granted = true;
      pattern.blind = isBlind;
      // By socket later than by question.
      pattern.start = latest(pattern.start, start);
    });
  },

  confirm: function (session) {
    var self = this;
    var isFirst = !this.textsOf('confirmed').length;
    each(this.patternsOf(session.texts), function (pattern) {
      if (pattern.confirmed || !pattern.granted) return;
      pattern.confirmed = true;
      pattern.blind = false;
      if (!isFirst) pattern.start = latest(pattern.start, self.cursor);
    });
    this.strict = true;
  },

  settleHandles: function () {
    var self = this;
    var confirmed = this.textsOf('confirmed');
    // A poll opens before its cursor is read.
    if (!this.cursor) return;
    each(this.handles, function (handle) {
      if (handle.settled || without(handle.topics, confirmed).length) return;
      handle.cursor = self.cursor;
      each(handle.topics, function (text) {
        handle.cursor = latest(handle.cursor, self.pattern(text).start);
      });
      self.settle(handle, null);
    });
  },

  settle: function (handle, ending) {
    if (handle.settled) return;
    handle.settled = true;
    if (handle.done) guarded(this.env, handle.done)(ending && problem(ending), handle.cursor || this.cursor);
  },

  refuse: function (pending, ending) {
    var self = this;
    var handle = pending[0];
    each(this.patternsOf(topicsOf(pending)), function (pattern) {
      pattern.granted = pattern.confirmed;
      pattern.blind = false;
    });
    each(pending, function (handle) { handle.alone = true; });
    if (pending.length === 1 && handle.initial && handle.topics.length > 1) {
      this.handles = map(handle.topics, function (topic) {
        return merge(new Handle(self, [topic], null, true), { alone: true });
      }).concat(without(this.handles, [handle]));
    } else if (pending.length === 1) {
      var topics = handle.topics;
      handle.topics = [];
      this.settle(handle, ending);
      this.reviewPatterns();
      if (handle.initial && !this.handles.length && !this.options.client) return false;
      if (handle.initial) this.report(merge(merge({}, ending), { topics: topics }));
    }
    return pending.length > 0 && this.state !== 'closed';
  },

  // Not for an unsubscribed pattern that is still carried, nor from before its start.
  admits: function (item) {
    var self = this;
    if (!this.patterns.length) return !!this.options.client;
    this.strict = this.strict && (!this.current || without(this.current.texts, this.topics).length > 0 ||
      some(this.patterns, function (pattern) {
        return !pattern.confirmed || (pattern.start && !(compare(pattern.start, self.cursor) < 0));
      }));
    return !this.strict || some(this.patterns, function (pattern) {
      return pattern.confirmed && matches(pattern.text, item.topic) &&
        !(pattern.start && compare(item.cursor, pattern.start) <= 0);
    });
  }
});

function topicsOf(handles) {
  var texts = [];
  each(handles, function (handle) { texts = texts.concat(handle.topics); });
  return unique(texts);
}

// ---- Tokens

// One call of the function serves all that wait. A failure costs a pause, doubling. `null`: closed.
function Tokens(env, option) {
  this.env = env;
  this.option = option;
  this.renewable = typeof option === 'function';
  this.waiting = [];
  this.failed = this.notBefore = 0;
  this.proved = false;
}

merge(Tokens.prototype, {
  get: function (done) {
    var self = this;
    var wait = this.notBefore - this.env.now();
    if (!this.renewable && this.option && !this.token) {
      var fault = tokenFault(this.option);
      if (fault) return done(endings.token(fault));
      this.token = trim(this.option);
    }
    if (this.token || !this.renewable) return done(null, this.token);
    if (wait > 0) return done(endings.token(this.fault || 'The server refused the token.', wait));
    this.waiting.push(done);
    if (this.waiting.length > 1) return;
    var settle = onlyOnce(function (error, token) { cancel(); self.settle(error, token); });
    var cancel = later(this.env, function () { settle(new Error('it did not answer')); }, TOKEN_MS);
    function give(token) { settle(null, token); }
    function fail(error) { settle(error || new Error('it gave no reason')); }
    try {
      var answer = this.option(settle);
      if (answer && typeof answer.then === 'function') answer.then(give, fail);
      else if (answer !== undefined) give(answer);
    } catch (error) { fail(error); }
  },

  settle: function (error, token) {
    var waiting = this.waiting;
    var ending = null;
    this.waiting = [];
    this.fault = error ? 'The token function failed: ' + (error.message || error) + '.' : tokenFault(token);
    if (!error && token === null) ending = endings.token('Signed out: the token function gave null.');
    else if (this.fault) { this.wait(); ending = endings.token(this.fault, this.notBefore - this.env.now()); }
    else this.token = trim(token);
    for (var i = 0; i < waiting.length; i++) waiting[i](ending, this.token);
  },

  accepted: function () { this.proved = true; this.failed = this.notBefore = 0; },

  rejected: function () {
    if (!this.renewable || !this.token) return;
    this.token = this.fault = undefined;
    if (!this.proved) this.wait();
    this.proved = false;
  },

  wait: function () {
    var most = Math.min(TOKEN_PAUSE_MAX_MS, TOKEN_PAUSE_MS * Math.pow(2, Math.min(this.failed, 10)));
    this.failed += 1;
    this.notBefore = this.env.now() + most * (0.75 + 0.25 * this.env.random());
  }
});

function tokenFault(token) {
  if (typeof token === 'string' && /^\s*[\w.~+\/\-]+=*\s*$/.test(token)) return '';
  return 'What was given is no token' + (/^\s*</.test(token) ? ', but HTML.' : '; it goes without "Bearer".');
}

// ---- Chooser

// What breaks repeatedly is left out for a minute, then two, up to ten.
function Chooser(connection) {
  var records = this.records = {};
  var env = this.env = connection.env;
  var options = connection.options;
  this.id = connection.clientId;
  this.allowed = options.transports ? list(options.transports)
    : names(filter(env.transports, function (transport) {
      return !transport.optional || options[transport.optional];
    }));
  this.hasTls = /^https/i.test(connection.base);
  this.place = 'switchback:' + connection.base + ' ';
  this.key = this.place + this.allowed.join(' ');
  this.pinned = this.last = null;
  each(env.transports, function (transport) {
    records[transport.name] = { shortLives: 0, strikes: 0, penalty: PROBE_FIRST_MS, until: 0 };
  });
}

merge(Chooser.prototype, {
  start: function (round) {
    var usable = this.usable();
    var reliable = filter(usable, function (name) { return find(this.env.transports, name).reliable; }, this);
    var order = this.pinned ? [this.pinned] : [];
    order = unique(order.concat(both([this.last || this.recall()], usable), reliable, usable));
    if (!round || order.length < 4) return order;
    return [order[0], order[1], order[2 + (round - 1) % (order.length - 2)]];
  },

  better: function (than) {
    if (this.pinned) return this.pinned === than ? [] : [this.pinned];
    for (var i = 0; i < this.allowed.length; i++) if (this.allowed[i] === than) break;
    return both(this.usable(), this.allowed.slice(0, i));
  },

  supported: function () {
    return filter(this.allowed, function (name) {
      var transport = find(this.env.transports, name);
      return !!transport && transport.supported(this.env);
    }, this);
  },

  usable: function () {
    var all = this.supported();
    var hasRoom = this.hold();
    var free = filter(all, function (name) {
      return name === this.pinned ||
        (this.records[name].until <= this.env.now() && (hasRoom || !find(this.env.transports, name).holds));
    }, this);
    return free.length ? free : all;
  },

  /*
   * Without TLS a browser has six connections to a host, for all tabs: four may be held. `wanted`: true
   * acquires or renews one, false releases it; undefined: is one free?
   */
  hold: function (wanted) {
    var now = this.env.date();
    for (var i = 0; i < HOLDS_MAX; i++) {
      var key = this.place + i;
      var kept = (store(this.env, key) || '').split(' ');
      var isOurs = kept[0] === this.id;
      if (!isOurs && (wanted === false || kept[1] > now)) continue;
      if (wanted !== undefined) store(this.env, key, wanted ? this.id + ' ' + (now + HOLD_KEPT_MS) : '');
      if (wanted !== false) return true;
    }
    return this.hasTls;
  },

  worked: function (name) {
    if (this.pinned) return;
    this.last = name;
    store(this.env, this.key, name + ' ' + (this.env.date() + REMEMBER_MS));
  },

  recall: function () {
    var kept = (store(this.env, this.key) || '').split(' ');
    return Number(kept[1]) > this.env.date() ? kept[0] : undefined;
  },

  // Each transport has pauses of its own.
  shortLives: function (round) { return this.records[this.start(round)[0]].shortLives; },

  broke: function (session, lived, silent, announced) {
    var record = this.records[session.name];
    record.shortLives = lived ? 1 : record.shortLives + 1;
    if (announced || !session.stream) return;
    if (lived && !silent) { record.strikes = 0; record.penalty = PROBE_FIRST_MS; return; }
    record.strikes += silent ? 2 : 1;
    if (record.strikes < 2) return;
    record.strikes = 0;
    record.until = this.env.now() + record.penalty;
    record.penalty = Math.min(record.penalty * 2, PROBE_MAX_MS);
    if (this.last === session.name) this.last = null;
  },

  forgive: function (everything) {
    for (var name in this.records) {
      if (!owns(this.records, name)) continue;
      this.records[name].strikes = 0;
      if (everything) this.records[name].until = this.records[name].shortLives = 0;
    }
  }
});

// ---- TransportSession

// `wanted`: `texts`, the patterns; `pending`, unsettled handles; `now`: from the log's end.
function TransportSession(connection, transport, wanted) {
  this.connection = connection;
  this.env = connection.env;
  this.transport = transport;
  this.name = transport.name;
  this.wire = transport.wire;
  this.stream = transport.stream;
  this.texts = wanted.texts;
  this.pending = wanted.pending;
  this.now = wanted.now;
  this.at = connection.cursor;
  this.heartbeat = HEARTBEAT_MS;
  this.isOpen = this.over = false;
  this.question = null;
  this.handle = null;
  this.replies = {};
  this.refs = 0;
}

merge(TransportSession.prototype, {
  open: function () {
    var self = this;
    var connection = this.connection;
    this.openedAt = this.receivedAt = this.env.now();
    function go(ending, credentials) {
      if (self.over) return;
      if (ending) return self.end(ending);
      self.credentials = credentials;
      self.openedAt = self.receivedAt = self.env.now();
      self.alarm(connection.patience(), function () { self.end(endings.late()); });
      try { self.handle = self.transport.open(self); } catch (error) {
        self.end(endings.unusable('Can\'t open ' + self.name + ': ' + (error.message || error)));
      }
      if (self.over && self.handle) self.handle.close();
    }
    if (this.over) return;
    if (this.transport.frame && !connection.verified) return connection.prove(this);
    // It would execute another program.
    if (this.transport.script && connection.verified === false) {
      return this.fail(endings.foreign(connection.base));
    }
    if (this.transport.ticket) connection.withTicket(this, go);
    else connection.tokens.get(function (ending, token) { self.token = token; go(ending, []); });
  },

  fail: function (ending) { this.alarm(0, function () { this.end(ending); }); },

  url: function (params) {
    var connection = this.connection;
    var options = connection.options;
    var all = map(this.texts, function (text) { return ['topic', text]; });
    var start = this.now && !this.isOpen ? 'now' : connection.cursor || options.cursor;
    this.at = connection.cursor;
    if (start) all.push(['cursor', start]);
    else if (options.last) all.push(['last', options.last]);
    if (options.latest) all.push(['latest', 1]);
    if (options.latest && connection.upto) all.push(['upto', connection.upto]);
    if (options.pace) all.push(['pace', options.pace]);
    this.attempt = connection.attempt;
    if (!this.question) all.push(['client', connection.clientId], ['attempt', this.attempt]);
    if (this.switched) all.push(['switched', this.switched]);
    this.switched = undefined;
    // Old caches ignore `no-store`.
    all = all.concat(params || [], this.credentials || [], [['_', this.env.uuid().slice(0, 8)]]);
    return connection.endpoint(this.wire, all);
  },

  limit: function (wait) { return wait * 1000 + this.connection.patience(); },

  count: function (requests, bytes) {
    this.connection.stats.requests += requests;
    this.connection.stats.bytes += bytes;
  },

  text: function (text) {
    var item = parse(text);
    if (item) this.receive(item);
  },

  receive: function (item) {
    if (this.over) return;
    this.receivedAt = this.env.now();
    var name = item.event;
    var data = item.data || {};
    if (name === '$bye') {
      if (this === this.connection.current) this.connection.upto = item.upto || this.upto;
      return this.end(endings.goodbye(data.reason, data.retry));
    }
    if (name === '$error') return this.end(errorItem(item));
    this.opened(item);
    if (this.over) return;
    if (name === '$reply') this.reply(data);
    else if (!this.connection.buffered(this, item)) this.process(item);
  },

  process: function (item) {
    var connection = this.connection;
    this.apply(item);
    // Not earlier: a page may be left while a listener waits.
    connection.handled = connection.cursor;
    if (!connection.timers.keep && connection.options.resume) {
      connection.after('keep', KEEP_MS, connection.keep);
    }
  },

  apply: function (item) {
    var name = item.event;
    var connection = this.connection;
    if (name.charAt(0) !== '$') return connection.deliver(this, item);
    if (name === '$gap') return connection.gap(this, item);
    if (/^\$(beat|live)$/.test(name)) {
      connection.advance(this, item.cursor);
      connection.upto = item.upto;
    }
    if (!this.over && (name === '$live' || item.live || (item.data || {}).live)) connection.wentLive();
  },

  batch: function (batch) {
    if (this.over) return;
    this.receivedAt = this.env.now();
    this.upto = batch.upto;
    for (var i = 0; i < batch.events.length; i++) {
      this.receive(batch.events[i]);
      if (this.over) return;
    }
    this.opened(batch);
    if (this.over) return;
    if (batch.cursor) {
      this.receive({ event: '$beat', cursor: batch.cursor, upto: batch.upto, live: batch.live });
    }
    if (!this.over && this.connection.current === this) this.connection.settleHandles();
  },

  // share.js gives { message } or { planned: true }.
  end: function (ending) {
    if (this.over) return;
    if (!ending.kind) ending = merge(ending.planned ? endings.recycled() : endings.lost(), ending);
    this.over = true;
    this.release();
    ending.transport = this.name;
    this.connection.ended(this, ending);
  },

  shut: function () {
    if (this.over) return;
    this.over = true;
    if (!this.question) this.connection.abandoned[this.wire] = this.env.now();
    this.release();
  },

  release: function () {
    var replies = this.replies;
    this.replies = {};
    this.env.clearTimer(this.timer);
    if (this.handle) this.handle.close();
    for (var ref in replies) if (owns(replies, ref)) replies[ref](endings.lost('No answer came.'));
  },

  request: function (message, done) {
    var ref = String(this.refs += 1);
    this.replies[ref] = done;
    message.ref = ref;
    this.handle.send(message);
  },

  reply: function (data) {
    if (!owns(this.replies, data.ref)) return;
    var done = this.replies[data.ref];
    delete this.replies[data.ref];
    done(data.ok ? null : endings.refused(data.error || {}, undefined, data.retry), data);
  },

  opened: function (item) {
    var connection = this.connection;
    if (this.isOpen) return;
    this.isOpen = true;
    this.env.clearTimer(this.timer);
    if (this.question) return this.question.answered(item);
    // Confirmed meanwhile: the log's end is no start.
    if (this.now && connection.textsOf('confirmed').length) {
      connection.candidate = null;
      this.shut();
      return connection.open(this.name);
    }
    var first = item.event === '$hello' || (item.events && !item.events.length);
    if (first && item.data && item.data.heartbeat) this.heartbeat = item.data.heartbeat;
    connection.stats.rtt = Math.min(PATIENCE_MAX_MS, this.env.now() - this.openedAt);
    if (this.now || !connection.cursor) connection.cursor = this.at = first ? item.cursor : undefined;
    if (this.stream) this.watch(2 * this.heartbeat);
    connection.opened(this);
  },

  alarm: function (ms, then) {
    var self = this;
    this.env.clearTimer(this.timer);
    this.timer = this.env.setTimer(function () { then.call(self); }, ms);
  },

  watch: function (ms) {
    var self = this;
    var due = this.env.now() + ms;
    var dueByDate = this.env.date() + ms;
    this.alarm(ms, function () {
      // Either clock may stop while the machine sleeps.
      var late = Math.max(self.env.now() - due, self.env.date() - dueByDate);
      self.checkSilence(late > self.heartbeat);
    });
  },

  checkSilence: function (slept) {
    var silence = this.env.now() - this.receivedAt;
    if (!this.stream || !this.isOpen || this.over) return;
    if (silence < 2 * this.heartbeat) this.watch(2 * this.heartbeat - silence);
    else this.end(slept ? endings.resumed() : endings.silent());
  }
});

// ---- Transports

/*
 * `holds`: keeps a connection busy; `reliable`: passes where the page did; `ticket`: sets no headers;
 * `script`, `frame`: executes responses; `local`: sends nothing. `open` returns { close(), send?(message) }.
 */
var ws = {
  name: 'ws', wire: 'ws', stream: true,
  supported: function (env) {
    var WebSocket = env.window.WebSocket;
    return !!WebSocket && WebSocket.CLOSING === 2;
  },
  open: function (session) {
    var protocols = ['switchback.v1'];
    if (session.token) protocols.push('switchback.token.' + session.token);
    var socket = new session.env.window.WebSocket(session.url().replace(/^http/i, 'ws'), protocols);
    session.count(1, 0);
    socket.onmessage = function (event) { session.count(0, event.data.length); session.text(event.data); };
    // Why it did not open is not said: is the token refused?
    socket.onclose = function (event) {
      var ending = closing(event);
      if (ending.kind !== 'lost' || session.isOpen || !session.token) return session.end(ending);
      session.connection.withTicket(session, function (refusal) { session.end(refusal || ending); });
    };
    return {
      send: function (message) { if (socket.readyState === 1) socket.send(write(message)); },
      close: function () { socket.onmessage = socket.onclose = null; socket.close(); }
    };
  }
};

function closing(event) {
  if (event.code === 1008) return endings.goodbye(event.reason || 'policy');
  return event.code === 1001 ? endings.leaving() : endings.lost();
}

var sse = {
  name: 'sse', wire: 'sse', stream: true, holds: true, ticket: true,
  supported: function (env) { return !!env.window.EventSource; },
  open: function (session) {
    var credentials = { withCredentials: !!session.connection.options.credentials };
    var source = new session.env.window.EventSource(session.url([['named', '0']]), credentials);
    function item(event) { session.count(0, event.data.length); session.text(event.data); }
    function fail() { session.end(endings.lost()); }
    session.count(1, 0);
    source.onmessage = item;
    // It would reconnect with a used ticket.
    source.onerror = fail;
    each(['$hello', '$gap', '$live', '$beat', '$bye', '$error'], function (name) {
      source.addEventListener(name, item, false);
    });
    // Firefox closes it without an event as a link turns out a download.
    var cancel = watch(session.env, function () { return source.readyState !== 2; }, fail);
    return { close: function () { cancel(); source.onmessage = source.onerror = null; source.close(); } };
  }
};

function watch(env, alive, gone) {
  var cancel = later(env, look, ALIVE_MS);
  function look() {
    if (alive()) cancel = later(env, look, ALIVE_MS); else gone();
  }
  return function () { cancel(); };
}

var stream = {
  name: 'stream', wire: 'stream', stream: true, holds: true,
  supported: function (env) { return canFetchStream(env) || canXhrStream(env); },
  open: function (session) {
    return (canFetchStream(session.env) ? fetchStream : xhrStream)(session, lines(session));
  }
};

function lines(session) {
  var rest = '';
  return function (chunk) {
    session.count(0, chunk.length);
    var parts = (rest + chunk).split('\n');
    rest = parts.pop();
    for (var i = 0; i < parts.length; i++) if (parts[i]) session.text(parts[i]);
  };
}

function canFetchStream(env) {
  var window = env.window;
  return !!(window.fetch && window.ReadableStream && window.TextDecoder && window.AbortController);
}

function fetchStream(session, read) {
  var decoder = new session.env.window.TextDecoder();
  function end(ending) { session.end(ending || endings.lost()); }
  session.count(1, 0);
  return { close: startFetch(session.env, {
    method: 'GET', url: session.url(), token: session.token,
    credentials: session.connection.options.credentials
  }, function (response) {
    if (response.status !== 200) return readResponse(response, end);
    var reader = response.body.getReader();
    function pump() {
      return reader.read().then(function (part) {
        if (part.done) return end();
        read(decoder.decode(part.value, { stream: true }));
        return session.over ? undefined : pump();
      });
    }
    return pump();
  }, end) };
}

// These show partial responses; IE 8 throws.
function canXhrStream(env) {
  var Xhr = env.window.XMLHttpRequest;
  return !!Xhr && 'responseType' in new Xhr();
}

function xhrStream(session, read) {
  var seen = 0;
  var xhr = new session.env.window.XMLHttpRequest();
  xhr.open('GET', session.url(), true);
  prepare(xhr, { token: session.token, credentials: session.connection.options.credentials });
  xhr.onreadystatechange = function () {
    if (xhr.readyState < 3) return;
    if (xhr.status !== 200) {
      if (xhr.readyState !== 4) return;
      return session.end(answered(xhr.status, xhr.responseText, header(xhr, 'Retry-After')));
    }
    var text = xhr.responseText;
    var chunk = text.substring(seen);
    seen = text.length;
    read(chunk);
    if (xhr.readyState === 4) session.end(endings.lost());
    else if (seen > XHR_RECYCLE && session.isOpen) session.end(endings.recycled());
  };
  session.count(1, 0);
  xhr.send();
  return { close: function () { xhr.onreadystatechange = nothing; xhr.abort(); } };
}

var iframe = {
  name: 'iframe', wire: 'iframe', stream: true, holds: true, ticket: true, frame: true,
  supported: canFrame,
  open: function (session) {
    var connection = session.connection;
    var close = frame(session, [], function (item) { session.receive(item); }, function (ending) {
      session.end(ending);
    });
    // A frame whose server was killed loads on: has the log what it did not bring?
    var cancel = watch(session.env, function () {
      var at = connection.cursor;
      if (session.env.now() - session.receivedAt < GRACE_MS || !at || connection.question) return true;
      function goOn() { connection.advancePatterns(); }
      connection.sendQuestion(session.texts, function (cursor, item) {
        if (!item.events) later(session.env, function () {
          if (connection.cursor === at) session.end(endings.lost());
        }, GRACE_MS);
        goOn();
      }, goOn, true);
      return true;
    });
    return { close: function () { cancel(); close(); } };
  }
};

var longpoll = polling('longpoll', 'longpoll', canHttp, pollHttp, true);
var jsonp = polling('jsonp', 'jsonp', canScript, loadScript, true);
var iframePoll = polling('iframe-poll', 'iframe', canFrame, loadFrame, true);
var poll = polling('poll', 'poll', canHttp, pollHttp, false);
var jsonpPoll = polling('jsonp-poll', 'jsonp', canScript, loadScript, false);

/*
 * The first request is not held: its cursor covers the very first event. A held one that is cut is repeated
 * unheld: if that works, long requests are cut.
 */
function polling(name, wire, supported, send, held) {
  return {
    name: name, wire: wire, stream: false, holds: held, reliable: true, supported: supported,
    script: send === loadScript, frame: send === loadFrame,
    open: function (session) {
      var connection = session.connection;
      var cancel = nothing;
      function next(wait) {
        var startedAt = session.env.now();
        var finish = onlyOnce(function (ending, batch) {
          session.env.clearTimer(session.timer);
          cancel();
          if (session.over) return;
          if (ending) return failed(ending, wait, session.env.now() - startedAt);
          // Not modified: the cursor is the log's end.
          batch = batch || { events: [], live: true };
          session.batch(batch);
          if (session.over) return;
          var hold = held ? connection.holdSeconds : 0;
          var pace = batch.events.length && connection.options.pace;
          pace = Math.max(pace || 0, hold ? 0 : connection.options.interval || POLL_MS);
          if (batch.more || !pace) next(hold);
          else cancel = later(session.env, function () { next(hold); }, pace);
        });
        session.alarm(session.limit(wait), function () { finish(endings.late()); });
        cancel = send === pollHttp ? send(session, wait, finish)
          : pollWithTicket(send, session, wait, finish);
      }
      function failed(ending, wait, lasted) {
        if (!wait || !/^(lost|late)$/.test(ending.kind) || ending.status) return session.end(ending);
        connection.abandoned[session.wire] = session.env.now();
        connection.attempt += 1;
        if (lasted >= 1000) connection.holdLess(Math.max(1, Math.min(wait - 1, Math.floor(lasted / 2000))));
        next(0);
      }
      next(0);
      return { close: function () { cancel(); } };
    }
  };
}

// ---- Requests

function pollHttp(session, wait, done) {
  var connection = session.connection;
  var request = {
    method: 'GET', url: session.url(session.wire === 'longpoll' ? [['wait', wait]] : []),
    token: session.token, timeout: session.limit(wait)
  };
  // A quiet poll has no body; across origins a preflight would cost more.
  if (session.wire === 'poll' && session.at && !session.question && !connection.foreign) {
    request.etag = '"' + session.at + '"';
  }
  session.count(1, 0);
  return connection.send(request, function (ending, text) {
    if (ending && ending.status === 304) return done(null, null);
    if (ending) return done(ending);
    session.count(0, text.length);
    var batch = parse(text);
    if (batch && batch.events) done(null, batch);
    else done(endings.foreign(connection.base));
  });
}

function pollWithTicket(load, session, wait, finish) {
  var cancel = nothing;
  var cancelled = false;
  function go(ending, credentials) {
    if (ending) finish(ending); else if (!cancelled) cancel = load(session, wait, credentials, finish);
  }
  if (session.token) session.connection.withTicket(session, go); else go(null, []);
  return function () { cancelled = true; cancel(); };
}

function loadScript(session, wait, credentials, finish) {
  var env = session.env;
  var document = env.window.document;
  var registry = callbacks(env);
  var name = 'c' + env.uuid().replace(/-/g, '').slice(0, 12);
  var url = session.url([['wait', wait], ['callback', 'Switchback.jsonp.' + name]].concat(credentials));
  if (url.length > URL_MAX) return later(env, function () { finish(tooLong(session)); });
  var script = document.createElement('script');
  var loading = false;
  function forget() {
    script.onload = script.onerror = script.onreadystatechange = null;
    delete registry[name];
  }
  // Firefox fires it as a page is left: a request would delay the next `load`.
  function failed() { cancel = later(env, function () { finish(endings.lost()); }, GRACE_MS); }
  registry[name] = function (batch) {
    loading = false;
    session.count(0, write(batch).length + name.length + 26);
    finish(null, batch);
  };
  script.onerror = script.onload = failed;
  script.onreadystatechange = function () { if (script.readyState === 'loaded') failed(); };
  function load() {
    loading = true;
    script.async = true;
    script.referrerPolicy = 'origin';
    script.src = url;
    session.count(1, 0);
    (document.head || document.getElementsByTagName('head')[0] || document.body).appendChild(script);
  }
  var cancel = nothing;
  if (wait) cancel = whenComplete(env, load); else load();
  return function () {
    cancel();
    forget();
    if (script.parentNode) script.parentNode.removeChild(script);
    // The load goes on: a late answer needs something to call.
    if (!loading || registry[name]) return;
    registry[name] = nothing;
    script.onload = script.onerror = forget;
    later(env, forget, session.limit(wait));
  };
}

// Late answers find `nothing`; no name is kept.
function callbacks(env) {
  var window = env.window;
  var Proxy = window.Proxy;
  var shared = window.Switchback || (window.Switchback = {});
  return shared.jsonp || (shared.jsonp = Proxy ? new Proxy({}, {
    get: function (all, name) { return all[name] || nothing; }
  }) : {});
}

function loadFrame(session, wait, credentials, finish) {
  return frame(session, [['once', 1], ['wait', wait]].concat(credentials), function (batch) {
    if (batch.events) finish(null, batch);
    else if (batch.event === '$error') finish(errorItem(batch));
  }, finish);
}

function canScript(env) { return !!(env.window.document && env.window.document.createElement); }

// A sandboxed page can't be posted to.
function canFrame(env) { return canScript(env) && !!env.window.postMessage && pageOrigin(env) !== 'null'; }

function frame(session, params, onItem, onGone) {
  var env = session.env;
  var window = env.window;
  var from = origin(session.connection.base);
  var url = session.url(session.connection.foreign ? params.concat([['origin', pageOrigin(env)]]) : params);
  if (url.length > URL_MAX) return later(env, function () { onGone(tooLong(session)); });
  var element = null;
  var spoke = false;
  var unlisten = listen(window, 'message', function (event) {
    // Not `!==`: in IE 8 one window is two objects.
    if (!element || event.source != element.contentWindow || event.origin !== from) return;
    session.count(0, event.data.length + 20);
    var item = parse(event.data);
    spoke = spoke || !!item;
    if (item) onItem(item);
  });
  // A browser's error page can't be read.
  function gone() {
    var isOther = !spoke;
    try { isOther = isOther && !!element.contentWindow.document.body; } catch (error) { isOther = false; }
    onGone(isOther ? endings.foreign(session.connection.base) : endings.lost());
  }
  function alive() {
    if (session.connection.foreign) return true;
    try {
      var document = element.contentWindow.document;
      return document.URL === 'about:blank' || document.readyState !== 'complete';
    } catch (error) { return false; }
  }
  var cancelWatch = nothing;
  var cancel = whenComplete(env, function () {
    element = hiddenFrame(window.document, 'switchback-' + session.name);
    var unload = listen(element, 'load', function () { unload(); cancel = later(env, gone, GRACE_MS); });
    element.src = url;
    session.count(1, 0);
    window.document.body.appendChild(element);
    cancelWatch = watch(env, alive, gone);
  });
  return function () {
    cancel();
    cancelWatch();
    unlisten();
    if (element && element.parentNode) element.parentNode.removeChild(element);
    element = null;
  };
}

function hiddenFrame(document, name) {
  var element;
  // IE 8 takes a name only so; others throw.
  try { element = document.createElement('<iframe name="' + name + '">'); } catch (error) {
    element = document.createElement('iframe');
  }
  element.name = name;
  element.title = 'Switchback';
  element.style.display = 'none';
  element.setAttribute('aria-hidden', 'true');
  return element;
}

function tooLong(session) {
  return endings.unusable('The patterns are too long for the URL of ' + session.name + '.');
}

function canHttp(env) { return !!(env.window.XMLHttpRequest || env.window.fetch); }

// done(ending, text): once, later, not after the cancel. IE 8 and 9 cross origins by XDR.
function http(env, request, done) {
  var finish = onlyOnce(function (ending, text) { cancelTimer(); done(ending, text); });
  var Xhr = env.window.XMLHttpRequest;
  var Xdr = env.window.XDomainRequest;
  var crosses = origin(request.url) !== pageOrigin(env);
  var send = Xhr && crosses && Xdr && !('withCredentials' in new Xhr()) ? byXdr : Xhr ? byXhr : byFetch;
  var abort = nothing;
  try { abort = send(env, request, finish); } catch (error) {
    later(env, function () { finish(endings.lost()); });
  }
  var cancelTimer = later(env, function () { abort(); finish(endings.late()); }, request.timeout);
  return function () { finish = done = nothing; cancelTimer(); abort(); };
}

function byXhr(env, request, finish) {
  var xhr = new env.window.XMLHttpRequest();
  xhr.open(request.method, request.url, true);
  prepare(xhr, request);
  xhr.onreadystatechange = function () {
    if (xhr.readyState !== 4) return;
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

function header(xhr, name) { return xhr.getResponseHeader && xhr.getResponseHeader(name); }

function byXdr(env, request, finish) {
  var xdr = new env.window.XDomainRequest();
  var joint = request.url.indexOf('?') < 0 ? '?' : '&';
  var token = request.token ? joint + query([['token', request.token]]) : '';
  xdr.onload = function () { finish(null, xdr.responseText); };
  xdr.onerror = xdr.ontimeout = function () { finish(endings.lost()); };
  xdr.onprogress = nothing;
  xdr.open(request.method, request.url + token);
  xdr.send(request.body || '');
  return function () { xdr.abort(); };
}

function byFetch(env, request, finish) {
  return startFetch(env, request, function (response) { return readResponse(response, finish); }, finish);
}

function startFetch(env, request, respond, fail) {
  var window = env.window;
  var abort = window.AbortController ? new window.AbortController() : { abort: nothing };
  var headers = {};
  prepare({ setRequestHeader: function (name, value) { headers[name] = value; } }, request);
  window.fetch(request.url, {
    method: request.method, body: request.body, headers: headers, signal: abort.signal, cache: 'no-store',
    credentials: request.credentials ? 'include' : 'same-origin'
  }).then(respond).then(null, function () { fail(endings.lost()); });
  return function () { abort.abort(); };
}

function readResponse(response, finish) {
  var status = response.status;
  return response.text().then(function (text) {
    if (status >= 200 && status < 300) finish(null, text);
    else finish(answered(status, text, response.headers.get('Retry-After')));
  });
}

// ---- Publisher

/*
 * Without an answer a publish is repeated with its id, and stored once. The log keeps the order of calls: on
 * a socket they are pipelined, else each waits for the one before.
 */
function Publisher(connection) {
  this.connection = connection;
  this.entries = [];
}

merge(Publisher.prototype, {
  publish: function (message, done) {
    var self = this;
    var env = this.connection.env;
    var fault = '';
    var body;
    try { body = write(message); } catch (error) { fault = 'The data is no JSON: ' + error.message; }
    if (message.data === undefined) fault = 'The data is undefined.';
    fault = this.connection.state === 'closed' ? endings.closed() : fault ? endings.misused('bad_data', fault)
      : this.entries.length < PUBLISHES_MAX ? null
      : endings.misused('too_many', PUBLISHES_MAX + ' publishes wait.');
    if (fault) return void later(env, function () { done(problem(fault, message.id)); });
    var entry = { message: message, body: body, attempt: 0, sent: false, by: '', cancel: nothing };
    entry.settle = onlyOnce(function (ending, answer) {
      env.clearTimer(entry.timer);
      entry.cancel();
      self.entries = without(self.entries, [entry]);
      if (ending) done(problem(ending, message.id));
      else done(null, { cursor: answer.cursor, duplicate: !!answer.duplicate, id: message.id });
      self.pump();
    });
    // Its event came.
    entry.fail = function (ending) { entry.settle(entry.seen ? null : ending, entry.seen); };
    this.entries.push(entry);
    this.pump();
  },

  pump: function () {
    for (var i = 0; i < this.entries.length; i++) {
      var entry = this.entries[i];
      if (entry.sent && entry.by === 'ws') continue;
      if (entry.sent) return;
      var way = this.way(entry);
      if (i && (way !== 'ws' || this.entries[i - 1].by !== 'ws')) return;
      entry.sent = true;
      entry.by = way;
      this.send(entry);
    }
  },

  way: function (entry) {
    var connection = this.connection;
    var session = connection.current;
    if (session && !session.over && canSend(session) && entry.body.length <= MESSAGE_MAX) return 'ws';
    var form = canScript(connection.env) && connection.verified === true;
    return canHttp(connection.env) && !(entry.blocked && form) ? 'http' : form ? 'form' : 'none';
  },

  send: function (entry) {
    var env = this.connection.env;
    if (entry.timer === undefined) {
      entry.timer = env.setTimer(function () { entry.fail(unknown()); }, PUBLISH_MS);
    }
    if (entry.by === 'ws') this.bySocket(this.connection.current, entry);
    else if (entry.by === 'http') this.byHttp(entry);
    else if (entry.by === 'form') this.byForm(entry);
    else this.again(entry, endings.lost());
  },

  again: function (entry, ending) {
    var self = this;
    if (entry.seen || ending.refused || ending.fatal || isVerdict(ending.status)) return entry.fail(ending);
    entry.attempt += 1;
    var wait = Math.max(ending.retry || 0, backoff(this.connection.env, entry.attempt));
    entry.cancel();
    entry.cancel = later(this.connection.env, function () { entry.sent = false; self.pump(); }, wait);
  },

  bySocket: function (session, entry) {
    var self = this;
    var message = merge({ type: 'publish' }, entry.message);
    session.request(message, function (ending, reply) {
      if (!ending) return entry.settle(null, reply);
      if (ending.kind === 'refused') return self.again(entry, ending);
      entry.sent = false;
      entry.cancel = later(self.connection.env, function () { self.pump(); });
    });
  },

  byHttp: function (entry) {
    var self = this;
    var connection = this.connection;
    connection.tokens.get(function (ending, token) {
      if (ending) return self.again(entry, ending);
      var request = {
        url: connection.endpoint('events', []), token: token, body: entry.body,
        type: connection.foreign && !token ? 'text/plain' : 'application/json'
      };
      entry.cancel = connection.send(request, function (ending, text) {
        var answer = parse(text);
        if (answer && answer.cursor) return entry.settle(null, answer);
        if (ending && ending.status === 401 && connection.tokens.renewable && !entry.renewed) {
          connection.tokens.rejected();
          entry.renewed = true;
          return self.again(entry, endings.lost());
        }
        if (ending && ending.kind === 'lost' && !ending.status) {
          // Firefox reads no early refusal.
          if (entry.body.length > MESSAGE_MAX) return entry.fail(unknown());
          entry.blocked = connection.state === 'open';
        }
        self.again(entry, ending || endings.lost());
      });
    });
  },

  // Across origins the answer can't be read: the event itself is one.
  byForm: function (entry) {
    var self = this;
    var connection = this.connection;
    var document = connection.env.window.document;
    entry.blind = true;
    connection.tokens.get(function (ending, token) {
      if (ending) return self.again(entry, ending);
      var name = 'switchback-publish-' + connection.env.uuid();
      var answer = hiddenFrame(document, name);
      var form = document.createElement('form');
      form.method = 'POST';
      form.action = connection.endpoint('events', token ? [['token', token]] : []);
      form.target = name;
      form.style.display = 'none';
      for (var field in entry.message) {
        if (!owns(entry.message, field)) continue;
        var input = document.createElement('input');
        var value = entry.message[field];
        input.type = 'hidden';
        input.name = field;
        input.value = field === 'data' ? write(value) : value;
        form.appendChild(input);
      }
      document.body.appendChild(answer);
      document.body.appendChild(form);
      var unlisten = listen(answer, 'load', function () { readFrame(answer, entry); });
      entry.cancel = function () {
        unlisten();
        entry.cancel = nothing;
        document.body.removeChild(form);
        document.body.removeChild(answer);
      };
      form.submit();
    });
  },

  seen: function (item) {
    if (item.id === undefined) return;
    each(this.entries, function (entry) {
      if (entry.message.id !== item.id || entry.message.topic !== item.topic) return;
      entry.seen = { cursor: item.cursor };
      if (entry.blind) entry.settle(null, entry.seen);
    });
  },

  close: function () {
    each(this.entries, function (entry) {
      entry.fail(entry.timer === undefined ? endings.closed() : unknown());
    });
  }
});

function canSend(session) { return session.handle && session.handle.send; }

function isVerdict(status) { return status === 400 || status === 404 || status === 413 || status === 415; }

function readFrame(frame, entry) {
  var text = '';
  try {
    if (frame.contentWindow.location.href === 'about:blank') return;
    text = frame.contentWindow.document.body.innerText || frame.contentWindow.document.body.textContent;
  } catch (error) { text = ''; }
  var answer = parse(text);
  if (answer && answer.cursor) entry.settle(null, answer);
  else if (answer && answer.error) entry.settle(endings.refused(answer.error));
}

function unknown() {
  return endings.misused('unknown',
    'No answer: it may be stored, or too large. Publishing it again with this id is safe.');
}

// ---- Small tools

function compare(a, b) {
  var left = a.split('-');
  var right = b.split('-');
  if (left[0] !== right[0]) return undefined;
  if (left[1].length !== right[1].length) return left[1].length - right[1].length;
  return left[1] < right[1] ? -1 : left[1] > right[1] ? 1 : 0;
}

function isCursor(text) { return /^[a-z0-9]{1,32}-[0-9]{1,20}$/.test(text); }

function latest(a, b) { return !a || (b && compare(a, b) < 0) ? b : a; }

function isPattern(text) {
  var token = '(\\*|[^.*>\\x00-\\x20\\x7f-\\xa0]+)';
  return typeof text === 'string' && new RegExp('^(' + token + '(\\.' + token + ')*(\\.>)?|>)$').test(text) &&
    !/[\ud800-\udbff](?![\udc00-\udfff])|(^|[^\ud800-\udbff])[\udc00-\udfff]/.test(text);
}

function matches(pattern, topic) {
  if (pattern === topic || pattern === '>') return true;
  if (!/[*>]/.test(pattern)) return false;
  var wanted = pattern.split('.');
  var tokens = topic.split('.');
  for (var i = 0; i < wanted.length; i++) {
    if (wanted[i] === '>') return tokens.length > i;
    if (i >= tokens.length || (wanted[i] !== '*' && wanted[i] !== tokens[i])) return false;
  }
  return wanted.length === tokens.length;
}

// The prefix keeps `__proto__` ordinary.
function emitter(env) {
  var all = {};
  function run(listeners, a, b) {
    each(listeners || [], function (listener) { guarded(env, listener)(a, b); });
  }
  return {
    on: function (name, listener) { (all['on ' + name] || (all['on ' + name] = [])).push(listener); },
    off: function (name, listener) {
      if (!listener) { delete all['on ' + name]; return; }
      all['on ' + name] = filter(all['on ' + name] || [], function (kept) {
        return kept !== listener && kept.listener !== listener;
      });
    },
    clear: function () { all = {}; },
    emit: function (name, item) {
      if (name !== '*') run(all['on ' + name], item);
      run(all['on *'], name, item);
    }
  };
}

// The only place that calls the application: exceptions reach `onerror`.
function guarded(env, run) {
  return function (a, b) {
    try { run(a, b); } catch (error) { env.setTimer(function () { throw error; }, 0); }
  };
}

function backoff(env, failures) {
  return env.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * Math.pow(2, Math.min(failures - 1, 10)));
}

function parse(text) {
  try { return JSON.parse(text); } catch (error) { return null; }
}

// Prototype.js gives values a `toJSON` whose JSON would be quoted.
function write(value) {
  var natives = [Array.prototype, String.prototype, Number.prototype, Object.prototype];
  var aside = map(natives, function (prototype) {
    var own = owns(prototype, 'toJSON') && prototype.toJSON;
    if (own) delete prototype.toJSON;
    return own;
  });
  try { return JSON.stringify(value); } finally {
    for (var i = 0; i < natives.length; i++) if (aside[i]) natives[i].toJSON = aside[i];
  }
}

function query(params) {
  return map(params, function (param) { return param[0] + '=' + encodeURIComponent(param[1]); }).join('&');
}

function pageHost(env) {
  var location = env.window.location;
  return location && location.host ? location.protocol + '//' + location.host : env.window.origin;
}

function pageOrigin(env) { return env.window.origin === 'null' ? 'null' : origin(pageHost(env)); }

// Empty: the page's origin, or its <base>.
function resolve(env, given) {
  var host = pageHost(env);
  var text = trim(given ? String(given.href || given) : '').replace(/^ws(s?:)/i, 'http$1');
  var isHttp = /^https?:\/\//i.test(text);
  var problem = /[?#]/.test(text) ? 'has a query or a fragment'
    : !isHttp && /^[\w.+\-]+:|^\[/.test(text) ? 'does not begin with http:// or https://'
    : !isHttp && !/^http/.test(host) ? 'is not absolute, and there is no page' : '';
  if (problem) return { url: text, problem: 'The address "' + text + '" ' + problem + '.' };
  if (text.indexOf('//') === 0) text = host.split('//')[0] + text;
  else if (!isHttp) text = relative(env, host, text);
  return { url: text.replace(/\/+$/, '') };
}

function relative(env, host, text) {
  var document = env.window.document;
  var URL = env.window.URL;
  var based = document && document.getElementsByTagName && document.getElementsByTagName('base')[0];
  if (text.charAt(0) === '/' || (!text && !based)) return host + text;
  if (document && document.createElement) {
    var link = document.createElement('a');
    link.href = text || '.';
    return link.href;
  }
  return URL ? new URL(text, env.window.location.href).href : host + '/' + text;
}

function origin(url) {
  var parts = /^(https?):\/\/([^\/?#]+)/i.exec(url || '');
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

function whenComplete(env, then, since) {
  var document = env.window.document;
  since = since || env.now();
  if (document.readyState === 'complete' || (document.body && env.now() - since >= COMPLETE_MS)) {
    then();
    return nothing;
  }
  var cancel = later(env, function () { cancel = whenComplete(env, then, since); }, 50);
  return function () { cancel(); };
}

function later(env, then, ms) {
  var timer = env.setTimer(then, ms || 0);
  return function () { env.clearTimer(timer); };
}

function store(env, key, value, area) {
  try {
    var storage = env.window[area || 'localStorage'];
    if (value !== undefined) storage.setItem(key, value);
    return storage.getItem(key);
  } catch (error) { return null; }
}

function onlyOnce(run) {
  var done = false;
  return function (a, b) { if (!done) { done = true; run(a, b); } };
}

function nothing() {}

function trim(text) { return text.replace(/^\s+|\s+$/g, ''); }

function owns(object, key) { return Object.prototype.hasOwnProperty.call(object, key); }

function list(value) {
  return value === undefined || value === null ? [] : typeof value === 'string' ? [value] : value.slice(0);
}

function each(values, run) {
  values = values.slice(0);
  for (var i = 0; i < values.length; i++) run(values[i]);
}

function some(values, test) { return filter(values, test).length > 0; }

function map(values, run) {
  var made = [];
  for (var i = 0; i < values.length; i++) made.push(run(values[i]));
  return made;
}

function filter(values, keep, self) {
  var kept = [];
  for (var i = 0; i < values.length; i++) if (keep.call(self, values[i])) kept.push(values[i]);
  return kept;
}

function contains(values, value) {
  for (var i = 0; i < values.length; i++) if (values[i] === value) return true;
  return false;
}

function without(values, gone) { return filter(values, function (value) { return !contains(gone, value); }); }

function both(values, others) { return filter(values, function (value) { return contains(others, value); }); }

function unique(values) {
  var kept = [];
  for (var i = 0; i < values.length; i++) if (!contains(kept, values[i])) kept.push(values[i]);
  return kept;
}

function find(transports, name) {
  return filter(transports, function (transport) { return transport.name === name; })[0];
}

function names(values, key) { return map(values, function (value) { return value[key || 'name']; }); }

function merge(into, from) {
  for (var key in from) if (owns(from, key)) into[key] = from[key];
  return into;
}

// ---- Environment

function browser(window) {
  var performance = window.performance;
  var ahead = 0;
  var last = 0;
  return {
    window: window,
    transports: [ws, sse, stream, longpoll, iframe, jsonp, iframePoll, poll, jsonpPoll],
    now: performance && performance.now ? function () { return performance.now(); } : function () {
      var date = new Date().getTime() + ahead;
      if (date < last) { ahead += last - date; date = last; }
      last = date;
      return date;
    },
    date: function () { return new Date().getTime(); },
    setTimer: function (then, ms) { return window.setTimeout(then, ms); },
    clearTimer: function (timer) { window.clearTimeout(timer); },
    random: function () { return Math.random(); },
    uuid: uuid
  };

  function uuid() {
    var crypto = window.crypto || window.msCrypto;
    return 'xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx'.replace(/x/g, function () {
      var digit = crypto ? crypto.getRandomValues(new window.Uint8Array(1))[0] : Math.random() * 16;
      return (digit & 15).toString(16);
    });
  }
}

return create(browser(root));
}));
