//! Sizes: Kubernetes quantities to bytes, and bytes to words.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The number of bytes that a quantity stands for, rounded down; none if it is not a quantity of bytes.
///
/// The format is that of the Kubernetes API: a decimal number with a binary (`Ki` … `Ei`) or decimal (`k` … `E`, `m`) suffix, or an exponent.
#[must_use]
pub fn bytes_of(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * factor;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be finite and not negative; a float cast saturates")]
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

/// Bytes as people write a quantity: in whole `Gi` or `Mi` where they are whole.
#[must_use]
pub fn quantity_of(bytes: u64) -> Quantity {
    let whole = [(30, "Gi"), (20, "Mi"), (10, "Ki")].into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    Quantity(whole.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift)))
}

/// Bytes in the words of people: `1.5 GiB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_the_api_writes_them() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1073741824", Some(1 << 30)),
            ("1Gi", Some(1 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("20G", Some(20_000_000_000)),
            ("128974848000m", Some(128_974_848)),
            ("12e6", Some(12_000_000)),
            ("1E3", Some(1000)),
            ("2E", Some(2_000_000_000_000_000_000)),
            ("Gi", None),
            ("-1Gi", None),
            ("1Xi", None),
            ("", None),
        ] {
            assert_eq!(bytes_of(&Quantity(text.into())), bytes, "{text}");
        }
    }

    #[test]
    fn bytes_are_written_with_one_decimal() {
        assert_eq!(format_bytes(1000), "1000 bytes");
        assert_eq!(format_bytes(1536 << 20), "1.5 GiB");
        assert_eq!(format_bytes(16 << 20), "16.0 MiB");
        assert_eq!(quantity_of(5 << 30).0, "5Gi");
        assert_eq!(quantity_of(1536 << 20).0, "1536Mi");
        assert_eq!(quantity_of(1000).0, "1000");
    }
}
