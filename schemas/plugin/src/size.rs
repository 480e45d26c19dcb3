//! Sizes in the form of the command line: `8GiB`, `512 MB`, `1048576`.
//!
//! Used for size parameters on the command line and for the device-config key `size`. The units are
//! exact: `KiB` is 1024 bytes, `kB` is 1000. One letter alone is the binary unit, as for truncate(1)
//! and qemu-img.

use std::fmt;

/// Every unit and its bytes; found without regard to case.
const UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
];

/// The largest size that the toolstack can represent: its sizes are signed.
const SIZE_BYTES_MAX: u64 = i64::MAX as u64;

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeError {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    NoNumber,
    Fraction,
    UnknownUnit(String),
    TooLarge,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a size: ", self.text)?;
        match &self.kind {
            Kind::NoNumber => f.write_str("it has to start with a number"),
            Kind::Fraction => f.write_str("the number has to be whole; use a smaller unit"),
            Kind::UnknownUnit(unit) => write!(f, "there is no unit {unit:?}"),
            Kind::TooLarge => write!(f, "it is more than {SIZE_BYTES_MAX} bytes"),
        }?;
        f.write_str(" (write bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB)")
    }
}

impl std::error::Error for SizeError {}

/// The bytes that a text like `8GiB` stands for.
///
/// ```
/// use smapiv3_plugin::size;
///
/// assert_eq!(size::parse("8GiB"), Ok(8 << 30));
/// let error = size::parse("8 giant").unwrap_err().to_string();
/// assert!(error.starts_with(r#""8 giant" is not a size: there is no unit "giant""#));
/// ```
///
/// # Errors
/// What is wrong with the text, in a sentence for an administrator.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let error = |kind| SizeError { text: text.to_owned(), kind };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(error(Kind::NoNumber));
    }
    if unit.starts_with(['.', ',']) {
        return Err(error(Kind::Fraction));
    }
    let factor = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, bytes)) => *bytes,
        None if unit.is_empty() => 1,
        None => return Err(error(Kind::UnknownUnit(unit.to_owned()))),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes <= SIZE_BYTES_MAX)
        .ok_or_else(|| error(Kind::TooLarge))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1B", 1),
            ("8GiB", 8 << 30),
            ("8gib", 8 << 30),
            (" 8 GiB ", 8 << 30),
            ("8G", 8 << 30),
            ("3k", 3072),
            ("3kB", 3000),
            ("5MB", 5_000_000),
            ("5MiB", 5 << 20),
            ("2GB", 2_000_000_000),
            ("1TiB", 1 << 40),
            ("1TB", 1_000_000_000_000),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_why_with_the_text() {
        for (text, why) in [
            ("", "start with a number"),
            ("GiB", "start with a number"),
            ("-1", "start with a number"),
            ("+1", "start with a number"),
            ("1.5GiB", "whole"),
            ("1,5GiB", "whole"),
            ("8GiBs", "no unit \"GiBs\""),
            ("8 G iB", "no unit"),
            ("0x10", "no unit"),
            ("9223372036854775808", "more than"),
            ("99999999999999999999999", "more than"),
            ("8388608TiB", "more than"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
            assert!(message.starts_with(&format!("{text:?} is not a size")), "{message}");
        }
    }
}
