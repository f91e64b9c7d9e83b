//! Quantities as Kubernetes writes them (`k8s.io/apimachinery/pkg/api/resource`, `quantity.go`).

/// A quantity in thousandths, rounded up; `None` for what is none, is negative, or is far too great.
#[must_use]
pub fn parse(text: &str) -> Option<u128> {
    let end = text
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.contains('.') || number.len() > 20 || whole.len() + part.len() == 0 {
        return None;
    }
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    // The value is digits × up ÷ down.
    let down = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let binary = |power| Some((1000 * 1024_u128.pow(power), 1));
    let decimal = |power| Some((10_u128.pow(3 + power), 1));
    let (up, suffix_down) = match suffix {
        "n" => Some((1, 1_000_000)),
        "u" => Some((1, 1_000)),
        "m" => Some((1, 1)),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match u32::try_from(power) {
                Ok(power @ 0..=18) => decimal(power),
                Err(_) if power >= -9 => Some((1000, 10_u128.pow(power.unsigned_abs()))),
                _ => None,
            }
        }
    }?;
    Some(digits.checked_mul(up)?.div_ceil(down * suffix_down))
}

/// An amount of cpu given in thousandths.
#[must_use]
pub fn cpu(thousandths: u128) -> String {
    format!("{thousandths}m")
}

/// A number of bytes given in thousandths.
#[must_use]
pub fn bytes(thousandths: u128) -> String {
    const MEBI: u128 = 1024 * 1024;
    let bytes = thousandths.div_ceil(1000);
    if bytes > 0 && bytes.is_multiple_of(MEBI) {
        format!("{}Mi", bytes / MEBI)
    } else {
        bytes.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, thousandths) in [
            ("0", 0),
            ("2", 2_000),
            ("50m", 50),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1_000),
            ("1.5Gi", 1_610_612_736_000),
            ("64Mi", 67_108_864_000),
            ("100M", 100_000_000_000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("5e-1", 500),
            ("1n", 1),
            ("1500u", 2),
        ] {
            assert_eq!(parse(text), Some(thousandths), "{text}");
        }
        for text in [
            "",
            "-1",
            "Mi",
            "1 Gi",
            "1mi",
            "1.2.3",
            ".",
            "1e99",
            "1e",
            "99999999999999999999Ei",
            "ä",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn quantities_are_written_so_that_they_are_read_again() {
        assert_eq!(cpu(250), "250m");
        assert_eq!(bytes(parse("64Mi").unwrap()), "64Mi");
        assert_eq!(bytes(parse("2Gi").unwrap()), "2048Mi");
        assert_eq!(bytes(parse("100M").unwrap()), "100000000");
        assert_eq!(bytes(0), "0");
    }
}
