// What the tabs of one browser share: Web Locks and broadcast channels. https://w3c.github.io/web-locks/
'use strict';

class Browser {
  // `set(run, ms)` runs something later.
  constructor(set) { Object.assign(this, { set, locks: new Map(), channels: new Set() }); }

  // Gives a window what share.js looks for.
  furnish(window) {
    window.navigator.locks = this.locksOf(window);
    window.BroadcastChannel = channelOf(this, window);
    window.AbortController = AbortController;
    window.atob = atob;
  }

  // The window's process is gone: its locks are free, its channels are silent.
  crash(window) {
    for (const channel of this.channels) if (channel.window === window) this.channels.delete(channel);
    for (const [name, entries] of this.locks) for (const entry of entries) if (entry.window === window) this.unlock(name, entry);
  }

  // One holder a name, the others in line.
  grant(name) {
    const next = (this.locks.get(name) || [])[0];
    if (!next || next.held) return;
    next.held = true;
    this.set(() => { if (!next.gone) Promise.resolve(next.run()).then(() => this.unlock(name, next)); }, 1);
  }

  unlock(name, entry) {
    entry.gone = true;
    this.locks.set(name, this.locks.get(name).filter((each) => each !== entry));
    this.grant(name);
  }

  locksOf(window) {
    return {
      request: (name, { signal }, run) => {
        const entry = { run, window, held: false, gone: false };
        this.locks.set(name, [...(this.locks.get(name) || []), entry]);
        this.grant(name);
        return new Promise((resolve, reject) => signal.addEventListener('abort', () => { if (!entry.gone) this.unlock(name, entry); reject(new Error('AbortError')); }));
      },
    };
  }
}

function channelOf(browser, window) {
  return class {
    constructor(name) { Object.assign(this, { name, window }); browser.channels.add(this); }
    close() { browser.channels.delete(this); }
    postMessage(message) {
      const data = structuredClone(message);
      if (!browser.channels.has(this)) return;
      for (const other of browser.channels) {
        if (other !== this && other.name === this.name) browser.set(() => { if (browser.channels.has(other) && other.onmessage) other.onmessage({ data: structuredClone(data) }); }, 1);
      }
    }
  };
}

module.exports = { Browser };
