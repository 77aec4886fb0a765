//! Compares Switchback with Nchan and with the kernel's floor, on the same work: `cargo bench --bench compare`.
//!
//! ```text
//! cargo bench --bench compare                      all of it: five rounds, half an hour
//! cargo bench --bench compare -- --quick           one round, short
//! cargo bench --bench compare -- --work ws-20k,sse-20k --target nchan,memory --rounds 3
//! cargo bench --bench compare -- --previous PATH    this build beside another, in turns; prints the ratios
//! cargo bench --bench compare -- --report          only writes the table and the plots again
//! ```
//!
//! Needs two cores and, to install a missing Nchan, Debian and root. The server is alone on core 0, the load on
//! core 1. In each round of a work every server is fresh, and the servers take turns, shuffled, of a quarter of a second: other
//! activity on the machine affects all of them. The figures are stored in
//! `benches/results`, by work, so that a run of some works leaves the other works' figures as they were.

mod arguments;
mod report;
mod results;
mod run;
mod side;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod work;

use std::collections::BTreeMap;
use std::net::TcpListener;

use rand::seq::SliceRandom as _;

use arguments::Arguments;
use run::Run;
use support::targets::Target;
use support::{Fault, floor, machine};

fn main() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == floor::ARGUMENT) {
        return floor::serve(&TcpListener::bind("127.0.0.1:0")?);
    }
    let arguments = Arguments::parse(&words)?;
    if !arguments.report_only {
        measure(&arguments)?;
    }
    if arguments.previous { report::builds() } else { report::write(arguments.quick) }
}

fn measure(arguments: &Arguments) -> Result<(), Fault> {
    let connections_max = machine::raise_files()?;
    machine::pin(machine::LOAD_CORE)?;
    let mut runs: BTreeMap<&'static str, Vec<Run>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        let mut works = arguments.works.clone();
        works.shuffle(&mut rand::rng());
        for work in works {
            let targets: Vec<Target> =
                arguments.targets.iter().copied().filter(|target| work.concerns(*target)).collect();
            let done = work.round(&targets, connections_max, arguments.time);
            for run in done.map_err(|fault| format!("{}, {fault}", work.name))? {
                println!("round {round} {:<18} {:<7} {run}", work.name, run.target);
                runs.entry(work.name).or_default().push(run);
            }
        }
    }
    for (work, runs) in runs {
        results::save(work, &runs, arguments.quick)?;
    }
    Ok(())
}
