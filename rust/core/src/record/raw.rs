//! One record as it stands in the file: every field borrowed, and none trusted to have the type it should.
//!
//! A number where text belongs must cost one row, not the file, so a field is read as whatever it is and judged later.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// A field that should hold text.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) enum Field<'a> {
    #[default]
    Missing,
    Null,
    Text(Cow<'a, str>),
    /// A list or an object: tools, content in parts.
    Json(Value),
    /// A number or a boolean.
    Scalar(f64),
}

/// One turn of `conversations` or `messages`.
#[derive(Debug, Default)]
pub(super) struct RawTurn<'a> {
    pub(super) role: Field<'a>,
    pub(super) content: Field<'a>,
    pub(super) reasoning: Field<'a>,
    pub(super) tool_calls: Field<'a>,
    pub(super) loss: Field<'a>,
    pub(super) others: Vec<Cow<'a, str>>,
}

/// The list of turns, if it is one.
#[derive(Debug, Default)]
pub(super) enum Turns<'a> {
    #[default]
    Missing,
    List(Vec<Option<RawTurn<'a>>>),
    Other,
}

/// `history`: pairs of question and answer.
#[derive(Debug, Default)]
pub(super) enum History<'a> {
    #[default]
    Missing,
    Pairs(Vec<Vec<Field<'a>>>),
    Other,
}

/// A whole record: the fields of every known format, and the names of the others.
#[derive(Debug, Default)]
pub(super) struct Raw<'a> {
    pub(super) instruction: Field<'a>,
    pub(super) input: Field<'a>,
    pub(super) output: Field<'a>,
    pub(super) history: History<'a>,
    pub(super) system: Field<'a>,
    pub(super) tools: Field<'a>,
    pub(super) conversations: Turns<'a>,
    pub(super) messages: Turns<'a>,
    pub(super) others: Vec<Cow<'a, str>>,
    pub(super) repeated: Option<Cow<'a, str>>,
}

/// A record, or not even an object.
#[derive(Debug)]
pub(super) enum Record<'a> {
    Object(Box<Raw<'a>>),
    NotAnObject,
}

struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A visitor that takes every JSON type; each reader below overrides the ones it understands.
macro_rules! any_type {
    ($name:ident, $value:ty, $($own:item)*) => {
        struct $name;
        impl<'de> Visitor<'de> for $name {
            type Value = $value;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result { f.write_str("any JSON value") }
            $($own)*
        }
    };
}

any_type! { FieldVisitor, Field<'de>,
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> { Ok(Field::Text(Cow::Borrowed(text))) }
    fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> { Ok(Field::Text(Cow::Owned(text.to_owned()))) }
    fn visit_unit<E>(self) -> Result<Field<'de>, E> { Ok(Field::Null) }
    fn visit_bool<E>(self, value: bool) -> Result<Field<'de>, E> { Ok(Field::Scalar(f64::from(u8::from(value)))) }
    fn visit_i64<E>(self, value: i64) -> Result<Field<'de>, E> { Ok(Field::Scalar(value as f64)) }
    fn visit_u64<E>(self, value: u64) -> Result<Field<'de>, E> { Ok(Field::Scalar(value as f64)) }
    fn visit_f64<E>(self, value: f64) -> Result<Field<'de>, E> { Ok(Field::Scalar(value)) }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Field<'de>, A::Error> {
        Value::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(Field::Json)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field<'de>, A::Error> {
        Value::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Field::Json)
    }
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

any_type! { TurnVisitor, Option<RawTurn<'de>>,
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok(None) }
    fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok(None) }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok(None) }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok(None) }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok(None) }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok(None) }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut turn = RawTurn::default();
        while let Some(Text(key)) = map.next_key()? {
            let slot = match key.as_ref() {
                "role" | "from" => &mut turn.role,
                "content" | "value" => &mut turn.content,
                "reasoning_content" | "reasoning" => &mut turn.reasoning,
                "tool_calls" => &mut turn.tool_calls,
                "loss" | "loss_weight" | "weight" | "train" => &mut turn.loss,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    turn.others.push(key);
                    continue;
                }
            };
            *slot = map.next_value()?;
        }
        Ok(Some(turn))
    }
}

struct Turn<'a>(Option<RawTurn<'a>>);

impl<'de> Deserialize<'de> for Turn<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TurnVisitor).map(Turn)
    }
}

/// A list whose items are read as `$item`; anything else is "other".
macro_rules! list_of {
    ($visitor:ident, $target:ident, $item:ty, $list:expr) => {
        any_type! { $visitor, $target<'de>,
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok($target::Other) }
            fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok($target::Missing) }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok($target::Other) }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok($target::Other) }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok($target::Other) }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok($target::Other) }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok($target::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<$item>()? {
                    items.push(item);
                }
                Ok($list(items))
            }
        }
        impl<'de> Deserialize<'de> for $target<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($visitor)
            }
        }
    };
}

list_of!(TurnsVisitor, Turns, Turn<'de>, |items: Vec<Turn<'de>>| {
    Turns::List(items.into_iter().map(|t| t.0).collect())
});
list_of!(PairVisitor, Pair, Field<'de>, Pair::Items);
list_of!(HistoryVisitor, History, Pair<'de>, |pairs: Vec<Pair<'de>>| {
    let pairs: Option<Vec<_>> = pairs
        .into_iter()
        .map(|pair| match pair {
            Pair::Items(items) => Some(items),
            Pair::Missing | Pair::Other => None,
        })
        .collect();
    pairs.map_or(History::Other, History::Pairs)
});

enum Pair<'a> {
    Missing,
    Items(Vec<Field<'a>>),
    Other,
}

any_type! { RecordVisitor, Record<'de>,
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok(Record::NotAnObject) }
    fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok(Record::NotAnObject) }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok(Record::NotAnObject) }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok(Record::NotAnObject) }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok(Record::NotAnObject) }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok(Record::NotAnObject) }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Record::NotAnObject)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut raw = Box::new(Raw::default());
        // One bit a known key: a second occurrence is a contradiction in the data.
        let mut seen = 0_u16;
        while let Some(Text(key)) = map.next_key()? {
            let number = KEYS.iter().position(|k| *k == key);
            if let Some(number) = number {
                if seen & (1 << number) != 0 {
                    raw.repeated = Some(key.clone());
                }
                seen |= 1 << number;
            }
            match key.as_ref() {
                "instruction" => raw.instruction = map.next_value()?,
                "input" => raw.input = map.next_value()?,
                "output" => raw.output = map.next_value()?,
                "history" => raw.history = map.next_value()?,
                "system" => raw.system = map.next_value()?,
                "tools" => raw.tools = map.next_value()?,
                "conversations" => raw.conversations = map.next_value()?,
                "messages" => raw.messages = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    raw.others.push(key);
                }
            }
        }
        Ok(Record::Object(raw))
    }
}

/// The keys that any format gives a meaning to.
pub(super) const KEYS: [&str; 8] =
    ["instruction", "input", "output", "history", "system", "tools", "conversations", "messages"];

impl<'de> Deserialize<'de> for Record<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecordVisitor)
    }
}
