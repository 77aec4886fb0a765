//! Writes the table and the plots from the stored figures.

use std::fs;
use std::path::PathBuf;

use crate::results::{Figure, home, load, median};
use crate::run::Run;
use crate::support::targets::Target;
use crate::support::{Fault, svg};
use crate::table;

/// Writes the table, and the plots unless the runs were short.
pub(crate) fn write(quick: bool) -> Result<(), Fault> {
    let all = load(quick)?;
    let bounds = table::bounds(&all);
    let text = format!("{bounds}\n{}", table::everything(&all));
    println!("\n{text}");
    if quick {
        return Ok(());
    }
    fs::write(home().join("compare.md"), text)?;
    show(&bounds)?;
    let plots: [(&str, &str, Figure, &[&str]); 6] = [
        ("cpu", "Processor time a delivery, microseconds (less is better)", |run| run.cpu_us, &PACED),
        ("latency", "Latency at 20,000 deliveries a second, p99, ms (less is better)", |run| run.p99_ms, &PACED),
        ("saturated", "Saturated: thousand deliveries a second (more is better)", thousands, &SATURATED),
        ("idle", "An idle connection, bytes (less is better)", |run| run.bytes_a_connection, &IDLE),
        ("publish", "Thousand publishes a second (more is better)", thousands, &PUBLISH),
        ("polls", "Thousand empty short polls a second (more is better)", thousands, &["polls"]),
    ];
    for (name, title, figure, works) in plots {
        let groups: Vec<(String, Vec<Option<f64>>)> = works
            .iter()
            .map(|work| {
                let of = |target| median(&all, work, target, figure);
                (label(work), Target::ALL.into_iter().map(of).collect())
            })
            .collect();
        fs::write(home().join(format!("{name}.svg")), svg::bars(title, &table::TARGETS, &groups))?;
    }
    Ok(())
}

/// Prints this build's figures beside the previous build's.
pub(crate) fn builds() -> Result<(), Fault> {
    println!("\n{}", table::builds(&load(true)?));
    Ok(())
}

/// Replaces the table between the markers in docs/benchmarks.md.
fn show(table: &str) -> Result<(), Fault> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let text = fs::read_to_string(&file)?;
    let (begin, end) = ("<!-- compare: begin -->\n", "<!-- compare: end -->");
    let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let Some((before, after)) = parts else { return Err("docs/benchmarks.md has no markers for the table".into()) };
    Ok(fs::write(file, format!("{before}{begin}\n{table}\n{end}{after}"))?)
}

const PACED: [&str; 6] = ["ws-20k", "ws-100k", "sse-20k", "iframe-20k", "longpoll-20k", "jsonp-20k"];
const SATURATED: [&str; 5] =
    ["ws-saturated", "sse-saturated", "iframe-saturated", "longpoll-saturated", "jsonp-saturated"];
const IDLE: [&str; 5] = ["idle-ws", "idle-sse", "idle-iframe", "idle-longpoll", "idle-jsonp"];
const PUBLISH: [&str; 5] = ["publish-1", "publish-16", "publish-64", "publish-pipelined", "publish-batches"];

fn thousands(run: &Run) -> Option<f64> {
    run.rate.map(|rate| rate / 1000.0)
}

fn label(work: &str) -> String {
    let plain = work.trim_start_matches("idle-").trim_start_matches("publish-").trim_end_matches("-saturated");
    plain.trim_end_matches("-20k").replace('-', " ")
}
