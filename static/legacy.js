/*
 * The page for old browsers: one subscription, over hidden frames and script tags. ES3 and the
 * DOM of Internet Explorer 8. What came over the wire is shown as text nodes only.
 */
(function () {
  var LANES = ['iframe', 'jsonp', 'iframe-poll', 'jsonp-poll', 'longpoll', 'poll'];
  var FIRST = { iframe: true, jsonp: true };
  var LOG = 100;
  var topic = 'legacy.' + Math.floor(Math.random() * 1e9).toString(36);
  var lanes = [];
  var sent = 0;
  var stored = [];       // positions that the server gave our numbers, by number

  function byId(id) { return document.getElementById(id); }

  function show(node, text) {
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

  // One row: a connection over one transport, and what it has heard.
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
    this.button = make('button', make('td', row), 'Connect');
    this.button.onclick = function () { if (lane.line) lane.disconnect(); else lane.connect(); };
    this.clear();
    if (isSupported(name)) return;
    this.button.disabled = true;
    show(this.cells.state, 'not supported here');
  }

  Lane.prototype = {
    clear: function () {
      this.received = this.lost = this.repeated = this.at = 0;
      this.seen = {};
      this.start = -1;
      this.settled = stored.length;
      this.refresh();
    },

    connect: function () {
      var lane = this;
      if (this.line || this.button.disabled) return;
      this.clear();
      this.wanted = true;
      this.line = Switchback.connect('', { token: PageToken.value, topics: topic, transports: [this.name], interval: 1500, wait: this.name === 'iframe-poll' ? 0 : 20 });
      this.line.on('tick', function (item) { lane.hear(item); });
      this.line.on('note', function (item) { lane.hear(item); say(lane.name + ' heard "' + String(item.data) + '" at ' + item.cursor); });
      this.line.on('$open', function () { show(byId('notice'), ''); lane.refresh(); });
      this.line.on('$gap', function (gap) { say(lane.name + ': gap (' + gap.reason + ')'); lane.clear(); });
      this.line.on('$error', function (error) { show(byId('notice'), PageToken.refused(error) ? '' : error.message); lane.refresh(); });
      this.line.on('$close', function () { lane.line = null; lane.refresh(); });
      this.refresh();
    },

    disconnect: function () {
      this.wanted = false;
      if (this.line) this.line.close();
    },

    // There is another token: a connection has the one that it was opened with.
    renew: function () {
      if (!this.wanted) return;
      if (this.line) this.line.close();
      this.connect();
    },

    hear: function (item) {
      var position = positionOf(item.cursor);
      if (this.start < 0) this.start = position - 1;
      this.received += 1;
      if (position <= this.at) this.repeated += 1;
      this.at = position;
      this.seen['p' + position] = true;
      this.settle();
      this.refresh();
    },

    // The publisher was told where each of ours is stored: behind our cursor, it must have come.
    settle: function () {
      for (; this.settled < stored.length && stored[this.settled] <= this.at; this.settled++) {
        if (stored[this.settled] > this.start && !this.seen['p' + stored[this.settled]]) this.lost += 1;
      }
    },

    refresh: function () {
      var counts = ['lost', 'repeated'];
      show(this.cells.state, this.line ? this.line.state : 'closed');
      show(this.cells.received, String(this.received));
      for (var i = 0; i < counts.length; i++) {
        show(this.cells[counts[i]], String(this[counts[i]]));
        this.cells[counts[i]].className = 'number ' + (this[counts[i]] ? 'nonzero' : 'zero');
      }
      show(this.cells.cursor, (this.line && this.line.cursor) || '-');
      show(this.button, this.line ? 'Disconnect' : 'Connect');
      this.button.setAttribute('aria-label', (this.line ? 'Disconnect ' : 'Connect ') + this.name);
    }
  };

  function anyLine() {
    for (var i = 0; i < lanes.length; i++) if (lanes[i].line) return lanes[i].line;
    return null;
  }

  function publishTick() {
    var line = anyLine();
    if (line && line.state === 'open' && !PageToken.asking) {
      line.publish(topic, { n: sent++ }, { event: 'tick' }, function (error, result) {
        if (result) stored.push(positionOf(result.cursor));
        else if (!PageToken.refused(error) && error.code !== 'unknown') say('publishing failed: ' + error.message);
      });
    }
    setTimeout(publishTick, 1000);
  }

  byId('publish').onsubmit = function () {
    var line = anyLine();
    if (!line) { show(byId('published'), 'Connect a lane first.'); return false; }
    show(byId('published'), 'Publishing ...');
    line.publish(topic, byId('text').value, { event: 'note' }, function (error, result) {
      show(byId('published'), error ? error.message : 'Stored at ' + result.cursor);
      if (error) PageToken.refused(error);
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
  setTimeout(publishTick, 500);
}());
