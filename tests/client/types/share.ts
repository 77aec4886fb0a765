// What TypeScript must take, and what it must not, of share.js. Compiled by ../types.test.js, never run.
import Switchback from '../../../static/share.mjs';
import share from '../../../static/share.js';

share(Switchback);

const connection = Switchback.connect('', { topics: ['orders.>'], share: true });
Switchback.connect('', { topics: 'orders.>', share: 'user-7', transports: ['shared', 'ws'] });
const transport: string | undefined = connection.transport;

// @ts-expect-error: a group is named by a string, or is the page's own
Switchback.connect('', { share: 7 });
// @ts-expect-error: it takes the library, not a connection
share(connection);
// @ts-expect-error: it gives nothing back
const installed: object = share(Switchback);

export { transport, installed };
