//! The stored figures, by work: each with its runs and its machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::run::Run;
use crate::support::targets::Target;
use crate::support::{Fault, machine, stats};
use crate::work;

/// The runs of a work, and the machine.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) machine: String,
    pub(crate) runs: Vec<Run>,
}

/// By work.
pub(crate) type All = BTreeMap<String, Kept>;

pub(crate) fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results")
}

/// Short runs are stored elsewhere: they are for development, not for docs/benchmarks.md.
fn file(quick: bool) -> PathBuf {
    match quick {
        true => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compare-quick.json"),
        false => home().join("compare.json"),
    }
}

pub(crate) fn load(quick: bool) -> Result<All, Fault> {
    match fs::read_to_string(file(quick)) {
        Ok(text) => Ok(serde_json::from_str(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(All::new()),
        Err(error) => Err(error.into()),
    }
}

/// Stores the runs of one work in place of its previous runs.
pub(crate) fn save(work: &str, runs: &[Run], quick: bool) -> Result<(), Fault> {
    let mut all = load(quick)?;
    all.insert(work.into(), Kept { machine: machine::describe(), runs: runs.to_vec() });
    fs::create_dir_all(home())?;
    Ok(fs::write(file(quick), serde_json::to_string_pretty(&all)? + "\n")?)
}

/// Selects a figure of a run.
pub(crate) type Figure = fn(&Run) -> Option<f64>;

/// A server's figures in a work, round by round.
pub(crate) fn figures(all: &All, work: &str, target: Target, figure: Figure) -> Vec<f64> {
    let runs = all.get(work).map_or(&[][..], |kept| &kept.runs);
    runs.iter().filter(|run| run.target == target.name()).filter_map(figure).collect()
}

/// The median of the figures.
pub(crate) fn median(all: &All, work: &str, target: Target, figure: Figure) -> Option<f64> {
    Some(stats::median(&figures(all, work, target, figure))).filter(|value| value.is_finite())
}

/// The measured servers, in the order in which they are listed.
pub(crate) fn measured(all: &All) -> impl Iterator<Item = (&'static str, &Kept)> {
    work::ALL.iter().filter_map(|work| Some((work.name, all.get(work.name)?)))
}
