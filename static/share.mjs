// The library with share.js in it, for `import`. Where share.js is CommonJS (Node, bundlers) it gives a function that adds
// it; in a page it has added itself to the one global, which client.mjs has set before.
import Switchback from './client.mjs';
import * as loaded from './share.js';

const { default: install } = { ...loaded };
if (install) install(Switchback);

export default Switchback;
