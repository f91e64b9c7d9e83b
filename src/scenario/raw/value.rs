//! Reading single values: text, numbers, durations, lists, maps, and the few that may be one thing or another.

use std::borrow::Cow;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use toml::de::{DeInteger, DeValue};

use super::read::{At, From, Read, unknown_word};
use crate::model::Ms;
use crate::scenario::diag::Problem;
use crate::scenario::explain as code;

impl Read for String {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        if let DeValue::String(text) = from.value {
            return Some(text.as_ref().to_owned());
        }
        let help = match from.value {
            DeValue::Integer(number) => format!("write `{} = \"{number}\"`", from.name),
            DeValue::Float(number) => format!("write `{} = \"{number}\"`", from.name),
            _ => String::new(),
        };
        from.wrong_type("a string", &help, out);
        None
    }
}

impl Read for bool {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        if let DeValue::Boolean(value) = from.value {
            return Some(*value);
        }
        from.wrong_type("true or false", "without quotes", out);
        None
    }
}

impl Read for u64 {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        let DeValue::Integer(number) = from.value else {
            let help = match from.value {
                DeValue::String(text) if text.parse::<u64>().is_ok() => {
                    format!("without quotes: `{} = {text}`", from.name)
                }
                _ => String::new(),
            };
            from.wrong_type("a whole number", &help, out);
            return None;
        };
        let read = whole(number);
        if read.is_none() {
            let message = format!(
                "`{}` wants a whole number from 0 to {}, not {number}",
                from.name,
                u64::MAX
            );
            out.push(Problem::new(code::OUT_OF_RANGE, &from.at, message).label("out of range"));
        }
        read
    }
}

fn whole(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

impl Read for f64 {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        let read = match from.value {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => None,
        };
        if read.is_none() {
            from.wrong_type("a number", "", out);
        }
        read
    }
}

impl<T: Read> Read for Vec<At<T>> {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        let DeValue::Array(array) = from.value else {
            let help = match from.value {
                DeValue::String(text) => format!("write a list, also for one: `{} = [\"{text}\"]`", from.name),
                DeValue::Table(_) if from.name == "steps" => {
                    "each step begins with `[[steps]]`, two brackets each".into()
                }
                _ => "a list stands in [ ], also a list of one".into(),
            };
            from.wrong_type("a list", &help, out);
            return None;
        };
        let read: Vec<Option<At<T>>> = array
            .iter()
            .map(|element| {
                let element = From {
                    name: from.name,
                    key: element.span(),
                    at: element.span(),
                    value: element.get_ref(),
                };
                element.read(out)
            })
            .collect();
        // A list of steps is still worth checking without those that cannot be read; a list of nodes is not the same without one.
        if from.name == "steps" {
            return Some(read.into_iter().flatten().collect());
        }
        read.into_iter().collect()
    }
}

/// A duration, written as a string with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::scenario) struct Time(pub(in crate::scenario) Ms);

impl Read for Time {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        let bad = |message: String, help: String| {
            Problem::new(code::BAD_DURATION, &from.at, message)
                .label("a duration is a string with a unit")
                .help(help)
        };
        let text = match from.value {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => {
                let message = format!("`{}` is a duration and needs a unit", from.name);
                out.push(bad(
                    message,
                    format!("write `{} = \"{number}s\"` for seconds, or \"{number}ms\"", from.name),
                ));
                return None;
            }
            DeValue::Float(number) => {
                let message = format!("`{}` is a duration and needs a unit", from.name);
                let millis = (number.as_str().parse::<f64>().unwrap_or(1.0) * 1000.0).round();
                out.push(bad(
                    message,
                    format!("write `{} = \"{millis}ms\"` for {number} seconds", from.name),
                ));
                return None;
            }
            _ => {
                from.wrong_type(
                    "a duration",
                    "a duration is a string with a unit, such as \"500ms\" or \"1m30s\"",
                    out,
                );
                return None;
            }
        };
        match duration(text) {
            Ok(time) => Some(Self(time)),
            Err(why) => {
                let help = match text.trim().parse::<u64>() {
                    Ok(number) => format!("\"{number}s\" for seconds, \"{number}ms\" for milliseconds"),
                    Err(_) => "units are ms, s, m and h, as in \"500ms\", \"5s\", \"1m30s\"".into(),
                };
                out.push(bad(format!("\"{text}\" is no duration: {why}"), help));
                None
            }
        }
    }
}

fn duration(text: &str) -> Result<Ms, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err("it is not a whole number of milliseconds".into());
    }
    Ok(duration.into())
}

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^\\s*[0-9]+\\s*[a-zA-Zµ]", "examples": ["500ms", "5s", "1m30s"] })
    }
}

/// Bits a second, as a whole number with a unit (the names that `tc` has for them; a kilobit is 1000 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scenario) struct Rate(pub(in crate::scenario) u64);

impl Read for Rate {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        let DeValue::String(text) = from.value else {
            from.wrong_type(
                "a rate",
                "a rate is a string with a unit, such as \"500kbit\" or \"10mbit\"",
                out,
            );
            return None;
        };
        let rate = bits(text.trim()).filter(|rate| LEAST_RATE <= *rate && *rate <= MOST_RATE);
        if rate.is_none() {
            let message = format!(
                "`{}` is a rate from \"100kbit\" to \"100mbit\", not \"{text}\"",
                from.name
            );
            let problem = Problem::new(code::OUT_OF_RANGE, &from.at, message)
                .label("not such a rate")
                .help("kbit and mbit are 1000 and 1000000 bits a second, as in \"500kbit\"; to let nothing pass, use `partition` or `isolate`");
            out.push(problem);
        }
        rate.map(Self)
    }
}

/// What can be measured: below, the burst that always passes is most of what does; above, more datagrams are sent than a small machine can.
const LEAST_RATE: u64 = 100_000;
const MOST_RATE: u64 = 100_000_000;

fn bits(text: &str) -> Option<u64> {
    let units = [("kbit", 1000), ("mbit", 1_000_000)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(unit)
}

impl JsonSchema for Rate {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "rate".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^\\s*[0-9]+\\s*(kbit|mbit)\\s*$", "examples": ["500kbit", "10mbit"] })
    }
}

/// How long a killed node is held down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scenario) enum Down {
    For(Ms),
    UntilStart,
    Platform,
}

impl Read for Down {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        match from.value {
            DeValue::String(text) if text == "until-start" => Some(Self::UntilStart),
            DeValue::String(text) if text == "platform" => Some(Self::Platform),
            DeValue::String(text) if !text.trim_start().starts_with(|first: char| first.is_ascii_digit()) => {
                let known = ["until-start", "platform", "a duration such as 5s"];
                out.push(unknown_word(from, text, &known, &[]));
                None
            }
            _ => Time::read(from, out).map(|time| Self::For(time.0)),
        }
    }
}

impl JsonSchema for Down {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "down".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["until-start", "platform"] }, Time::json_schema(generator)] })
    }
}

/// How slow links are: all alike, or by the names of two regions with a dash between them.
#[derive(Clone, Debug)]
pub(in crate::scenario) enum Latency {
    One(Time),
    Between(Named<Time>),
}

impl Read for Latency {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        match from.value {
            DeValue::Table(_) => Named::read(from, out).map(Self::Between),
            _ => Time::read(from, out).map(Self::One),
        }
    }
}

impl JsonSchema for Latency {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "latency".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [Time::json_schema(generator), Named::<Time>::json_schema(generator)] })
    }
}

/// One voting power for all nodes of a group, or one for each.
#[derive(Clone, Debug)]
pub(in crate::scenario) enum Power {
    One(u64),
    Each(Vec<At<u64>>),
}

impl Read for Power {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        match from.value {
            DeValue::Array(_) => Vec::read(from, out).map(Self::Each),
            DeValue::Integer(_) => u64::read(from, out).map(Self::One),
            _ => {
                let help = "write `power = 10`, or a list with one number a node: `power = [40, 30, 20, 10]`";
                from.wrong_type("a whole number or a list of them", help, out);
                None
            }
        }
    }
}

impl JsonSchema for Power {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "power".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = json_schema!({ "type": "integer", "minimum": 0 });
        json_schema!({ "anyOf": [number, { "type": "array", "items": number }] })
    }
}

/// A table whose keys are names that the file chooses, in the order of the file.
#[derive(Clone, Debug)]
pub(in crate::scenario) struct Named<T>(pub(in crate::scenario) Vec<(At<String>, At<T>)>);

impl<T: Read> Read for Named<T> {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        let before = out.len();
        let entries = from.table(&format!("`{}`", from.name), out)?;
        let wanted = entries.len();
        let read: Vec<_> = entries
            .into_iter()
            .filter_map(|(key, value)| {
                let name = name_of(key.span(), key.get_ref());
                Some((name, From::entry(key, value).read(out)?))
            })
            .collect();
        // Names that are missing here would be complained about wherever they are used.
        (read.len() == wanted || out.len() == before).then_some(Self(read))
    }
}

fn name_of(span: Range<usize>, name: &str) -> At<String> {
    At {
        key: span.clone(),
        at: span,
        value: name.to_owned(),
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("named-{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}

/// The chain's own keys: dotted names, whether quoted or nested in the file.
#[derive(Clone, Debug, Default)]
pub(in crate::scenario) struct Config(pub(in crate::scenario) Vec<(At<String>, At<serde_json::Value>)>);

impl Read for Config {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self> {
        let mut found = Vec::new();
        collect("", from, &mut found, out)?;
        Some(Self(found))
    }
}

fn collect(
    prefix: &str,
    from: &From<'_, '_>,
    found: &mut Vec<(At<String>, At<serde_json::Value>)>,
    out: &mut Vec<Problem>,
) -> Option<()> {
    for (key, value) in from.table("`config`", out)? {
        let entry = From::entry(key, value);
        let name = format!("{prefix}{}", entry.name);
        if matches!(entry.value, DeValue::Table(_)) {
            collect(&format!("{name}."), &entry, found, out)?;
            continue;
        }
        let value = At {
            key: entry.key.clone(),
            at: entry.at.clone(),
            value: json(entry.value),
        };
        found.push((name_of(key.span(), &name), value));
    }
    Some(())
}

fn json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).map_or_else(
            |_| whole(number).map_or_else(|| number.to_string().into(), Into::into),
            Into::into,
        ),
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or(serde_json::Value::Null, Into::into),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(when) => when.to_string().into(),
        DeValue::Array(array) => array.iter().map(|element| json(element.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref().to_owned(), json(value.get_ref())))
            .collect(),
    }
}

impl JsonSchema for Config {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "config".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1m30s"), Ok(Ms(90_000)));
        assert_eq!(duration("500ms"), Ok(Ms(500)));
        assert!(duration("5").is_err());
        assert!(duration("10us").is_err());
        assert!(duration("").is_err());
    }
}
