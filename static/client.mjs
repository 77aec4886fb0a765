// The same library for `import`. A namespace import works in both places: where client.js is
// CommonJS (Node, bundlers) its exports are the default; in a page it has set its one global.
import * as loaded from './client.js';

// Spread: a bundler that reads client.js as a module finds no default export, and refuses to name it.
const { default: common } = { ...loaded };
const Switchback = common || globalThis.Switchback;

export const { connect, emitter, transports, supported, use } = Switchback;
export default Switchback;
