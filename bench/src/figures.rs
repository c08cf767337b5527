//! Medians, quantiles and how figures are written.

/// The middle of what was measured, with its extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// The median with its extremes; nothing of nothing.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    Some(Spread { median: f64::midpoint(low, high), min, max })
}

/// The value below which a share of all lies (nearest rank).
pub fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

/// What one of so many costs; nothing to tell where there was none.
pub fn each(total: f64, count: f64) -> f64 {
    if count > 0.0 { total / count } else { f64::NAN }
}

/// A figure with as many digits as it deserves.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => "-".to_owned(),
        size if size >= 10_000.0 => {
            let digits = format!("{:.0}", value.abs());
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .filter_map(|group| std::str::from_utf8(group).ok())
                .collect();
            format!("{}{}", if value < 0.0 { "-" } else { "" }, groups.join(","))
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&short(self.median))?;
        if self.min < self.max {
            write!(formatter, " ({}-{})", short(self.min), short(self.max))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Spread, each, quantile, short, spread};

    #[test]
    fn a_median_lies_between_the_two_in_the_middle() {
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(spread(&[7.0]).map(|one| one.to_string()), Some("7.00".to_owned()));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.5), Some(50.0));
        assert_eq!(quantile(&mut values, 0.99), Some(99.0));
        assert_eq!(quantile(&mut values, 0.0), Some(1.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    #[test]
    fn figures_have_three_digits_or_groups_of_three() {
        let written = [0.0, 0.0123, 2.345, 45.67, 461.3, 12_345.6, -1_234_567.0].map(short);
        assert_eq!([short(each(3.0, 2.0)), short(each(3.0, 0.0))], ["1.50", "-"]);
        assert_eq!(written, ["0.00", "0.012", "2.35", "45.7", "461", "12,346", "-1,234,567"]);
    }
}
