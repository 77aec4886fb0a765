//! The tables: the targets, and all figures.

use std::fmt::Write as _;

use crate::results::{All, Figure, figures, measured, median};
use crate::support::stats::{self, short};
use crate::support::targets::Target;

/// The servers, as they are called in tables and plots.
pub(crate) const TARGETS: [&str; 4] = ["floor", "Nchan", "Switchback, memory", "Switchback, disk"];

enum Bound {
    AtMost(f64, f64),
    AtLeast(f64, f64),
}

struct Row {
    what: &'static str,
    work: &'static str,
    figure: Figure,
    /// The two servers that are compared.
    pair: (Target, Target),
    bound: Bound,
}

const ROWS: &[Row] = {
    use Bound::{AtLeast, AtMost};
    const fn row(what: &'static str, work: &'static str, figure: Figure, bound: Bound) -> Row {
        Row { what, work, figure, pair: (Target::Memory, Target::Nchan), bound }
    }
    const CPU: Figure = |run| run.cpu_us;
    const P99: Figure = |run| run.p99_ms;
    const BYTES: Figure = |run| run.bytes_a_connection;
    const RATE: Figure = |run| run.rate;
    &[
        row("WebSocket, 20k deliveries/s: CPU µs a delivery", "ws-20k", CPU, AtMost(0.85, 0.65)),
        row("the same at 100k/s", "ws-100k", CPU, AtMost(0.95, 0.75)),
        row("WebSocket saturated: CPU µs", "ws-saturated", CPU, AtMost(0.35, 0.20)),
        row("SSE, 20k/s: CPU µs", "sse-20k", CPU, AtMost(0.85, 0.65)),
        row("iframe, 20k/s: CPU µs (against EventSource)", "iframe-20k", CPU, AtMost(0.85, 0.65)),
        row("long poll, 1000 held, with the next poll: CPU µs", "longpoll-20k", CPU, AtMost(1.10, 0.85)),
        row("JSONP, the same (against long poll)", "jsonp-20k", CPU, AtMost(1.10, 0.85)),
        row("WebSocket, 20k/s: p99 ms", "ws-20k", P99, AtMost(1.0, 0.75)),
        row("SSE, 20k/s: p99 ms", "sse-20k", P99, AtMost(1.0, 0.75)),
        row("WebSocket, idle: bytes a connection", "idle-ws", BYTES, AtMost(1.1, 0.3)),
        row("SSE, idle: bytes a connection", "idle-sse", BYTES, AtMost(1.1, 0.3)),
        row("long poll, held: bytes a connection", "idle-longpoll", BYTES, AtMost(1.4, 1.0)),
        row("publishes/s, 1 connection", "publish-1", RATE, AtLeast(0.95, 1.2)),
        row("publishes/s, 16 connections", "publish-16", RATE, AtLeast(0.95, 1.2)),
        row("publishes/s, pipelined", "publish-pipelined", RATE, AtLeast(0.95, 1.2)),
        Row {
            what: "publishes/s, 64 connections, on disk with fsync (against our own memory)",
            work: "publish-64",
            figure: RATE,
            pair: (Target::Disk, Target::Memory),
            bound: AtLeast(0.3, 0.7),
        },
        row("empty short polls/s, 32 connections", "polls", RATE, AtLeast(1.0, 1.2)),
    ]
};

/// Ratios beside their bounds.
pub(crate) fn bounds(all: &All) -> String {
    let mut out = format!("| work | {} | ratio (spread) | at most / at least | aim | |\n|---|", TARGETS.join(" | "));
    out.push_str(&"---:|".repeat(TARGETS.len()));
    out.push_str("---|---|---|---|\n");
    for row in ROWS {
        let cells = Target::ALL.map(|target| short(median(all, row.work, target, row.figure).unwrap_or(f64::NAN)));
        let side = |target| figures(all, row.work, target, row.figure);
        let (ours, theirs) = (side(row.pair.0), side(row.pair.1));
        let ratio = stats::median(&ours) / stats::median(&theirs);
        let rounds: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        let (low, high) = stats::spread(&rounds);
        let (sign, bound, aim, holds) = match row.bound {
            Bound::AtMost(bound, aim) => ("≤", bound, aim, ratio <= bound),
            Bound::AtLeast(bound, aim) => ("≥", bound, aim, ratio >= bound),
        };
        let verdict = if ratio.is_nan() {
            ""
        } else if holds {
            "holds"
        } else {
            "**misses**"
        };
        let _ = writeln!(
            out,
            "| {} | {} | {ratio:.2} ({low:.2}–{high:.2}) | {sign} {bound:.2} | {aim:.2} | {verdict} |",
            row.what,
            cells.join(" | ")
        );
    }
    out
}

/// The figures of two builds, with the ratio of the rounds: its median and its spread.
pub(crate) fn builds(all: &All) -> String {
    let figures_of: [(&str, Figure); 4] = [
        ("CPU µs", |run| run.cpu_us),
        ("a second", |run| run.rate),
        ("p99 ms", |run| run.p99_ms),
        ("bytes/connection", |run| run.bytes_a_connection),
    ];
    let mut out =
        String::from("| work | server | figure | previous | now | ratio (spread) |\n|---|---|---|---:|---:|---|\n");
    for (work, _) in measured(all) {
        for (this, previous) in Target::BUILDS {
            for (name, figure) in figures_of {
                let (now, before) = (figures(all, work, this, figure), figures(all, work, previous, figure));
                let rounds: Vec<f64> = now.iter().zip(&before).map(|(now, before)| now / before).collect();
                if rounds.is_empty() {
                    continue;
                }
                let (low, high) = stats::spread(&rounds);
                let _ = writeln!(
                    out,
                    "| {work} | {} | {name} | {} | {} | {:.2} ({low:.2}–{high:.2}) |",
                    this.name(),
                    short(stats::median(&before)),
                    short(stats::median(&now)),
                    stats::median(&rounds),
                );
            }
        }
    }
    out
}

/// Every figure, as medians; faults summed over all rounds.
pub(crate) fn everything(all: &All) -> String {
    let mut out = String::from(
        "| work | server | CPU µs | a second | p50 ms | p99 | p99.9 | max | bytes/connection | lost / repeated / out of order |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for (work, kept) in measured(all) {
        for (target, name) in Target::ALL.into_iter().zip(TARGETS) {
            let runs: Vec<_> = kept.runs.iter().filter(|run| run.target == target.name()).collect();
            if runs.is_empty() {
                continue;
            }
            let shown: [Figure; 7] = [
                |run| run.cpu_us,
                |run| run.rate,
                |run| run.p50_ms,
                |run| run.p99_ms,
                |run| run.p999_ms,
                |run| run.max_ms,
                |run| run.bytes_a_connection,
            ];
            let cells = shown.map(|figure| short(median(all, work, target, figure).unwrap_or(f64::NAN)));
            let sum = |of: fn(&crate::run::Run) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
            let (lost, repeated, disordered) =
                (sum(|run| run.lost), sum(|run| run.repeated), sum(|run| run.disordered));
            let _ = writeln!(out, "| {work} | {name} | {} | {lost} / {repeated} / {disordered} |", cells.join(" | "));
        }
    }
    if let Some((_, kept)) = measured(all).next() {
        let rounds = kept.runs.iter().filter(|run| run.target == kept.runs[0].target).count();
        let _ = writeln!(out, "\n{}; medians of {rounds} rounds.", kept.machine);
    }
    out
}
