'use client';

import { transports } from 'switchback-events';

export default function Page() {
  return <p>{`transports: ${transports.join()}`}</p>;
}
