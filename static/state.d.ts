/**
 * Types of `state.js`. Loading it adds `state` and `members` to the library: to the global `Switchback` in a page, to `client.js`
 * beside it where it is CommonJS. For `import` there is `state.mjs`, the library with them.
 */
import type { Connection, Item, Trouble } from './client.js';

/** Adds `state` and `members` to a library, and returns it. Only for a library made otherwise; once is enough. */
declare function install<L extends { connect: unknown }>(library: L): L & install.Stores;

declare namespace install {
  interface Stores {
    /**
     * The newest event of each topic of `pattern`, from the log's beginning on, and its changes: on a connection of any options, at
     * any time. It costs one subscription of the connection, and one short connection for the snapshot, again after a gap. It
     * keeps every value in memory, so the pattern decides how many there are.
     */
    state<T = unknown>(connection: Connection, pattern: string): Store<T>;
    /** The values of `<room>.*`, one for each member; `get` takes the member's name, the last level of the topic. */
    members<T = unknown>(connection: Connection, room: string): Store<T>;
  }

  /** Its functions need no `this`: React takes `useSyncExternalStore(store.subscribe, store.all)`, Svelte `$store`. */
  interface Store<T = unknown> {
    /** The snapshot is complete and every change since is in it. False at the beginning, after a gap until all is read again, and after the end. */
    readonly live: boolean;
    /** The topic's newest event; undefined where it has no value. The same object until the topic changes. */
    get(topic: string): Item<T> | undefined;
    /** The newest event of each topic that has a value, in order of topics. The same list until something changes; not to be modified. */
    all(): readonly Item<T>[];
    /** Calls the listener with `all()` now and after each change, of values or of `live`. Returns the function that ends it. */
    subscribe(listener: (items: readonly Item<T>[]) => void): () => void;
    /** After each change: the topics whose values are new or gone, none where `live` has changed alone. */
    on(name: 'change', listener: (topics: string[]) => void): this;
    /** The pattern was refused, or no snapshot can be read: it is not live until the next gap. */
    on(name: 'error', listener: (error: Error | Trouble | undefined) => void): this;
    off(name: 'change' | 'error', listener?: (...args: any[]) => void): this;
    /** Ends it: its pattern is unsubscribed, its listeners are not called again. The connection stays. */
    close(): void;
  }
}

export = install;
