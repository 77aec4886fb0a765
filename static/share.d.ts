/**
 * Types of `share.js`. Loading it adds the transport `shared` to the library: to the global `Switchback` in a page, to
 * `client.js` beside it where it is CommonJS. For `import` there is `share.mjs`, the library with it.
 */

/** What it needs of the client library. */
interface Library {
  readonly transports: readonly string[];
  connect(url: string, options?: object): object;
  /** Takes one more transport, the best of all from then on. */
  use(transport: any): void;
}

/**
 * Adds the transport `shared` to the library: connections with the option `share` then have one
 * connection to the server among all tabs of the browser. Only for a library made otherwise; once is enough.
 */
declare function install(library: Library): void;

export = install;
