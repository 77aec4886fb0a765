/** Types of `share.mjs`: the client library, with the transport `shared` added. */
export { default } from './client.mjs';
