//! Costs at growing sizes: `cargo bench --bench growth`, or with the names of some curves after `--`.
//!
//! Each curve is measured on the real server, on a core of its own, and written to `benches/results`. 'Flat' means that the
//! largest cost of a unit is at most one and a half times the smallest. `--quick` stops at a tenth, and stores nothing.

mod live;
mod log;
mod state;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use support::stats::short;
use support::svg::{self, Curve};
use support::{Fault, machine, stats};

/// The claim that a curve must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Claim {
    /// The largest is at most one and a half times the smallest.
    Flat,
    /// No claim: the curve is shown only.
    Shown,
    /// The last is at most twice the first.
    AtMostTwice,
    /// The last is at most this value.
    AtMost(u32),
}

/// One cost as a function of one size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Growth {
    pub(crate) title: String,
    pub(crate) axis: String,
    pub(crate) claim: Claim,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Growth {
    pub(crate) fn new(title: &str, axis: &str, claim: Claim) -> Self {
        Self { title: title.into(), axis: axis.into(), claim, points: Vec::new() }
    }

    pub(crate) fn add(&mut self, at: u64, cost: f64) {
        println!("{:<60} {at:>10} {:>9}", self.title, short(cost));
        self.points.push((at as f64, cost));
    }

    fn verdict(&self) -> String {
        let costs: Vec<f64> = self.points.iter().map(|point| point.1).collect();
        let (low, high) = stats::spread(&costs);
        let (first, last) = (costs.first().copied().unwrap_or(f64::NAN), costs.last().copied().unwrap_or(f64::NAN));
        let verdict = |holds: bool| if holds { "holds" } else { "**misses**" };
        match self.claim {
            Claim::Flat => format!("flat: largest {} x smallest, {}", short(high / low), verdict(high <= 1.5 * low)),
            Claim::AtMostTwice => format!("{} x the first, {}", short(last / first), verdict(last <= 2.0 * first)),
            Claim::AtMost(most) => format!("at most {most}, {}", verdict(last <= f64::from(most))),
            Claim::Shown => String::new(),
        }
    }
}

type Measure = fn(bool) -> Result<Vec<Growth>, Fault>;

const ALL: &[(&str, Measure)] = &[
    ("subscribers", live::subscribers),
    ("topics", live::topics),
    ("patterns", live::patterns),
    ("sparse", live::sparse),
    ("log", log::log),
    ("resume", log::resume),
    ("trimming", log::trimming),
    ("keeping", log::keeping),
    ("snapshot", state::snapshot),
    ("latest", state::latest),
];

fn main() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let quick = words.iter().any(|word| word == "--quick");
    let wanted: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|word| ALL.iter().all(|(name, _)| name != *word)) {
        let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        return Err(format!("{unknown}? There are {}", names.join(", ")).into());
    }
    machine::raise_files()?;
    machine::pin(machine::LOAD_CORE)?;
    for (name, measure) in ALL.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        let growth = measure(quick)?;
        if !quick {
            keep(name, growth)?;
        }
    }
    if quick { Ok(()) } else { write() }
}

type Kept = BTreeMap<String, Vec<Growth>>;

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results")
}

fn kept() -> Result<Kept, Fault> {
    match fs::read_to_string(home().join("growth.json")) {
        Ok(text) => Ok(serde_json::from_str(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Kept::new()),
        Err(error) => Err(error.into()),
    }
}

fn keep(name: &str, growth: Vec<Growth>) -> Result<(), Fault> {
    let mut all = kept()?;
    all.insert(name.into(), growth);
    fs::create_dir_all(home())?;
    Ok(fs::write(home().join("growth.json"), serde_json::to_string_pretty(&all)? + "\n")?)
}

/// A plot for each axis, and a table of all.
fn write() -> Result<(), Fault> {
    let mut table = String::from("| what | from | to | smallest | largest | |\n|---|---:|---:|---:|---:|---|\n");
    for (name, growths) in kept()? {
        for growth in &growths {
            let costs: Vec<f64> = growth.points.iter().map(|point| point.1).collect();
            let (low, high) = stats::spread(&costs);
            let end = |point: Option<&(f64, f64)>| short(point.map_or(f64::NAN, |point| point.0));
            let (from, to) = (end(growth.points.first()), end(growth.points.last()));
            let _ = writeln!(
                table,
                "| {} | {from} | {to} | {} | {} | {} |",
                growth.title,
                short(low),
                short(high),
                growth.verdict()
            );
        }
        for (at, growth) in growths.iter().enumerate() {
            let curve = Curve { name: &growth.title, points: &growth.points };
            let plot = svg::curves(&growth.title, &growth.axis, &[curve]);
            let number = if at == 0 { String::new() } else { format!("-{}", at + 1) };
            fs::write(home().join(format!("growth-{name}{number}.svg")), plot)?;
        }
    }
    let _ = writeln!(table, "\n{}.", machine::describe());
    println!("\n{table}");
    Ok(fs::write(home().join("growth.md"), table)?)
}
