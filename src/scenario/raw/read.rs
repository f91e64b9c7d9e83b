//! Reading tables and words: every value with its place, every mistake a problem.

use std::borrow::Cow;
use std::ops::{Deref, Range};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::scenario::diag::{Problem, did_you_mean};
use crate::scenario::explain as code;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(in crate::scenario) struct At<T> {
    /// The key that introduces it; in a list, the value itself.
    pub(in crate::scenario) key: Range<usize>,
    /// The value.
    pub(in crate::scenario) at: Range<usize>,
    pub(in crate::scenario) value: T,
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What can be read out of a TOML value. `None` always leaves a problem behind.
pub(in crate::scenario) trait Read: Sized {
    fn read(from: &From<'_, '_>, out: &mut Vec<Problem>) -> Option<Self>;
}

/// A value that is to be read.
#[derive(Clone, Debug)]
pub(in crate::scenario) struct From<'a, 'i> {
    /// The key, for messages.
    pub(super) name: &'a str,
    /// Where the key stands.
    pub(super) key: Range<usize>,
    /// Where the value stands.
    pub(super) at: Range<usize>,
    pub(super) value: &'a DeValue<'i>,
}

impl<'a, 'i> From<'a, 'i> {
    pub(super) fn entry(key: &'a Spanned<DeString<'i>>, value: &'a Spanned<DeValue<'i>>) -> Self {
        Self {
            name: key.get_ref().as_ref(),
            key: key.span(),
            at: value.span(),
            value: value.get_ref(),
        }
    }

    pub(super) fn read<T: Read>(&self, out: &mut Vec<Problem>) -> Option<At<T>> {
        Some(At {
            key: self.key.clone(),
            at: self.at.clone(),
            value: T::read(self, out)?,
        })
    }

    /// Complains that the value is of another type than `wanted`.
    pub(super) fn wrong_type(&self, wanted: &str, help: &str, out: &mut Vec<Problem>) {
        let seen = describe(self.value);
        let mut problem = Problem::new(
            code::WRONG_TYPE,
            &self.at,
            format!("`{}` wants {wanted}, not {seen}", self.name),
        )
        .label(format!("this is {seen}"));
        if !help.is_empty() {
            problem = problem.help(help);
        }
        out.push(problem);
    }

    /// The entries of a table in the order of the file.
    pub(super) fn table(&self, title: &str, out: &mut Vec<Problem>) -> Option<Entries<'a, 'i>> {
        let DeValue::Table(table) = self.value else {
            self.wrong_type(
                "a table",
                &format!("{title} is written `{} = {{ key = value, … }}`", self.name),
                out,
            );
            return None;
        };
        Some(entries(table))
    }
}

type Entries<'a, 'i> = Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)>;

fn entries<'a, 'i>(table: &'a DeTable<'i>) -> Entries<'a, 'i> {
    let mut entries: Entries<'a, 'i> = table.iter().collect();
    // The parser sorts by name; people think in the order that they wrote.
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Reads a whole document. Where its syntax is broken, only that is said: what comes after cannot be trusted.
pub(in crate::scenario) fn read<T: Read>(source: &str, out: &mut Vec<Problem>) -> Option<T> {
    let (root, errors) = DeTable::parse_recoverable(source);
    if !errors.is_empty() {
        syntax(source, &errors, out);
        return None;
    }
    let root = DeValue::Table(root.into_inner());
    T::read(
        &From {
            name: "the scenario",
            key: 0..0,
            at: 0..0,
            value: &root,
        },
        out,
    )
}

/// One problem for a line that cannot be read, five at most. After something that is never closed all else is noise.
fn syntax(source: &str, errors: &[toml::de::Error], out: &mut Vec<Problem>) {
    let mut found: Vec<(Range<usize>, &str)> = errors
        .iter()
        .map(|error| (error.span().unwrap_or(0..0), error.message()))
        .collect();
    found.sort_by_key(|(span, _)| span.start);
    let unclosed = found.iter().any(|(_, message)| message.starts_with("unclosed"));
    let mut lines = std::collections::BTreeSet::new();
    for (span, message) in found {
        let line = crate::scenario::diag::place(source, span.start).0;
        if lines.len() == 5 || (unclosed && lines.len() == 1) || !lines.insert(line) {
            continue;
        }
        out.push(
            Problem::new(code::SYNTAX, &span, format!("this is not TOML: {message}"))
                .label("cannot be read")
                .help("text stands in quotes, lists in [ ], tables in { } on one line or under a [header]; see https://toml.io"),
        );
    }
}

/// A Rust field as the file writes it.
pub(super) fn word(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

pub(super) fn unknown_key(key: &Spanned<DeString<'_>>, title: &str, known: &[&str]) -> Problem {
    let name = key.get_ref().as_ref();
    if let Some((_, why)) = LATER.iter().find(|(word, _)| *word == name)
        && !known.contains(&name)
    {
        return Problem::new(
            code::NOT_YET,
            &key.span(),
            format!("`{name}` is not part of this version: {why}"),
        )
        .label("not yet")
        .help(format!("known in {title}: {}", known.join(", ")));
    }
    Problem::new(code::UNKNOWN_KEY, &key.span(), format!("{title} has no key `{name}`"))
        .label("unknown key")
        .help(did_you_mean(name, known.iter().copied()))
}

/// Words of the language that a later version brings, each with what it will do.
const LATER: &[(&str, &str)] = &[
    (
        "rollback",
        "it will take an upgrade back by itself; `upgrade` to the older version does so too",
    ),
    ("matrix", "it will run a file over versions, sizes and seeds"),
    ("clock", "it will shift a node's clock"),
    ("disk", "it will fill or slow a node's disk"),
];

pub(super) fn missing_key(from: &From<'_, '_>, title: &str, key: &str, known: &[&str]) -> Problem {
    Problem::new(code::MISSING_KEY, &from.key, format!("{title} needs the key `{key}`"))
        .label(format!("`{key}` is missing"))
        .help(format!("keys of {title}: {}", known.join(", ")))
}

pub(super) fn unknown_word(from: &From<'_, '_>, word: &str, known: &[&str], later: &[&str]) -> Problem {
    let name = from.name;
    if later.contains(&word) {
        return Problem::new(
            code::NOT_YET,
            &from.at,
            format!("`{name} = \"{word}\"` is not part of this version"),
        )
        .label("not yet")
        .help(format!("known now: {}", known.join(", ")));
    }
    Problem::new(code::UNKNOWN_WORD, &from.at, format!("`{name}` cannot be \"{word}\""))
        .label("unknown word")
        .help(did_you_mean(word, known.iter().copied()))
}

/// A table of the language: its keys, required ones first, with a reader that finds every mistake.
macro_rules! table {
    ($(#[$meta:meta])* $name:ident $title:literal {
        needs { $($(#[$need_meta:meta])* $need:ident: $need_type:ty,)* }
        may { $($(#[$may_meta:meta])* $may:ident: $may_type:ty,)* }
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[$need_meta])* #[schemars(required)] pub(super) $need: Option<At<$need_type>>,)*
            $($(#[$may_meta])* pub(super) $may: Option<At<$may_type>>,)*
            /// Every key that the table has, known or not.
            #[schemars(skip)]
            pub(super) table: Vec<(String, std::ops::Range<usize>)>,
        }

        impl $crate::scenario::raw::read::Read for $name {
            fn read(
                from: &$crate::scenario::raw::read::From<'_, '_>,
                out: &mut Vec<$crate::scenario::diag::Problem>,
            ) -> Option<Self> {
                use $crate::scenario::raw::read::{From, unknown_key, word};
                let known: &[&str] = &[$(word(stringify!($need)),)* $(word(stringify!($may)),)*];
                let mut read = Self::default();
                for (key, value) in from.table($title, out)? {
                    let entry = From::entry(key, value);
                    read.table.push((entry.name.to_owned(), key.span()));
                    match entry.name {
                        $(name if name == word(stringify!($need)) => read.$need = entry.read(out),)*
                        $(name if name == word(stringify!($may)) => read.$may = entry.read(out),)*
                        _ => out.push(unknown_key(key, $title, known)),
                    }
                }
                $(
                    if !read.table.iter().any(|(key, _)| key == word(stringify!($need))) {
                        out.push($crate::scenario::raw::read::missing_key(from, $title, word(stringify!($need)), known));
                    }
                )*
                Some(read)
            }
        }
    };
}
pub(super) use table;

/// A choice between words, each standing for a value of the model; `later` words are known but refused.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident $key:literal -> $model:ty {
        $($(#[doc = $doc:literal])* $word:literal => $value:expr,)*
    } later { $($later:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(pub(super) $model);

        impl $crate::scenario::raw::read::Read for $name {
            fn read(
                from: &$crate::scenario::raw::read::From<'_, '_>,
                out: &mut Vec<$crate::scenario::diag::Problem>,
            ) -> Option<Self> {
                let text = <String as $crate::scenario::raw::read::Read>::read(from, out)?;
                match text.as_str() {
                    $($word => Some(Self($value)),)*
                    other => {
                        out.push($crate::scenario::raw::read::unknown_word(from, other, &[$($word),*], &[$($later),*]));
                        None
                    }
                }
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $key.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "oneOf": [$({ "const": $word, "description": concat!($($doc),*).trim() }),*],
                })
            }
        }
    };
}
pub(super) use words;
