//! Medians, percentiles, spreads.

/// The median. `NaN` of an empty slice.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The smallest and the largest.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    let fold = |with: fn(f64, f64) -> f64| values.iter().copied().reduce(with).unwrap_or(f64::NAN);
    (fold(f64::min), fold(f64::max))
}

/// A percentile of `sorted`, by nearest rank.
pub(crate) fn percentile(sorted: &[u32], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).map_or(f64::NAN, |value| f64::from(*value))
}

/// With three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".into(),
        v if v >= 1e6 => format!("{:.2} million", value / 1e6),
        v if v >= 10_000.0 => {
            let text = format!("{value:.0}");
            let (head, tail) = text.split_at(text.len() - 3);
            format!("{head},{tail}")
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
