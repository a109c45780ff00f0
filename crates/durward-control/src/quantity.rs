//! Durations, sizes and rates as people write them: `10s`, `64KiB`, `10MiB/s`.
//!
//! Deliberately absent: bare numbers for durations; a reader must not have to guess the unit.

use std::time::Duration;

use thiserror::Error;

/// Reason why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuantityFault {
    /// Not a duration.
    #[error(
        "{written:?} is not a duration: write a number with a unit, like 500ms, 10s, 5m, 1h30m or 2d"
    )]
    Duration {
        /// Text as written.
        written: String,
    },
    /// Not a size.
    #[error("{written:?} is not a size: write a number with a unit, like 512B, 64KiB, 1MB or 2GiB")]
    Size {
        /// Text as written.
        written: String,
    },
    /// Not a rate.
    #[error(
        "{written:?} is not a rate: write a size per second, like 10MiB/s, or bits, like 100Mbit/s"
    )]
    Rate {
        /// Text as written.
        written: String,
    },
    /// Out of range.
    #[error("{written:?} is out of range: {limit}")]
    Range {
        /// Text as written.
        written: String,
        /// Range that is allowed.
        limit: &'static str,
    },
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A duration above zero and at most a year.
///
/// # Errors
/// When `written` is something else.
pub fn duration(written: &str) -> Result<Duration, QuantityFault> {
    let fault = || QuantityFault::Duration { written: written.to_owned() };
    let mut rest = written.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(fault());
    }
    while !rest.is_empty() {
        let (number, after) = number(rest).ok_or_else(fault)?;
        let unit_len = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit_len);
        let nanos_per_unit: u128 = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(fault()),
        };
        total = total.saturating_add(nanoseconds(number.times(nanos_per_unit).ok_or_else(fault)?));
        rest = after;
    }
    if total.is_zero() || total > YEAR {
        let limit = "more than 0 and at most 365d";
        return Err(QuantityFault::Range { written: written.to_owned(), limit });
    }
    Ok(total)
}

fn nanoseconds(nanos: u128) -> Duration {
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    let rest = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
    Duration::new(seconds, rest)
}

/// A size in bytes, above zero.
///
/// # Errors
/// When `written` is something else.
pub fn size(written: &str) -> Result<u64, QuantityFault> {
    let fault = || QuantityFault::Size { written: written.to_owned() };
    let (number, unit) = number(written.trim()).ok_or_else(fault)?;
    let unit = match unit.trim_start() {
        "" | "B" => 1,
        other => multiple(other.strip_suffix('B').unwrap_or(other)).ok_or_else(fault)?,
    };
    above_zero(written, number.times(unit).ok_or_else(fault)?)
}

/// A rate in bytes per second, above zero.
///
/// # Errors
/// When `written` is something else.
pub fn rate(written: &str) -> Result<u64, QuantityFault> {
    let fault = || QuantityFault::Rate { written: written.to_owned() };
    let per_second = written.trim().strip_suffix("/s").unwrap_or_else(|| written.trim());
    let Some(bits) = per_second.strip_suffix("bit") else {
        return size(per_second).map_err(|_| fault());
    };
    let (number, unit) = number(bits).ok_or_else(fault)?;
    let unit = if unit.is_empty() { 1 } else { multiple(unit).ok_or_else(fault)? };
    above_zero(written, number.times(unit).ok_or_else(fault)? / 8)
}

fn multiple(prefix: &str) -> Option<u128> {
    Some(match prefix {
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    })
}

fn above_zero(written: &str, number: u128) -> Result<u64, QuantityFault> {
    match u64::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(QuantityFault::Range {
            written: written.to_owned(),
            limit: "more than 0 and less than 16EiB",
        }),
    }
}

/// A decimal number, exactly.
#[derive(Clone, Copy)]
struct Decimal {
    digits: u128,
    scale: u128,
}

impl Decimal {
    /// The product, when it is a whole number.
    fn times(self, unit: u128) -> Option<u128> {
        let product = self.digits.checked_mul(unit)?;
        product.is_multiple_of(self.scale).then_some(product / self.scale)
    }
}

fn number(text: &str) -> Option<(Decimal, &str)> {
    let whole = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(whole);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
        None => ("", rest),
    };
    let dotted = text[whole..].starts_with('.');
    if digits.is_empty()
        || digits.len() > 18
        || fraction.len() > 9
        || (dotted && fraction.is_empty())
    {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{digits}{fraction}").parse().ok()?;
    Some((Decimal { digits, scale }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let cases = [
            ("500ms", 500),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("2d", 172_800_000),
        ];
        for (written, millis) in cases {
            assert_eq!(duration(written), Ok(Duration::from_millis(millis)), "{written}");
        }
        for bad in
            ["", "10", "s", "0s", "-1s", "10 s", "1y", "400d", "1.s", "9999999999999999999s", "∞"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_rates_tell_thousands_from_1024s() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("1.5KiB"), Ok(1_536));
        assert_eq!(rate("10MiB/s"), Ok(10 << 20));
        assert_eq!(rate("100Mbit/s"), Ok(12_500_000));
        for bad in ["", "KiB", "0", "1XB", "1 000", "-1", "99999999TiB", "1.3B"] {
            assert!(size(bad).is_err(), "{bad}");
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
