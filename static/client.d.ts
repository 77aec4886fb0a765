/** Types of the Switchback client, for `client.js` and `client.mjs`. */

export type TransportName = 'ws' | 'sse' | 'stream' | 'longpoll' | 'iframe' | 'jsonp' | 'iframe-poll' | 'poll' | 'jsonp-poll' | 'shared';
export type State = 'connecting' | 'open' | 'closed';

/** An event, as it was published. */
export interface Item<T = unknown> {
  /** `<epoch>-<position>`: "everything up to here that I asked for has reached me". */
  cursor: string;
  topic: string;
  event: string;
  data: T;
  /** Milliseconds since the Unix epoch, by the server's clock. */
  time: number;
  /** The publisher's idempotency key, if it gave one. */
  id?: string;
  /** Set where `data` is binary. */
  encoding?: 'base64';
}

/** Something asked for is gone. Fetch your state anew, then go on. */
export interface Gap {
  reason: 'expired' | 'epoch' | 'ahead';
  from: string;
  to: string;
  patterns?: string[];
  missed?: number;
}

export interface Trouble {
  message: string;
  code?: string;
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
  $error: Trouble;
  $close: { reason: string };
}

export type Token = string | ((done: (error: unknown, token?: string) => void) => void | string | PromiseLike<string>);

export interface Options {
  /** Patterns: dot-separated tokens, `*` for one of them, `>` at the end for one or more. */
  topics?: string | string[];
  /** Allowed transports, the best first. All that the browser supports, by default. */
  transports?: TransportName[];
  /** A cursor, `now` or `earliest`. */
  cursor?: string;
  /** Start at the newest so many matching events. */
  last?: number;
  /** A UUID that the server remembers the cursor by. One of its own a connection, by default: two with the same one replace each other. */
  client?: string;
  /** A token, or a function that gives one: called again when the server says that it has expired. */
  token?: Token;
  /** Send cookies to another origin. */
  credentials?: boolean;
  /** Milliseconds between short polls (3000). */
  interval?: number;
  /** Seconds that the server may hold a long poll (25). */
  wait?: number;
  /**
   * With `share.js` loaded: one connection for all tabs that give the same name. Give each
   * signed-in user a name of their own: the tabs hear by the leading tab's token.
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
  /** `unknown`: it may or may not have been stored; publishing again with `id` is safe. */
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

  subscribe(topics: string | string[], done?: (error: Error | null, heardAfter?: string) => void): this;
  unsubscribe(topics: string | string[], done?: (error: Error | null, cursor?: string) => void): this;
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<Published>;
  publish(topic: string, data: unknown, options: PublishOptions | null, done: (error: PublishError | null, result?: Published) => void): void;
  publish(topic: string, data: unknown, done: (error: PublishError | null, result?: Published) => void): void;
  /** Moves without a pause; `auto` gives the choice back to the library. */
  switchTo(name: TransportName | 'auto', done?: (error: Error | null, transport?: TransportName) => void): this;
  close(): this;
}

export interface Emitter {
  on(name: string, listener: (...args: any[]) => void): void;
  off(name: string, listener?: (...args: any[]) => void): void;
  emit(name: string, item?: unknown): void;
  clear(): void;
}

/** `url`: where the server is mounted; empty for the page's own origin. */
export function connect(url: string, options?: Options): Connection;
export function emitter(): Emitter;
/** All names, the best first. */
export const transports: TransportName[];
/** Those that this browser has what it takes for. */
export function supported(): TransportName[];

declare const Switchback: { connect: typeof connect; emitter: typeof emitter; transports: TransportName[]; supported: typeof supported };
export default Switchback;
export as namespace Switchback;
