//! What a call was given, and by which name.

use super::fault::Fault;
use super::value::Value;
use std::sync::Arc;

/// The values between the parentheses of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

impl Given {
    /// The values of these parameters, in their order; of which the first `required` must be there.
    ///
    /// # Errors
    ///
    /// As Python has it: one too many, one that is not known, one that is given twice, one that is missing.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        parameters: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N], Fault> {
        if self.positional.len() > N {
            return Err(Fault::failed(format!("{function} takes {N} arguments at most")));
        }
        let mut bound: [Option<Value>; N] = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let place = parameters.iter().position(|p| **p == *name).filter(|&at| bound[at].is_none());
            let Some(place) = place else {
                return Err(Fault::failed(format!("{function} takes no argument `{name}` here")));
            };
            bound[place] = Some(value);
        }
        match parameters.iter().zip(&bound).take(required).find(|(_, value)| value.is_none()) {
            Some((name, _)) => Err(Fault::failed(format!("{function} needs the argument `{name}`"))),
            None => Ok(bound),
        }
    }

    /// The same for a function without names for its parameters.
    pub(super) fn unnamed<const N: usize>(self, function: &str, required: usize) -> Result<[Option<Value>; N], Fault> {
        if self.named.is_empty() {
            self.bind(function, [""; N], required)
        } else {
            Err(Fault::failed(format!("{function} takes no arguments by name")))
        }
    }
}

/// A whole number, as Python takes a boolean for one.
pub(super) fn integer(value: &Value, what: &str) -> Result<i128, Fault> {
    match value {
        Value::Int(i) => Ok(*i),
        Value::Bool(b) => Ok(i128::from(*b)),
        other => Err(Fault::failed(format!("{what} must be a whole number, not {}", other.kind()))),
    }
}

/// `value`, or the number that stands for it if there is none.
pub(super) fn integer_or(value: Option<&Value>, default: i128, what: &str) -> Result<i128, Fault> {
    value.map_or(Ok(default), |value| integer(value, what))
}
