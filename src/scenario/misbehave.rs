//! The misbehaviours of a devnode, as far as a plan has to know them.

/// A word, whether it takes a value, and whether the node's voting power can then not be counted on.
const KNOWN: &[(&str, Value, bool)] = &[
    ("stall-as-proposer", Value::None, false),
    ("silent", Value::None, true),
    ("freeze", Value::None, true),
    ("lag", Value::None, true),
    ("hang", Value::None, false),
    ("wrong-hash", Value::None, false),
    ("app-hash", Value::None, false),
    ("go-back", Value::Blocks, false),
    ("slow-start", Value::Duration, false),
    ("crash", Value::None, true),
    ("deadlock", Value::Pair, true),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    Blocks,
    Duration,
    Pair,
}

/// Whether the power of a node that does this cannot be counted on.
///
/// # Errors
/// Why there is no such misbehaviour, and the way out.
pub(super) fn byzantine(how: &str) -> Result<bool, (String, String)> {
    let (rest, height) = match how.split_once('@') {
        Some((rest, height)) => (rest, Some(height)),
        None => (how, None),
    };
    if let Some(height) = height
        && !height.parse::<u64>().is_ok_and(|height| height > 0)
    {
        let help = "after `@` stands the height at which it begins, at least 1, as in \"wrong-hash@12\"";
        return Err((format!("\"{height}\" is no height"), help.into()));
    }
    let (word, value) = match rest.split_once('=') {
        Some((word, value)) => (word, Some(value)),
        None => (rest, None),
    };
    let Some((_, wants, byzantine)) = KNOWN.iter().find(|(known, _, _)| *known == word) else {
        let help = super::diag::did_you_mean(word, KNOWN.iter().map(|(known, _, _)| *known));
        return Err((format!("a devnode cannot be told \"{word}\""), help));
    };
    let (fits, help) = match (wants, value) {
        (_, None) => (true, ""),
        (Value::None, Some(_)) => (false, "this one takes no value"),
        (Value::Blocks, Some(value)) => (
            value.parse::<u64>().is_ok_and(|blocks| blocks > 0),
            "the value is a number of blocks, as in \"go-back=3\"",
        ),
        (Value::Duration, Some(value)) => (
            humantime::parse_duration(value).is_ok(),
            "the value is a duration, as in \"slow-start=3s\"",
        ),
        (Value::Pair, Some(value)) => (
            value.split_once('+').is_some_and(|(one, other)| {
                let place = |text: &str| text.parse::<usize>().ok();
                place(one).is_some() && place(other).is_some() && place(one) != place(other)
            }),
            "the value names two validators by their place in the genesis, as in \"deadlock=1+4\"",
        ),
    };
    if fits {
        Ok(*byzantine)
    } else {
        Err((format!("\"{rest}\" has a value that does not fit"), help.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_devnode() {
        let theirs: Vec<&str> = crate::devnode::misbehave::ALL
            .iter()
            .map(|known| known.name())
            .collect();
        let ours: Vec<&str> = KNOWN.iter().map(|(word, _, _)| *word).collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn words_values_and_heights() {
        assert_eq!(byzantine("wrong-hash@12"), Ok(false));
        assert_eq!(byzantine("go-back=3@20"), Ok(false));
        assert_eq!(byzantine("silent"), Ok(true));
        for bad in [
            "wrong-hash@0",
            "wrong-hash@x",
            "silent=1",
            "go-back=0",
            "slow-start=3",
            "lie",
            "",
        ] {
            assert!(byzantine(bad).is_err(), "{bad}");
        }
    }
}
