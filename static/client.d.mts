/** Types of the Switchback client for `client.mjs`: those of `client.js`, as a module. */
export * from './client.js';
import * as Switchback from './client.js';
export default Switchback;
