//! Command-line arguments: which works and servers are measured, and for how long.

use std::time::Duration;

use crate::support::targets::Target;
use crate::support::{Fault, servers};
use crate::work::{self, Work};

pub(crate) struct Arguments {
    pub(crate) works: Vec<&'static Work>,
    pub(crate) targets: Vec<Target>,
    pub(crate) rounds: u32,
    /// How long each server is measured in a round of a work.
    pub(crate) time: Duration,
    /// Figures are printed, and not stored.
    pub(crate) quick: bool,
    pub(crate) report_only: bool,
    /// Another build is measured beside this one, and the two are compared. Figures are not stored.
    pub(crate) previous: bool,
}

impl Arguments {
    pub(crate) fn parse(words: &[String]) -> Result<Self, Fault> {
        let mut all = Self {
            works: work::ALL.iter().collect(),
            targets: Target::ALL.to_vec(),
            rounds: 5,
            time: Duration::from_secs(3),
            quick: false,
            report_only: false,
            previous: false,
        };
        let (mut rounds, mut seconds) = (None, None);
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
            match word {
                // Cargo passes this to every benchmark.
                "--bench" => {}
                "--quick" => (all.quick, all.rounds, all.time) = (true, 1, Duration::from_millis(1500)),
                "--report" => all.report_only = true,
                "--previous" => {
                    servers::set_previous(value()?.into());
                    (all.previous, all.quick) = (true, true);
                    all.targets = Target::BUILDS.into_iter().flat_map(|(this, previous)| [this, previous]).collect();
                }
                "--rounds" => rounds = Some(value()?.parse()?),
                "--seconds" => seconds = Some(value()?.parse()?),
                "--work" => all.works = named(value()?, work::ALL.iter(), |work| work.name)?,
                "--target" => all.targets = named(value()?, Target::all(), |target| target.name())?,
                _ => {
                    return Err(format!(
                        "{word}? There are --quick, --previous, --report, --work, --target, --rounds, --seconds"
                    )
                    .into());
                }
            }
        }
        all.rounds = rounds.unwrap_or(all.rounds);
        all.time = seconds.map_or(all.time, Duration::from_secs_f64);
        Ok(all)
    }
}

fn named<T: Copy>(names: &str, all: impl Iterator<Item = T>, name: fn(&T) -> &'static str) -> Result<Vec<T>, Fault> {
    let all: Vec<T> = all.collect();
    let find = |wanted: &str| all.iter().find(|one| name(one) == wanted).copied();
    let known = || all.iter().map(name).collect::<Vec<_>>().join(", ");
    names
        .split(',')
        .map(|wanted| find(wanted).ok_or_else(|| format!("{wanted}? There are {}", known()).into()))
        .collect()
}
