//! Numbers that were measured several times: median and spread, and ratios of what was measured in
//! the same round.

use serde_json::{Value, json};

/// The values of the rounds, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which the part `part` (0 to 1) of the samples lies; NaN of none.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1) as f64;
        sorted.get((last * part).round() as usize).copied().unwrap_or(f64::NAN)
    }

    /// The middle; of an even number the mean of both.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.get(middle) {
            Some(&upper) if sorted.len().is_multiple_of(2) => {
                f64::midpoint(sorted[middle - 1], upper)
            }
            Some(&upper) => upper,
            None => f64::NAN,
        }
    }

    /// Half of the distance between the quartiles, as a part of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / 2.0 / self.median()
    }

    /// Each sample divided by the one of the same round: what disturbs a round disturbs both.
    pub(crate) fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "median": self.median(), "spread": self.spread(), "samples": self.0 })
    }
}

impl From<f64> for Samples {
    fn from(value: f64) -> Self {
        Self(vec![value])
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_spread_are_those_of_the_definition() {
        let odd: Samples = [3.0, 1.0, 2.0].into_iter().collect();
        let even: Samples = [4.0, 1.0, 2.0, 3.0].into_iter().collect();
        assert_eq!((odd.median(), even.median()), (2.0, 2.5));
        assert_eq!(odd.ratio(&even).0, [0.75, 1.0, 1.0]);
        assert_eq!(Samples::from(5.0).spread(), 0.0);
        assert!(Samples::default().median().is_nan());
    }
}
