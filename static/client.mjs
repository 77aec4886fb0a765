// The same library for `import`. A namespace import works in both places: where client.js is
// CommonJS (Node, bundlers) its exports are the default; in a page it has set its one global.
import * as loaded from './client.js';

const Switchback = loaded.default || globalThis.Switchback;

export const { connect, emitter, transports, supported } = Switchback;
export default Switchback;
