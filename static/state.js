/*
 * State: the newest event of each topic of a pattern, and its changes. Load it after client.js:
 *
 *   var connection = Switchback.connect('');
 *   var orders = Switchback.state(connection, 'orders.*.status');
 *   orders.subscribe(function (items) { draw(items); });
 *
 * The connection subscribes to the pattern: from that subscription's cursor on it delivers every event. A second connection
 * then reads a snapshot (`latest`, from `earliest`) until it is past that cursor, and closes. Of both, the newer event of a
 * topic wins; what the connection delivers later and the snapshot covers is dropped. So no event is lost between the two.
 *
 * Rejected: a connection opened with `latest` alone. Its options hold for all its patterns, and a pattern that is added later
 * would have no snapshot.
 *
 * A gap means that changes were lost: the next snapshot is read, and replaces what is there once it is complete.
 */
(function (root) {
var CHECK_MS = 50;     // between checks whether the snapshot, perhaps from another node, is past the goal
// What the snapshot's connection has of the connection's options: how to reach the server, not where to start.
var SHARED_OPTIONS = ['token', 'credentials', 'interval', 'wait'];

// Its public calls: state.d.ts. They are functions without `this`, since frameworks call them so.
function open(library, connection, pattern, prefix) {
  var events = library.emitter();
  var values = {};             // what is shown: ' ' + topic -> event. The space keeps `__proto__` ordinary.
  var keys = [];               // those of `values`, sorted; null: not known
  var list = [];               // the result of all(); null: not known
  var goal;                    // the cursor that a snapshot has to reach; undefined: the pattern is not confirmed
  var covered;                 // the cursor that the last snapshot of this log reached
  var snapshot = null;         // { connection, values, trouble }, while one is read; `values` has deletions, too
  var isClosed = false;
  var store = {
    live: false,
    get: function (name) { return values[' ' + prefix + name]; },
    all: all,
    subscribe: function (listener) {
      function run() { listener(all()); }
      events.on('change', run);
      run();
      return function () { events.off('change', run); };
    },
    on: function (name, listener) { events.on(name, listener); return store; },
    off: function (name, listener) { events.off(name, listener); return store; },
    close: close
  };
  var handle = connection.subscribe(pattern, confirmed);
  handle.on('*', function (name, item) {
    if (snapshot) put(snapshot.values, item);
    if (covered && !(library.compare(item.cursor, covered) <= 0)) show(item);
  });
  connection.on('$gap', recover);
  connection.on('$close', ended);
  return store;

  function all() {
    if (list) return list;
    if (!keys) keys = keysOf(values).sort();
    list = [];
    for (var i = 0; i < keys.length; i++) list.push(values[keys[i]]);
    return list;
  }

  function confirmed(error, cursor) {
    if (isClosed) return;
    if (error) return fail(error);
    goal = cursor;
    read();
  }

  // What was lost before the pattern was confirmed, or is covered by a snapshot, is no loss.
  function recover(gap) {
    var isOtherLog = gap.reason !== 'expired';
    if (!goal || (gap.patterns && !contains(gap.patterns, pattern))) return;
    if (!isOtherLog && covered && library.compare(gap.to, covered) <= 0) return;
    if (isOtherLog) covered = undefined;
    goal = gap.to;
    read();
  }

  function read() {
    var wasLive = store.live;
    stop();
    var reader = library.connect(connection.base, readerOptions(connection.options, pattern));
    var reading = snapshot = { connection: reader, values: {} };
    var isEmpty = true;
    reader.on('*', function (name, item) {
      if (name.charAt(0) === '$') return;
      isEmpty = false;
      put(reading.values, item);
    });
    reader.on('$live', check);
    // What was read may have changed in the gap. At the beginning nothing was read.
    reader.on('$gap', function () { if (!isEmpty) read(); });
    reader.on('$error', function (trouble) { reading.trouble = trouble; });
    reader.on('$close', function () { if (reading === snapshot) fail(reading.trouble); });
    if (wasLive) events.emit('change', []);

    function check() {
      if (reading !== snapshot) return;
      if (library.compare(reader.cursor, goal) >= 0) complete();
      else connection.env.setTimer(check, CHECK_MS);
    }
  }

  // An event that did not change stays the same object, and so does the list of all if none did.
  function complete() {
    var next = {};
    var changed = [];
    each(snapshot.values, function (key, item) {
      if (item.deleted) return;
      var old = covered && values[key];
      next[key] = old && old.cursor === item.cursor ? old : item;
      if (next[key] !== old) changed.push(item.topic);
    });
    each(values, function (key, item) { if (!next[key]) changed.push(item.topic); });
    covered = snapshot.connection.cursor;
    stop();
    values = next;
    if (changed.length) keys = list = null;
    store.live = true;
    events.emit('change', changed);
  }

  function show(item) {
    var key = ' ' + item.topic;
    if (item.deleted && !values[key]) return;
    if (item.deleted || !values[key]) keys = null;
    if (item.deleted) delete values[key]; else values[key] = item;
    list = null;
    events.emit('change', [item.topic]);
  }

  function put(into, item) {
    var key = ' ' + item.topic;
    if (!into[key] || !(library.compare(item.cursor, into[key].cursor) <= 0)) into[key] = item;
  }

  function fail(trouble) {
    stop();
    events.emit('error', trouble);
  }

  function ended() {
    stop();
    events.emit('change', []);
  }

  function stop() {
    var reader = snapshot && snapshot.connection;
    snapshot = null;
    store.live = false;
    if (reader) reader.close();
  }

  function close() {
    isClosed = true;
    stop();
    covered = undefined;
    connection.off('$gap', recover);
    connection.off('$close', ended);
    events.clear();
    handle.unsubscribe();
  }
}

function readerOptions(given, pattern) {
  var options = { topics: [pattern], cursor: 'earliest', latest: true };
  var i;
  for (i = 0; i < SHARED_OPTIONS.length; i++) options[SHARED_OPTIONS[i]] = given[SHARED_OPTIONS[i]];
  var transports = given.transports || [];
  if (typeof transports === 'string') transports = [transports];
  var own = [];
  for (i = 0; i < transports.length; i++) if (transports[i] !== 'shared') own.push(transports[i]);
  if (own.length) options.transports = own;
  return options;
}

function each(values, run) {
  for (var key in values) if (Object.prototype.hasOwnProperty.call(values, key)) run(key, values[key]);
}

function keysOf(values) {
  var keys = [];
  each(values, function (key) { keys.push(key); });
  return keys;
}

function contains(values, value) {
  for (var i = 0; i < values.length; i++) if (values[i] === value) return true;
  return false;
}

function install(library) {
  library.state = function (connection, pattern) { return open(library, connection, pattern, ''); };
  library.members = function (connection, room) {
    return open(library, connection, room + '.*', room + '.');
  };
  return library;
}

// An import for the side effect is enough, if the file is bundled with the client.
if (typeof module === 'object' && module.exports) {
  module.exports = install;
  install(require('./client.js'));
} else install(root.Switchback);
}(typeof window !== 'undefined' ? window : globalThis));
