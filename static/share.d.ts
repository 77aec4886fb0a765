/**
 * Types of `share.js` where it is CommonJS. As a script it adds itself to the global `Switchback`; for `import` there is
 * `share.mjs`, which is the library with it.
 */

/** What `share.js` needs of the client library. */
interface Library {
  connect(url: string, options?: object): object;
  /** Takes one more transport, the best of all from then on. */
  use(transport: any): void;
}

/**
 * Adds the transport `shared` to the library: connections with the option `share` then have one
 * connection to the server among all tabs of the browser. Call it once, before `connect`.
 */
declare function install(library: Library): void;

export = install;
