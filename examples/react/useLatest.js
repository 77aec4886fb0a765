// A hook: the newest event of each topic that matches a pattern, in order of topics. The component renders again with each change.
//
//   // One connection for the application, and none while a server renders.
//   const line = typeof window === 'undefined' ? null : connect('https://events.example.com');
//
//   function Orders() {
//     const orders = useLatest(line, 'orders.*.status');
//     return <ul>{orders.map((item) => <li key={item.topic}>{item.topic}: {item.event}</li>)}</ul>;
//   }
import { useMemo, useSyncExternalStore } from 'react';
import { state } from 'switchback-events/state';

const NOTHING = [];

// An external store, as React defines it. It subscribes to the pattern while it has listeners: rendering alone has no effects, and a
// component that is unmounted leaves nothing behind.
export function latestStore(connection, pattern) {
  let store;
  let listeners = 0;
  return {
    subscribe(listener) {
      store ||= state(connection, pattern);
      listeners += 1;
      const end = store.subscribe(listener);
      return () => {
        end();
        listeners -= 1;
        if (listeners > 0) return;
        store.close();
        store = undefined;
      };
    },
    getSnapshot: () => (store ? store.all() : NOTHING),
    getServerSnapshot: () => NOTHING,
  };
}

export function useLatest(connection, pattern) {
  const store = useMemo(() => latestStore(connection, pattern), [connection, pattern]);
  return useSyncExternalStore(store.subscribe, store.getSnapshot, store.getServerSnapshot);
}
