//! One record as it stands in the file: every field borrowed, and none trusted to have the type it should.
//!
//! A number where text belongs must cost one row, not the file, so a field is read as whatever it is and judged later.

use super::layout::{Key, Layout, TurnKey};
use super::unique::{ReadValue, Repeated};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
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

impl Field<'_> {
    /// Whether the field has no value: missing, null or empty text.
    fn is_absent(&self) -> bool {
        match self {
            Self::Missing | Self::Null => true,
            Self::Text(text) => text.is_empty(),
            Self::Json(_) | Self::Scalar(_) => false,
        }
    }
}

/// One turn of `conversations` or `messages`.
#[derive(Debug, Default)]
pub(super) struct RawTurn<'a> {
    pub(super) role: Field<'a>,
    pub(super) content: Field<'a>,
    pub(super) reasoning: Field<'a>,
    pub(super) tool_calls: Field<'a>,
    pub(super) function_call: Field<'a>,
    pub(super) loss: Field<'a>,
    pub(super) others: Vec<Cow<'a, str>>,
    /// Keys that only the template knows.
    pub(super) kept: serde_json::Map<String, Value>,
    /// The thoughts are under `thinking`, which is not the name that templates know them by.
    pub(super) thinking: bool,
    /// A key that gives another value to what an earlier key of the turn gave one.
    pub(super) repeated: Option<Cow<'a, str>>,
}

/// The list of turns, if it is one.
#[derive(Debug, Default)]
pub(super) enum Turns<'a> {
    #[default]
    Missing,
    List(Vec<Option<RawTurn<'a>>>),
    Other,
}

impl Turns<'_> {
    /// How many turns have their thoughts under `thinking`.
    pub(super) fn with_thinking(&self) -> usize {
        match self {
            Self::List(turns) => turns.iter().flatten().filter(|turn| turn.thinking).count(),
            Self::Missing | Self::Other => 0,
        }
    }
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
    /// A key that occurs twice in one object: in the record, a turn, or JSON inside it.
    pub(super) repeated: Option<String>,
}

impl Raw<'_> {
    /// Whether the record has this key, with whatever value.
    pub(super) fn has(&self, key: Key) -> bool {
        match key {
            Key::Instruction => self.instruction != Field::Missing,
            Key::Input => self.input != Field::Missing,
            Key::Output => self.output != Field::Missing,
            Key::System => self.system != Field::Missing,
            Key::Tools => self.tools != Field::Missing,
            Key::History => !matches!(self.history, History::Missing),
            Key::Conversations => !matches!(self.conversations, Turns::Missing),
            Key::Messages => !matches!(self.messages, Turns::Missing),
        }
    }
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

/// A reader of any JSON type; each one below overrides the types it understands.
macro_rules! any_type {
    ($name:ty, $value:ty, $($own:item)*) => {
        impl<'de> Visitor<'de> for $name {
            type Value = $value;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result { f.write_str("any JSON value") }
            $($own)*
        }
        impl<'de> DeserializeSeed<'de> for $name {
            type Value = $value;
            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<$value, D::Error> {
                deserializer.deserialize_any(self)
            }
        }
    };
}

struct ReadField<'l>(&'l Repeated);

any_type! { ReadField<'_>, Field<'de>,
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> { Ok(Field::Text(Cow::Borrowed(text))) }
    fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> { Ok(Field::Text(Cow::Owned(text.to_owned()))) }
    fn visit_unit<E>(self) -> Result<Field<'de>, E> { Ok(Field::Null) }
    fn visit_bool<E>(self, value: bool) -> Result<Field<'de>, E> { Ok(Field::Scalar(f64::from(u8::from(value)))) }
    fn visit_i64<E>(self, value: i64) -> Result<Field<'de>, E> { Ok(Field::Scalar(value as f64)) }
    fn visit_u64<E>(self, value: u64) -> Result<Field<'de>, E> { Ok(Field::Scalar(value as f64)) }
    fn visit_f64<E>(self, value: f64) -> Result<Field<'de>, E> { Ok(Field::Scalar(value)) }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Field<'de>, A::Error> {
        ReadValue(self.0).visit_seq(seq).map(Field::Json)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field<'de>, A::Error> {
        ReadValue(self.0).visit_map(map).map(Field::Json)
    }
}

struct ReadTurn<'l>(&'l Layout, &'l Repeated);

any_type! { ReadTurn<'_>, Option<RawTurn<'de>>,
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
            let is_thinking = key == "thinking";
            let slot = match self.0.turn_key(&key) {
                Some(TurnKey::Role) => &mut turn.role,
                Some(TurnKey::Content) => &mut turn.content,
                Some(TurnKey::Reasoning) => &mut turn.reasoning,
                Some(TurnKey::ToolCalls) => &mut turn.tool_calls,
                Some(TurnKey::FunctionCall) => &mut turn.function_call,
                Some(TurnKey::Loss) => &mut turn.loss,
                None if self.0.keeps(&key) => {
                    let value = map.next_value_seed(ReadValue(self.1))?;
                    if turn.kept.insert(key.clone().into_owned(), value).is_some() {
                        turn.repeated = Some(key);
                    }
                    continue;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                    turn.others.push(key);
                    continue;
                }
            };
            let value = map.next_value_seed(ReadField(self.1))?;
            // Two names of one thing (`reasoning` and `reasoning_content`) may stand side by side if they agree.
            if slot.is_absent() {
                *slot = value;
            } else if !value.is_absent() && *slot != value {
                turn.repeated = Some(key);
            }
            turn.thinking |= is_thinking && !turn.reasoning.is_absent();
        }
        Ok(Some(turn))
    }
}

/// A list whose items are read by `$item`; null is missing, anything else is "other".
macro_rules! list_of {
    ($name:ty, $target:ident, $item:expr, $list:expr) => {
        any_type! { $name, $target<'de>,
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
                while let Some(item) = seq.next_element_seed($item(&self))? {
                    items.push(item);
                }
                Ok($list(items))
            }
        }
    };
}

struct ReadTurns<'l>(&'l Layout, &'l Repeated);
struct ReadPair<'l>(&'l Repeated);
struct ReadHistory<'l>(&'l Repeated);

list_of!(ReadTurns<'_>, Turns, |list: &Self| ReadTurn(list.0, list.1), Turns::List);
list_of!(ReadPair<'_>, Pair, |pair: &Self| ReadField(pair.0), Pair::Items);
list_of!(ReadHistory<'_>, History, |history: &Self| ReadPair(history.0), |pairs: Vec<Pair<'de>>| {
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

struct ReadRecord<'l>(&'l Layout, &'l Repeated);

any_type! { ReadRecord<'_>, Record<'de>,
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
            let Some(known) = self.0.key(&key) else {
                map.next_value::<IgnoredAny>()?;
                raw.others.push(key);
                continue;
            };
            let bit = 1 << known as u32;
            if seen & bit != 0 {
                self.1.note(&key);
            }
            seen |= bit;
            match known {
                Key::Instruction => raw.instruction = map.next_value_seed(ReadField(self.1))?,
                Key::Input => raw.input = map.next_value_seed(ReadField(self.1))?,
                Key::Output => raw.output = map.next_value_seed(ReadField(self.1))?,
                Key::System => raw.system = map.next_value_seed(ReadField(self.1))?,
                Key::Tools => raw.tools = map.next_value_seed(ReadField(self.1))?,
                Key::History => raw.history = map.next_value_seed(ReadHistory(self.1))?,
                Key::Conversations => raw.conversations = map.next_value_seed(ReadTurns(self.0, self.1))?,
                Key::Messages => raw.messages = map.next_value_seed(ReadTurns(self.0, self.1))?,
            }
        }
        Ok(Record::Object(raw))
    }
}

/// Reads one record of a file with this layout.
pub(super) fn read<'a>(text: &'a str, layout: &Layout) -> Result<Record<'a>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let repeated = Repeated::default();
    let mut record = ReadRecord(layout, &repeated).deserialize(&mut json)?;
    json.end()?;
    if let Record::Object(raw) = &mut record {
        raw.repeated = repeated.key();
    }
    Ok(record)
}
