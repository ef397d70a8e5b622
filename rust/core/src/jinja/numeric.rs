//! Numbers, and what is none at all.

use super::fault::Fault;
use super::value::Value;

/// Numbers, as Python counts booleans among them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

pub(super) fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Bool(b) => Some(Number::Int(i128::from(*b))),
        Value::Int(i) => Some(Number::Int(*i)),
        Value::Float(f) => Some(Number::Float(*f)),
        _ => None,
    }
}

impl Number {
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(i) => i as f64,
            Self::Float(f) => f,
        }
    }
}

/// The fault of anything but printing, looping over and asking for what is not defined.
pub(super) fn undefined(name: &str) -> Fault {
    Fault::failed(format!("'{name}' is undefined"))
}
