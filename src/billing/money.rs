//! Money: integer nano-dollars, checked arithmetic, no floats.

use std::fmt;
use std::iter::Sum;

/// Nano-dollars (10^-9 USD). The range is about ±9.2 billion USD.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Nanos(pub i64);

/// What is wrong with an amount that was sent to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number.
    #[error("expected a decimal string such as \"5.00\"")]
    Malformed,
    /// Finer than a nano-dollar.
    #[error("at most nine decimal places are kept")]
    TooFine,
    /// Outside the range of [`Nanos`].
    #[error("the amount is out of range")]
    OutOfRange,
}

impl Nanos {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One dollar.
    pub const DOLLAR: Self = Self(1_000_000_000);

    /// The sum, if it fits.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, if it fits.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Reads a decimal string such as `5`, `5.00` or `-0.000000001`.
    ///
    /// # Errors
    /// When it is not a plain decimal number, has more than nine places, or does not fit.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) {
            return Err(MoneyError::Malformed);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 9 {
            return Err(MoneyError::TooFine);
        }
        let joined = format!("{whole}{fraction:0<9}");
        let nanos: i64 = joined.parse().map_err(|_| MoneyError::OutOfRange)?;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        write!(out, "{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
    }
}

impl fmt::Debug for Nanos {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self} USD")
    }
}

impl Sum for Nanos {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        Self(amounts.fold(0, |sum, amount| sum.saturating_add(amount.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_survives_being_written_and_read() {
        for nanos in [0, 1, -1, 412_500, 9_999_995_900, i64::MAX, -i64::MAX] {
            assert_eq!(Nanos::parse(&Nanos(nanos).to_string()), Ok(Nanos(nanos)));
        }
        assert_eq!(Nanos(412_500).to_string(), "0.000412500");
        assert_eq!(Nanos::parse("5.00"), Ok(Nanos(5_000_000_000)));
        assert_eq!(Nanos::parse("5"), Ok(Nanos(5_000_000_000)));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", ".", "5.", ".5", "1e3", "+1", "--1", "1.2.3", "five", " 1", "1_000"] {
            assert_eq!(Nanos::parse(text), Err(MoneyError::Malformed), "{text}");
        }
        assert_eq!(Nanos::parse("0.0000000001"), Err(MoneyError::TooFine));
        assert_eq!(Nanos::parse("9300000000"), Err(MoneyError::OutOfRange));
    }
}
