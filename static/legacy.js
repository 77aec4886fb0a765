/*
 * The page for old browsers: one subscription, over hidden frames and script tags. ES3 and the DOM of Internet
 * Explorer 8. What came over the wire is shown as text nodes only.
 *
 * It publishes on request only: once by the form, or once a second by the button. A row keeps its counters
 * as long as the page lives: what is disconnected goes on at its cursor.
 */
(function () {
  var LANES = ['iframe', 'jsonp', 'iframe-poll', 'jsonp-poll', 'longpoll', 'poll'];
  var FIRST = { iframe: true, jsonp: true };
  var LOG = 100;         // lines
  var TICK_MS = 1000;
  var DRAW_MS = 200;
  var RECENT = 1000;     // positions that a lane remembers, and positions that it waits for
  var topic = 'legacy.' + Math.floor(Math.random() * 1e9).toString(36);
  var lanes = [];
  var sent = 0;
  var ticking = false;
  var timer;
  var drawing = false;

  function byId(id) { return document.getElementById(id); }

  // Writing what is there already costs a layout all the same.
  function show(node, text) {
    if (node.shown === text) return;
    node.shown = text;
    while (node.firstChild) node.removeChild(node.firstChild);
    node.appendChild(document.createTextNode(text));
  }

  function make(tag, parent, text) {
    var node = document.createElement(tag);
    if (text !== undefined) node.appendChild(document.createTextNode(text));
    parent.appendChild(node);
    return node;
  }

  function say(text) {
    var log = byId('log');
    if (byId('nothing')) log.removeChild(byId('nothing'));
    var line = document.createElement('li');
    line.appendChild(document.createTextNode(text));
    log.insertBefore(line, log.firstChild);
    while (log.childNodes.length > LOG) log.removeChild(log.lastChild);
  }

  function positionOf(cursor) { return Number(cursor.split('-')[1]); }

  function isSupported(name) {
    var names = Switchback.supported();
    for (var i = 0; i < names.length; i++) if (names[i] === name) return true;
    return false;
  }

  // A few times a second, however many events come.
  function drawSoon() {
    if (drawing) return;
    drawing = true;
    setTimeout(function () {
      drawing = false;
      for (var i = 0; i < lanes.length; i++) lanes[i].refresh();
    }, DRAW_MS);
  }

  // One row: a connection over one transport, and what it has received.
  function Lane(name) {
    var lane = this;
    var row = make('tr', byId('lanes'));
    this.name = name;
    row.id = 'lane-' + name;
    make('th', row, name).scope = 'row';
    this.cells = {};
    for (var i = 0, cells = ['state', 'received', 'lost', 'repeated', 'cursor']; i < cells.length; i++) {
      this.cells[cells[i]] = make('td', row);
      if (i > 0) this.cells[cells[i]].className = 'number';
    }
    this.received = this.lost = this.repeated = 0;
    this.startAt(-1);
    this.supported = isSupported(name);
    this.button = make('button', make('td', row), 'Connect');
    this.button.disabled = !this.supported;
    this.button.onclick = function () { if (lane.connection) lane.disconnect(); else lane.connect(); };
    this.refresh();
  }

  Lane.prototype = {
    // From this position on every event counts; -1: from the first one that comes.
    startAt: function (position) {
      this.start = this.at = position;
      this.seen = {};
      this.recent = [];
      this.expected = [];
    },

    connect: function () {
      var lane = this;
      if (this.connection || !this.supported) return;
      this.wanted = true;
      this.connection = Switchback.connect('', { token: PageToken.value, topics: topic, transports: [this.name], cursor: this.cursor, interval: 1500, wait: this.name === 'iframe-poll' ? 0 : 20 });
      this.connection.on('tick', function (item) { lane.receive(item); });
      this.connection.on('note', function (item) { lane.receive(item); say(lane.name + ' received "' + String(item.data) + '" at ' + item.cursor); });
      this.connection.on('$open', function () { show(byId('notice'), ''); drawSoon(); });
      this.connection.on('$gap', function (gap) { say(lane.name + ': gap (' + gap.reason + ')'); lane.startAt(positionOf(gap.to)); });
      this.connection.on('$error', function (error) { show(byId('notice'), PageToken.refused(error) ? '' : error.message); drawSoon(); });
      this.connection.on('$close', function () { lane.cursor = lane.connection.cursor || lane.cursor; lane.connection = null; drawSoon(); });
      drawSoon();
    },

    disconnect: function () {
      this.wanted = false;
      if (this.connection) this.connection.close();
      this.refresh();
    },

    // There is another token: a connection has the one that it was opened with.
    renew: function () {
      if (!this.wanted) return;
      if (this.connection) this.connection.close();
      this.connect();
    },

    receive: function (item) {
      var position = positionOf(item.cursor);
      if (this.start < 0) this.start = position - 1;
      this.received += 1;
      if (position <= this.at) this.repeated += 1;
      else this.at = position;
      this.seen['p' + position] = true;
      this.recent.push(position);
      if (this.recent.length > RECENT) delete this.seen['p' + this.recent.shift()];
      this.settle();
      drawSoon();
    },

    // The publisher's answer: one of ours is stored there.
    expect: function (position) {
      this.expected.push(position);
      if (this.expected.length > RECENT) this.expected.shift();
      this.settle();
    },

    // Behind the newest that came, each of ours must have come, unless it lies before the start.
    settle: function () {
      var later = [];
      for (var i = 0; i < this.expected.length; i++) {
        if (this.expected[i] > this.at) later.push(this.expected[i]);
        else if (this.start >= 0 && this.expected[i] > this.start && !this.seen['p' + this.expected[i]]) this.lost += 1;
      }
      this.expected = later;
    },

    refresh: function () {
      var counts = ['lost', 'repeated'];
      show(this.cells.state, !this.supported ? 'not supported here' : this.connection ? this.connection.state : 'closed');
      show(this.cells.received, String(this.received));
      for (var i = 0; i < counts.length; i++) {
        show(this.cells[counts[i]], String(this[counts[i]]));
        this.cells[counts[i]].className = 'number ' + (this[counts[i]] ? 'nonzero' : 'zero');
      }
      show(this.cells.cursor, (this.connection && this.connection.cursor) || this.cursor || '-');
      show(this.button, this.connection ? 'Disconnect' : 'Connect');
      this.button.setAttribute('aria-label', (this.connection ? 'Disconnect ' : 'Connect ') + this.name);
    }
  };

  // One that is open, if there is any: a transport that can't open in this browser publishes nothing.
  function anyConnection() {
    var found = null;
    for (var i = 0; i < lanes.length; i++) {
      if (lanes[i].connection && lanes[i].connection.state === 'open') return lanes[i].connection;
      found = found || lanes[i].connection;
    }
    return found;
  }

  function publishTick() {
    var connection = anyConnection();
    if (!ticking) return;
    if (connection && connection.state === 'open' && !PageToken.asking) {
      connection.publish(topic, { n: sent++ }, { event: 'tick' }, function (error, result) {
        if (result) for (var i = 0; i < lanes.length; i++) lanes[i].expect(positionOf(result.cursor));
        else if (!PageToken.refused(error) && error.code !== 'unknown') say('publishing failed: ' + error.message);
      });
    }
    timer = setTimeout(publishTick, TICK_MS);
  }

  byId('tick').onclick = function () {
    ticking = !ticking;
    show(byId('tick'), ticking ? 'Stop publishing' : 'Publish one a second');
    this.setAttribute('aria-pressed', String(ticking));
    clearTimeout(timer);
    publishTick();
  };

  byId('publish').onsubmit = function () {
    var connection = anyConnection();
    if (!connection) { show(byId('published'), 'Connect a lane first.'); return false; }
    show(byId('published'), 'Publishing ...');
    connection.publish(topic, byId('text').value, { event: 'note' }, function (error, result) {
      show(byId('published'), error ? error.message : 'Stored at ' + result.cursor);
      if (result) for (var i = 0; i < lanes.length; i++) lanes[i].expect(positionOf(result.cursor));
      else PageToken.refused(error);
    });
    return false;
  };

  PageToken.changed = function () {
    for (var i = 0; i < lanes.length; i++) lanes[i].renew();
  };

  for (var i = 0; i < LANES.length; i++) {
    lanes.push(new Lane(LANES[i]));
    if (FIRST[LANES[i]]) lanes[i].connect();
  }
}());
