// The library with state.js in it, for `import`.
import Switchback from './client.mjs';
import './state.js';

export const { state, members } = Switchback;
export default Switchback;
