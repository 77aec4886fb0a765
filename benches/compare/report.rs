//! Keeps what was measured, and writes the table and the plots from all that is kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::run::Run;
use crate::support::targets::Target;
use crate::support::{Fault, machine, stats, svg};
use crate::table;
use crate::work;

/// The runs of a work, and where they were done.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) machine: String,
    pub(crate) runs: Vec<Run>,
}

/// By work.
pub(crate) type All = BTreeMap<String, Kept>;

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results")
}

/// Short runs are kept elsewhere: they are for whoever is changing something.
fn file(quick: bool) -> PathBuf {
    match quick {
        true => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compare-quick.json"),
        false => home().join("compare.json"),
    }
}

fn load(quick: bool) -> Result<All, Fault> {
    match fs::read_to_string(file(quick)) {
        Ok(text) => Ok(serde_json::from_str(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(All::new()),
        Err(error) => Err(error.into()),
    }
}

/// Keeps the runs of one work in place of those that were kept before.
pub(crate) fn save(work: &str, runs: &[Run], quick: bool) -> Result<(), Fault> {
    let mut all = load(quick)?;
    all.insert(work.into(), Kept { machine: machine::describe(), runs: runs.to_vec() });
    fs::create_dir_all(home())?;
    Ok(fs::write(file(quick), serde_json::to_string_pretty(&all)? + "\n")?)
}

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

/// Puts the table where the README has room for it.
fn show(table: &str) -> Result<(), Fault> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(&file)?;
    let (begin, end) = ("<!-- compare: begin -->\n", "<!-- compare: end -->");
    let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let Some((before, after)) = parts else { return Err("the README has no room for the table".into()) };
    Ok(fs::write(file, format!("{before}{begin}\n{table}\n{end}{after}"))?)
}

const PACED: [&str; 6] = ["ws-20k", "ws-100k", "sse-20k", "iframe-20k", "longpoll-20k", "jsonp-20k"];
const SATURATED: [&str; 5] =
    ["ws-saturated", "sse-saturated", "iframe-saturated", "longpoll-saturated", "jsonp-saturated"];
const IDLE: [&str; 5] = ["idle-ws", "idle-sse", "idle-iframe", "idle-longpoll", "idle-jsonp"];
const PUBLISH: [&str; 5] = ["publish-1", "publish-16", "publish-64", "publish-pipelined", "publish-batches"];

/// What is looked at in a run.
pub(crate) type Figure = fn(&Run) -> Option<f64>;

fn thousands(run: &Run) -> Option<f64> {
    run.rate.map(|rate| rate / 1000.0)
}

fn label(work: &str) -> String {
    let plain = work.trim_start_matches("idle-").trim_start_matches("publish-").trim_end_matches("-saturated");
    plain.trim_end_matches("-20k").replace('-', " ")
}

/// A server's figures in a work, round by round.
pub(crate) fn figures(all: &All, work: &str, target: Target, figure: Figure) -> Vec<f64> {
    let runs = all.get(work).map_or(&[][..], |kept| &kept.runs);
    runs.iter().filter(|run| run.target == target.name()).filter_map(figure).collect()
}

/// The middle one of them.
pub(crate) fn median(all: &All, work: &str, target: Target, figure: Figure) -> Option<f64> {
    Some(stats::median(&figures(all, work, target, figure))).filter(|value| value.is_finite())
}

/// In the order in which they are listed, those that were measured.
pub(crate) fn measured(all: &All) -> impl Iterator<Item = (&'static str, &Kept)> {
    work::ALL.iter().filter_map(|work| Some((work.name, all.get(work.name)?)))
}
