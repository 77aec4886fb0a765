/** Types of the Switchback client, for `client.js`; `client.d.mts` has them for `client.mjs`. */

export type TransportName = 'ws' | 'sse' | 'stream' | 'longpoll' | 'iframe' | 'jsonp' | 'iframe-poll' | 'poll' | 'jsonp-poll' | 'shared';
export type State = 'connecting' | 'open' | 'closed';

/** An event, as it was published. */
export interface Item<T = unknown> {
  /** `<epoch>-<position>`: "everything up to here that I subscribed to has reached me". */
  cursor: string;
  topic: string;
  event: string;
  /** Absent (`undefined`) where `deleted`. */
  data: T;
  /** The topic has no value now. */
  deleted?: true;
  /** Metadata from the publisher; `traceparent` and `tracestate`, where its request was traced. */
  headers?: { readonly [name: string]: string };
  /** Milliseconds since the Unix epoch, by the server's clock. */
  time: number;
  /** The publisher's idempotency key, if it gave one. */
  id?: string;
  /** Set where `data` is binary. */
  encoding?: 'base64';
}

/** Events that were subscribed to are gone. Fetch your state anew, then go on. */
export interface Gap {
  reason: 'expired' | 'epoch' | 'ahead';
  from: string;
  to: string;
  patterns?: string[];
  missed?: number;
}

export interface Trouble {
  message: string;
  /**
   * The server's code, or one of the library's: `silent` (nothing for two heartbeats), `resumed` (the page slept), `protocol`,
   * `not_switchback`, `token`, `bad_topic`, `bad_address`, `unsupported`. Absent: no answer.
   */
  code?: string;
  /** The patterns of connect() that were refused. */
  topics?: string[];
  /** The HTTP status, where one could be read. */
  status?: number;
  transport?: TransportName;
  /** Milliseconds until the next try. Absent: there will be none. */
  retry?: number;
}

/** The connection's own events. Their names begin with `$`; no published event's name can. */
export interface ControlEvents {
  $open: { transport: TransportName; client: string; cursor?: string };
  $switch: { from: TransportName; to: TransportName };
  $gap: Gap;
  /**
   * The past is over: all has come that was in the log when the connection opened, or after a gap `epoch` or `ahead`. Once after
   * each `$open` and each such gap; not for patterns that are added later, since those start with the present.
   */
  $live: { cursor?: string };
  $error: Trouble;
  $close: { reason: string };
}

/**
 * A function answers by its callback, a promise or at once; it is called again when its token has expired, one call at a
 * time, with growing pauses while the new ones are refused. `null`: no user is signed in, and the connection closes.
 */
export type Token = string | ((done: (error: unknown, token?: string | null) => void) => void | string | null | PromiseLike<string | null>);

export interface Options {
  /** Patterns: levels separated by dots; `*` for one level, `>` at the end for one or more. */
  topics?: string | string[];
  /** Allowed transports, the best first. All that the browser supports, by default. */
  transports?: TransportName[];
  /** A cursor, `now` or `earliest`. */
  cursor?: string;
  /** Start at the newest so many matching events. */
  last?: number;
  /**
   * Of each topic only the newest event, whenever the connection is behind: with `cursor: 'earliest'` a snapshot, then every
   * change. For all patterns of the connection, since they are one subscription.
   */
  latest?: boolean;
  /** Milliseconds from one run of events to the next, at least; up to 60000. With `latest` each run has the newest of each topic. */
  pace?: number;
  /**
   * A name. The browser keeps the connection's cursor under it (sessionStorage, localStorage): a page that is reloaded goes on
   * exactly after the last event that it got, a tab that is opened later goes on where the last tab was. `cursor` and `last` hold
   * for the first visit. Tabs of one name do not affect each other, since each has its own cursor; within a tab, and its frames, a
   * name is for one connection. A page that crashes gets the last tenth of a second again. Put the user into the name where there are users.
   */
  resume?: string;
  /** A UUID that the server remembers the cursor by. One of its own a connection, by default: two with the same one replace each other. */
  client?: string;
  /** A token, or a function that returns one: called again when the server reports that the token has expired. */
  token?: Token;
  /** Send cookies to another origin. */
  credentials?: boolean;
  /** Milliseconds between short polls (3000). */
  interval?: number;
  /** Seconds that the server may hold a long poll (25). */
  wait?: number;
  /**
   * With `share.js` loaded: one connection for all tabs that give the same name, and whose tokens
   * grant the same. Where cookies tell users apart, put the user into the name.
   */
  share?: string | true;
}

export interface PublishOptions {
  event?: string;
  /** Idempotency key: publishing twice with the same one stores once. Made up where absent. */
  id?: string;
}

export interface Published { cursor: string; duplicate: boolean; id: string }

export interface PublishError extends Error {
  /** `unknown`: it may or may not have been stored, or be too large for a browser that reads no early refusal; publishing again with `id` is safe for two minutes. */
  code: string;
  status?: number;
  id: string;
}

export interface Stats {
  received: number;
  /** Arrived again in a switch, and was dropped. */
  repeated: number;
  gaps: number;
  requests: number;
  /** Characters of payload that arrived, without headers. */
  bytes: number;
  opens: number;
  switches: number;
  failures: number;
  /** Milliseconds from the last opening to its hello. */
  rtt?: number;
}

/** The patterns of one call of `subscribe`. A pattern is subscribed until the last of its handles is unsubscribed. */
export interface Subscription {
  readonly topics: readonly string[];
  /** Every event of its patterns after this one is delivered. Absent until the server has confirmed it. */
  readonly cursor?: string;
  /** Listens to events of its patterns only. */
  on(name: '*', listener: (name: string, item: any) => void): this;
  on<T = any>(name: string, listener: (item: Item<T>) => void): this;
  off(name: string, listener?: (...args: any[]) => void): this;
  /** Nothing is delivered for its sake from now on. */
  unsubscribe(done?: (error: null, cursor?: string) => void): void;
}

export interface Connection {
  readonly transport?: TransportName;
  readonly cursor?: string;
  readonly clientId: string;
  readonly state: State;
  readonly stats: Readonly<Stats>;
  readonly topics: readonly string[];

  on<K extends keyof ControlEvents>(name: K, listener: (data: ControlEvents[K]) => void): this;
  on(name: '*', listener: (name: string, item: any) => void): this;
  on<T = any>(name: string, listener: (item: Item<T>) => void): this;
  once<K extends keyof ControlEvents>(name: K, listener: (data: ControlEvents[K]) => void): this;
  once(name: '*', listener: (name: string, item: any) => void): this;
  once<T = any>(name: string, listener: (item: Item<T>) => void): this;
  /** Removes one listener, or all of that name. */
  off(name: string, listener?: (...args: any[]) => void): this;
  /** Removes all listeners. */
  clear(): this;

  /**
   * `done` is called once: with the cursor after which every event of these patterns is delivered (and none from before the
   * server took the call), or with why they were refused, which changes nothing for others.
   */
  subscribe(topics: string | string[], done?: (error: Error | null, cursor?: string) => void): Subscription;
  /** Takes back one subscription of each pattern, the newest first. Nothing more is delivered for its sake. */
  unsubscribe(topics: string | string[], done?: (error: null, cursor?: string) => void): this;
  /** In the order of the calls. One whose answer is lost is sent again, and stored once. Without promises in the browser, and with `done`, it gives nothing back. */
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<Published>;
  publish(topic: string, data: unknown, options: PublishOptions | null, done: (error: PublishError | null, result?: Published) => void): void;
  publish(topic: string, data: unknown, done: (error: PublishError | null, result?: Published) => void): void;
  /** Moves without a pause: the old transport delivers until the new one has opened. `auto` gives the choice back to the library. */
  switchTo(name: TransportName | 'auto', done?: (error: Error | null, transport?: TransportName) => void): this;
  close(): this;
}

export interface Emitter {
  on(name: string, listener: (...args: any[]) => void): void;
  off(name: string, listener?: (...args: any[]) => void): void;
  /** Listeners of everything get (name, item); an event called `*` reaches only them. */
  emit(name: string, item?: unknown): void;
  clear(): void;
}

/**
 * `url`: where the server is mounted; empty for the page's own origin (or its `<base>`). A relative one is resolved
 * against the page, as by `fetch`: on `/app/page`, `live` is `/app/live`, and `/live` is `/live`. Never throws: wrong
 * arguments are reported by `$error` and `$close`.
 */
export function connect(url: string | URL, options?: Options): Connection;
export function emitter(): Emitter;
/** All names, the best first. */
export const transports: TransportName[];
/** Those that this browser supports. */
export function supported(): TransportName[];
/** Adds a transport, preferred to all others from then on: `share.js` adds one. */
export function use(transport: object): void;

declare const Switchback: {
  connect: typeof connect; emitter: typeof emitter; transports: TransportName[]; supported: typeof supported; use: typeof use;
};
export default Switchback;
export as namespace Switchback;
