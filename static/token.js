/*
 * The token of the pages, where the server requires one: from the address, or pasted into a field.
 *
 *   PageToken.value          the token, or undefined
 *   PageToken.asking         whether the field is shown
 *   PageToken.refused(error) shows the field if another token may help against the error; returns whether it may
 *   PageToken.changed        a callback, set by the page: the token has changed
 *
 * In the address it is the fragment, which browsers do not send: no server's or proxy's log has it. It is removed from
 * there immediately, so that it is neither bookmarked nor copied with the address, and kept in session storage. ES3 and
 * the DOM of Internet Explorer 8, since the page for old browsers uses it, too.
 */
var PageToken = (function () {
  var KEY = 'switchback token';
  var CODES = { unauthorized: true, forbidden: true, expired: true };
  var SHAPE = /^[\w\-]+\.[\w\-]+\.[\w\-]+$/;   // RFC 7515, 7.1
  var COMMAND = "switchback token --jwt-secret-file secret --subscribe '>' --publish '>' --ttl 1h";

  var self = { value: undefined, asking: false, refused: refused, changed: function () {} };
  var form, why, field;

  // Blocked cookies throw at the very mention of sessionStorage.
  function keep(token) {
    try {
      if (token) window.sessionStorage.setItem(KEY, token);
      else window.sessionStorage.removeItem(KEY);
    } catch (error) { /* then it is not kept */ }
  }

  function kept() {
    try { return window.sessionStorage.getItem(KEY) || undefined; } catch (error) { return undefined; }
  }

  // Whether there was one in the address.
  function takeFromAddress() {
    var found = /^#token=(.*)$/.exec(window.location.hash);
    if (!found) return false;
    if (window.history.replaceState) window.history.replaceState(null, '', window.location.pathname + window.location.search);
    else window.location.replace('#');
    use(clean(found[1]));
    return true;
  }

  // A terminal breaks long lines, and `Bearer` comes along easily.
  function clean(text) { return text.replace(/^\s*Bearer\s+/i, '').replace(/\s+/g, ''); }

  function use(token) {
    self.value = token || undefined;
    keep(self.value);
  }

  function make(tag, parent, text, attributes) {
    var node = document.createElement(tag);
    for (var name in attributes) node.setAttribute(name, attributes[name]);
    if (text) node.appendChild(document.createTextNode(text));
    parent.appendChild(node);
    return node;
  }

  function build() {
    var notice = document.getElementById('notice');
    form = make('form', notice.parentNode, '', { id: 'token', action: '#', 'aria-label': 'Token' });
    form.className = 'token';
    notice.parentNode.insertBefore(form, notice.nextSibling);
    why = make('p', form, '', { id: 'token-why', role: 'alert' });
    make('label', form, 'Token', { 'for': 'token-text' });
    var line = make('div', form);
    line.className = 'token-line';
    // A password field, since the screen may be shared.
    field = make('input', line, '', { id: 'token-text', type: 'password', autocomplete: 'off', spellcheck: 'false', 'aria-describedby': 'token-how' });
    make('button', line, 'Use it', { type: 'submit' }).className = 'main';
    var how = make('p', form, 'To make one, where the server\'s secret is: ', { id: 'token-how' });
    make('code', how, COMMAND);
    how.appendChild(document.createTextNode('. The token stays in this tab.'));
    form.onsubmit = function () { submit(); return false; };
  }

  function submit() {
    var token = clean(field.value);
    // Empty: continue without a token, with public topics only.
    if (token && !SHAPE.test(token)) return say('That is not a complete token: a token has three parts with a dot between them, as in eyJ0.eyJl.c2ln.');
    use(token);
    field.value = '';
    hide();
    self.changed();
  }

  function hide() {
    self.asking = false;
    form.className = 'token';
  }

  function say(text) {
    while (why.firstChild) why.removeChild(why.firstChild);
    why.appendChild(document.createTextNode(text));
  }

  // The server's messages address developers; the visitor of a page has to know what to do.
  function explain(error) {
    if (error.code === 'expired') return 'The token has expired. Enter a new one.';
    if (error.code === 'kicked') return 'An administrator has closed the connection, or revoked the token. Enter another one.';
    if (!self.value && error.code === 'unauthorized') return 'This server requires a token.';
    return (self.value ? 'The token is not accepted: ' : 'Refused: ') + error.message + '.';
  }

  function refused(error) {
    // `kicked` is the reason for a revoked token as well as for a client that an administrator disconnects.
    if (CODES[error.code] !== true && !(error.code === 'kicked' && self.value)) return false;
    if (self.asking) return true;
    self.asking = true;
    if (!form) build();
    form.className = 'token shown';
    say(explain(error));
    // An invalid token is refused also for public topics, which need none.
    if (error.code !== 'forbidden') use(undefined);
    // The focus stays where the visitor is typing.
    if (document.activeElement === document.body) field.focus();
    return true;
  }

  if (!takeFromAddress()) self.value = kept();
  // It can also be put into the address of a page that is there already.
  window.onhashchange = function () {
    if (!takeFromAddress()) return;
    if (self.asking) hide();
    self.changed();
  };
  return self;
}());
