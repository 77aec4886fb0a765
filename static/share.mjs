// The library with share.js in it, for `import`.
import Switchback from './client.mjs';
import './share.js';

export default Switchback;
