//! Runs a simulation with many seeds, and names the seed of a failure.

use std::panic::RefUnwindSafe;

/// Runs `simulate` with `runs` consecutive seeds, from a random one on, and returns their outcomes. `SIMULATION_RUNS=n` sets
/// another number of runs. `SIMULATION_SEED=n` runs one seed only, with the panic's own backtrace, and returns `None`.
///
/// # Panics
/// If a run fails; the message names its seed.
pub fn run<T>(runs: u64, simulate: impl Fn(u64) -> T + RefUnwindSafe) -> Option<Vec<T>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SIMULATION_SEED") {
        simulate(seed);
        return None;
    }
    let first: u64 = rand::random_range(0..u64::MAX / 2);
    let runs = number("SIMULATION_RUNS").unwrap_or(runs);
    println!("{runs} runs from seed {first}");
    let outcome = |seed| {
        let outcome = std::panic::catch_unwind(|| simulate(seed));
        outcome.unwrap_or_else(|_| panic!("failed: run it again with SIMULATION_SEED={seed}"))
    };
    Some((first..first + runs).map(outcome).collect())
}
