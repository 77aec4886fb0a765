// What TypeScript must take, and what it must not, of state.js. Compiled by ../types.test.js, never run.
import Switchback, { state, members, type Store } from '../../../static/state.mjs';
import install from '../../../static/state.js';
import plain from '../../../static/client.mjs';

interface Order { status: string }

const connection = Switchback.connect('', { resume: 'orders' });
const orders: Store<Order> = state<Order>(connection, 'orders.*');
const status: string | undefined = orders.get('orders.1')?.data.status;
const topics: string[] = orders.all().map((item) => item.topic);
const stop: () => void = orders.subscribe((items) => items.length);
orders.on('change', (changed: string[]) => changed.length).on('error', (error) => error && error.message).off('change');
const room = members(connection, 'room.42');
const live: boolean = room.live;
Switchback.state(connection, 'a').close();
const { state: same } = install(plain);

// @ts-expect-error: one pattern a store
state(connection, ['a', 'b']);
// @ts-expect-error: a list that was given out is not modified
orders.all().push(orders.all()[0]);
// @ts-expect-error: what it is is not set
orders.live = true;
// @ts-expect-error: there is no such event
orders.on('changes', () => {});
// @ts-expect-error: a name
Switchback.connect('', { resume: true });

export { status, topics, stop, live, same };
