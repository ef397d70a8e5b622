//! JSON values in which a key that occurs twice in one object is noticed: which of the two counts would be a guess.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// The first key that occurred twice.
#[derive(Debug, Default)]
pub(super) struct Repeated(RefCell<Option<String>>);

impl Repeated {
    /// Notes a key that occurs for the second time.
    pub(super) fn note(&self, key: &str) {
        self.0.borrow_mut().get_or_insert_with(|| key.to_owned());
    }

    /// The key, if there is one.
    pub(super) fn key(self) -> Option<String> {
        self.0.into_inner()
    }
}

/// The value of a JSON text, or the key that occurs twice in it; `None` if it is not JSON.
pub(super) fn parse(text: &str) -> Option<Result<Value, String>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let repeated = Repeated::default();
    let value = ReadValue(&repeated).deserialize(&mut json).and_then(|value| json.end().map(|()| value)).ok()?;
    Some(repeated.key().map_or(Ok(value), Err))
}

/// Reads any JSON value.
#[derive(Clone, Copy)]
pub(super) struct ReadValue<'r>(pub(super) &'r Repeated);

impl<'de> DeserializeSeed<'de> for ReadValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ReadValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            if object.contains_key(&key) {
                self.0.note(&key);
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_that_of_serde_unless_a_key_occurs_twice() {
        for text in [r#"{"b":[1,-2,2.5,1e300,null,true,"x\n"],"a":{"b":{"b":1}}}"#, "3", "[]", "\"\""] {
            assert_eq!(parse(text).unwrap().unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
        assert_eq!(parse(r#"[{"a":{"x":1,"y":2,"x":3},"a":0}]"#).unwrap(), Err("x".to_owned()));
        assert_eq!(parse("{"), None);
        assert_eq!(parse("1 2"), None);
    }
}
