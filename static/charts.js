// The comparison page's canvases. What they cost does not depend on how many events come: a chart of arrivals has a
// hundred columns, one of latency two hundred points. Nothing here asks the browser for a layout or a style while it
// draws: sizes come from a ResizeObserver, colours are read when the scheme changes.
'use strict';

const COLOURS = ['accent', 'bad', 'ink', 'line', 'soft'];
const FULL_COLUMN = 25;                // events in a column of full height: 125 a second

class Charts {
  // `changed` is called when something has to be drawn that no event would draw.
  constructor(changed) {
    this.changed = changed;
    this.sizes = new Map();
    this.visible = new Set();
    this.resized = new ResizeObserver((entries) => entries.forEach(({ target, contentRect }) => this.fit(target, contentRect)));
    this.seen = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
      if (isIntersecting) this.visible.add(target); else this.visible.delete(target);
      this.changed();
    }));
    this.readColours();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { this.readColours(); this.changed(); });
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue('--' + name).trim()]));
  }

  add(canvas) {
    this.resized.observe(canvas);
    this.seen.observe(canvas);
  }

  fit(canvas, { width, height }) {
    const ratio = window.devicePixelRatio || 1;
    const size = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
    this.sizes.set(canvas, { width, height, ratio });
    // Setting a size clears the canvas, be it the same.
    if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
    this.changed();
  }

  // None for a canvas outside of the viewport.
  pen(canvas) {
    const size = this.sizes.get(canvas);
    if (!size || !size.width || !this.visible.has(canvas)) return null;
    const pen = canvas.getContext('2d');
    pen.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    pen.clearRect(0, 0, size.width, size.height);
    return Object.assign({ pen }, size);
  }

  // The last 20 seconds, the higher the more events; a gap, a loss or a repeat is red and of full height.
  arrivals(canvas, meter) {
    const { pen, width, height } = this.pen(canvas) || {};
    if (!pen) return;
    const columns = meter.columns();
    const step = width / columns.length;
    for (const fault of [false, true]) {
      pen.fillStyle = fault ? this.colours.bad : this.colours.accent;
      columns.forEach((column, i) => {
        if (!column || !(fault ? column.bad : column.good)) return;
        const part = fault ? 1 : 0.25 + 0.75 * Math.min(1, column.good / FULL_COLUMN);
        pen.fillRect(i * step, height * (1 - part), Math.max(1.5, step - 1), height * part);
      });
    }
  }

  latency(canvas, meter) {
    const { pen, width, height } = this.pen(canvas) || {};
    if (!pen) return;
    const values = meter.newest(200);
    pen.font = '11px system-ui, sans-serif';
    pen.fillStyle = this.colours.soft;
    if (values.length < 2) { pen.fillText('Latency: waiting for events', 8, height / 2 + 4); return; }
    const most = Math.max(...values, 1);
    const y = (value) => height - 4 - (value / (most * 1.15)) * (height - 20);
    pen.strokeStyle = this.colours.line;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(0, y(most / 2));
    pen.lineTo(width, y(most / 2));
    pen.stroke();
    pen.strokeStyle = this.colours.accent;
    pen.lineWidth = 1.5;
    pen.beginPath();
    values.forEach((value, i) => pen.lineTo((i / (values.length - 1)) * width, y(value)));
    pen.stroke();
    pen.fillText('latency, highest ' + ms(most), 8, 13);
  }

  // Logarithmic: a socket's 1 ms and a poll's 1,000 ms must both be readable.
  comparison(canvas, rows) {
    const { pen, width, height } = this.pen(canvas) || {};
    if (!pen) return;
    pen.font = '12px system-ui, sans-serif';
    pen.fillStyle = this.colours.soft;
    if (!rows.length) { pen.fillText('Nothing measured yet', 12, height / 2); return; }
    const most = Math.max(10, ...rows.map(({ p99 }) => p99));
    const left = 84;
    const scale = (value) => left + (Math.log10(Math.max(value, 0.1)) + 1) / (Math.log10(most * 1.3) + 1) * (width - left - 12);
    for (let power = 0.1; power <= most; power *= 10) {
      pen.fillStyle = this.colours.line;
      pen.fillRect(scale(power), 0, 1, height - 18);
      pen.fillStyle = this.colours.soft;
      pen.fillText(power < 1 ? '0.1' : number(power), scale(power) + 3, height - 5);
    }
    const step = (height - 22) / rows.length;
    rows.forEach(({ name, median, p99 }, i) => {
      const middle = i * step + step / 2;
      pen.fillStyle = this.colours.ink;
      pen.fillText(name, 8, middle + 4);
      pen.fillStyle = this.colours.accent;
      pen.fillRect(left, middle - Math.min(7, step * 0.3), Math.max(2, scale(median) - left), Math.min(14, step * 0.6));
      pen.fillRect(scale(median), middle - 0.75, Math.max(0, scale(p99) - scale(median)), 1.5);
    });
  }
}

// ---------------------------------------------------------------- numbers as people read them

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const number = (value) => grouped.format(value);

const ms = (value) => (value === undefined ? '–' : value < 10 ? value.toFixed(1) + ' ms' : number(value) + ' ms');

function bytes(value) {
  if (value === undefined) return '–';
  if (value < 1000) return Math.round(value) + ' B';
  return value < 1e6 ? (value / 1e3).toFixed(1) + ' kB' : (value / 1e6).toFixed(1) + ' MB';
}
