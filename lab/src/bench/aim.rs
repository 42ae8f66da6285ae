//! What the project aims at, beside what was measured.

use std::fmt;

/// One figure and its bound.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aim {
    what: String,
    measured: f64,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Reached where the figure is not above the bound.
pub(crate) fn at_most(what: impl Into<String>, measured: f64, bound: f64) -> Aim {
    Aim { what: what.into(), measured, bound: Bound::AtMost(bound) }
}

/// Reached where the figure is not below the bound.
pub(crate) fn at_least(what: impl Into<String>, measured: f64, bound: f64) -> Aim {
    Aim { what: what.into(), measured, bound: Bound::AtLeast(bound) }
}

impl Aim {
    fn is_reached(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.measured <= bound,
            Bound::AtLeast(bound) => self.measured >= bound,
        }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_reached() { "reached" } else { "MISSED" };
        let (words, bound) = match self.bound {
            Bound::AtMost(bound) => ("at most", bound),
            Bound::AtLeast(bound) => ("at least", bound),
        };
        write!(f, "aim: {}: {words} {bound}; measured {}: {verdict}", self.what, figure(self.measured))
    }
}

/// With three digits that count.
fn figure(number: f64) -> String {
    let decimals = match number.abs() {
        0.1..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        number if number < 0.1 => 4,
        _ => 0,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_itself_is_reached() {
        assert!(at_most("a", 10.0, 10.0).is_reached() && at_least("b", 200.0, 200.0).is_reached());
        assert!(!at_most("a", 10.01, 10.0).is_reached() && !at_least("b", 199.9, 200.0).is_reached());
    }

    #[test]
    fn an_aim_says_bound_figure_and_verdict() {
        assert_eq!(
            at_most("a sample, in µs", 12.34, 10.0).to_string(),
            "aim: a sample, in µs: at most 10; measured 12.3: MISSED"
        );
        assert_eq!(
            at_least("ss -s", 731.2, 200.0).to_string(),
            "aim: ss -s: at least 200; measured 731: reached"
        );
    }
}
