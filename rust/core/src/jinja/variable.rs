//! What a template is given.

use super::budget::Budget;
use super::fault::Fault;
use super::text::{Origin, TEMPLATE, Text};
use super::value::{Dict, Value};
use std::rc::Rc;
use std::sync::Arc;

/// A value for a template.
#[derive(Debug, Clone)]
pub enum Variable {
    /// `none`.
    None,
    /// `true` or `false`.
    Bool(bool),
    /// A text and where it came from.
    Text(Arc<str>, Origin),
    /// A list.
    List(Vec<Variable>),
    /// A mapping; its keys are the template's own words.
    Map(Vec<(Arc<str>, Variable)>),
    /// Any JSON; all its texts, keys included, are of one origin.
    Json(serde_json::Value, Origin),
}

impl Variable {
    /// A word that is not data.
    #[must_use]
    pub fn word(text: &str) -> Self {
        Self::Text(text.into(), TEMPLATE)
    }

    pub(super) fn value(&self, budget: &Budget) -> Result<Value, Fault> {
        Ok(match self {
            Self::None => Value::None,
            Self::Bool(b) => Value::Bool(*b),
            Self::Text(text, origin) => Value::Text(Text::new(text.clone(), *origin)),
            Self::List(items) => Value::list(budget, items.iter().map(|i| i.value(budget)).collect::<Result<_, _>>()?)?,
            Self::Map(entries) => {
                let mut dict = Dict::default();
                for (key, value) in entries {
                    dict.set(budget, Value::own(key.clone()), value.value(budget)?)?;
                }
                Value::Dict(Rc::new(dict))
            }
            Self::Json(json, origin) => from_json(budget, json, *origin)?,
        })
    }
}

fn from_json(budget: &Budget, json: &serde_json::Value, origin: Origin) -> Result<Value, Fault> {
    let text = |text: &str| Value::Text(Text::new(text, origin));
    Ok(match json {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(i), _) => Value::Int(i.into()),
            (None, Some(u)) => Value::Int(u.into()),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(content) => text(content),
        serde_json::Value::Array(items) => {
            let items = items.iter().map(|item| from_json(budget, item, origin)).collect::<Result<_, _>>()?;
            Value::list(budget, items)?
        }
        serde_json::Value::Object(map) => {
            let mut dict = Dict::default();
            for (key, value) in map {
                dict.set(budget, text(key), from_json(budget, value, origin)?)?;
            }
            Value::Dict(Rc::new(dict))
        }
    })
}
