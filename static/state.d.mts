/** Types of `state.mjs`: the client library, with `state` and `members` added. */
import Switchback from './client.mjs';
import install from './state.js';

export type Store<T = unknown> = install.Store<T>;
declare const library: typeof Switchback & install.Stores;
export declare const state: install.Stores['state'];
export declare const members: install.Stores['members'];
export default library;
