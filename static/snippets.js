// The front page's examples: whole programs against this server, for a topic.
//
// Each listens and publishes, and needs nothing but what its language comes with. Where the server requires a token, it is taken
// from the environment: a token in the text would be copied along with it.
'use strict';

const Snippets = (function () {
  const quoted = (text) => "'" + text.replace(/'/g, "'\\''") + "'";     // for a shell

  function curl(base, topic, needsToken) {
    const token = needsToken ? ' -H "Authorization: Bearer $TOKEN"' : '';
    return [
      '# Listen, in one terminal:',
      'curl -N' + token + ' ' + quoted(base + '/v1/stream?topic=' + encodeURIComponent(topic)),
      '',
      '# Publish, in another:',
      'curl' + token + " -d '{\"hello\":\"from curl\"}' \\",
      '  ' + quoted(base + '/v1/topics/' + encodeURIComponent(topic)),
    ];
  }

  function page(base, topic, needsToken) {
    const options = '{ topics: [' + JSON.stringify(topic) + ']' + (needsToken ? ', token: myToken' : '') + ' }';
    return [
      '<script src="' + base + '/client.js"></script>',
      '<script>',
      '  var connection = Switchback.connect(' + JSON.stringify(base) + ', ' + options + ');',
      "  connection.on('message', function (item) { console.log(item.cursor, item.data); });",
      '  connection.publish(' + JSON.stringify(topic) + ", { hello: 'from a page' });",
      '</script>',
    ];
  }

  function node(base, topic, needsToken) {
    const headers = needsToken ? ', { headers }' : '';
    return [
      'const base = ' + JSON.stringify(base) + ';',
      'const topic = encodeURIComponent(' + JSON.stringify(topic) + ');',
      ...(needsToken ? ['const headers = { Authorization: `Bearer ${process.env.TOKEN}` };'] : []),
      '',
      '// Publish',
      'fetch(`${base}/v1/topics/${topic}`, {',
      "  method: 'POST',",
      "  body: JSON.stringify({ hello: 'from Node' }),",
      ...(needsToken ? ['  headers,'] : []),
      '});',
      '',
      '// Listen, from the last event on: one line of JSON each',
      '(async () => {',
      '  const response = await fetch(`${base}/v1/stream?topic=${topic}&last=1`' + headers + ');',
      "  let text = '';",
      '  for await (const bytes of response.body) {',
      '    text += Buffer.from(bytes);',
      "    const lines = text.split('\\n');",
      '    text = lines.pop();',
      '    for (const line of lines) console.log(JSON.parse(line));',
      '  }',
      '})();',
    ];
  }

  function python(base, topic, needsToken) {
    const token = needsToken ? ['headers = {"Authorization": "Bearer " + os.environ["TOKEN"]}'] : ['headers = {}'];
    return [
      'import json' + (needsToken ? ', os' : ''),
      'from urllib.parse import quote',
      'from urllib.request import Request, urlopen',
      '',
      'base = ' + JSON.stringify(base),
      'topic = quote(' + JSON.stringify(topic) + ')',
      ...token,
      '',
      '# Publish',
      'body = json.dumps({"hello": "from Python"}).encode()',
      'urlopen(Request(f"{base}/v1/topics/{topic}", body, headers))',
      '',
      '# Listen, from the last event on: one line of JSON each',
      'for line in urlopen(Request(f"{base}/v1/stream?topic={topic}&last=1", headers=headers)):',
      '    print(json.loads(line), flush=True)',
    ];
  }

  const ALL = [
    { name: 'curl', about: 'In two terminals.', lines: curl },
    { name: 'Page', about: 'A page of another origin must be allowed: --allow-origin.', lines: page },
    { name: 'Node', about: 'Node 18 or later, without a package.', lines: node },
    { name: 'Python', about: 'Python 3, the standard library alone.', lines: python },
  ];

  return ALL.map(({ name, about, lines }) => ({
    name,
    about,
    text: (base, topic, needsToken) => lines(base, topic, needsToken).join('\n') + '\n',
  }));
}());
