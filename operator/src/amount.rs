//! Durations and sizes as people write them in a spec. Pure.

/// Returns the milliseconds of a duration such as `168h`, `7d` or `1h30m`; `None` if it is none, is zero or is too large.
pub fn milliseconds(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: u64 = match &rest[..unit_end] {
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        rest = &rest[unit_end..];
        total = total.checked_add(number.checked_mul(unit)?)?;
    }
    (total > 0).then_some(total)
}

/// Returns the bytes of a size such as `1048576`, `512Ki` or `20M`; `None` if it is none, is zero or is too large.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        for (text, ms) in [
            ("168h", Some(604_800_000)),
            ("7d", Some(604_800_000)),
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("1s1ms", Some(1_001)),
            ("", None),
            ("0s", None),
            ("5", None),
            ("h", None),
            ("1w", None),
            ("-1h", None),
            ("999999999999999999999d", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(milliseconds(text), ms, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_or_without_a_unit() {
        for (text, size) in [
            ("1048576", Some(1_048_576)),
            ("512Ki", Some(524_288)),
            ("1Mi", Some(1_048_576)),
            ("1Gi", Some(1_073_741_824)),
            ("20M", Some(20_000_000)),
            ("", None),
            ("0", None),
            ("Gi", None),
            ("1KiB", None),
            ("1.5Gi", None),
            ("99999999999Ti", None),
        ] {
            assert_eq!(bytes(text), size, "{text:?}");
        }
    }
}
