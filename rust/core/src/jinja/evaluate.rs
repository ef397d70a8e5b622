//! Expressions → values.

use super::arguments::Given;
use super::ast::{Arguments, Binary, Const, Expr, Unary};
use super::attributes::{attribute, item, slice};
use super::checks;
use super::execute::Machine;
use super::fault::Fault;
use super::filters;
use super::names::{is_filter, is_test};
use super::numeric::{Number, number, undefined};
use super::operators::{binary, holds, iterate};
use super::print::write;
use super::text::{Text, Writer};
use super::value::{Callable, Dict, Frame, Value};
use super::{call, globals};
use std::rc::Rc;
use std::sync::Arc;

impl Machine<'_> {
    pub(super) fn evaluate(&self, expr: &Expr, frame: &Rc<Frame>) -> Result<Value, Fault> {
        self.budget.steps(1)?;
        match expr {
            Expr::Const(constant) => Ok(match constant {
                Const::None => Value::None,
                Const::Bool(b) => Value::Bool(*b),
                Const::Int(i) => Value::Int(*i),
                Const::Float(f) => Value::Float(*f),
                Const::Text(text) => Value::Text(Text::plain(text.clone())),
            }),
            Expr::Name(name) => Ok(self.lookup(name, frame)),
            _ => self.budget.deeper(|| self.compound(expr, frame)),
        }
    }

    fn lookup(&self, name: &Arc<str>, frame: &Frame) -> Value {
        let found = frame.get(name).or_else(|| globals::named(name));
        found.unwrap_or_else(|| Value::Undefined(name.clone()))
    }

    fn compound(&self, expr: &Expr, frame: &Rc<Frame>) -> Result<Value, Fault> {
        let budget = self.budget;
        let each = |items: &[Expr]| items.iter().map(|item| self.evaluate(item, frame)).collect::<Result<Vec<_>, _>>();
        match expr {
            Expr::Const(_) | Expr::Name(_) => self.evaluate(expr, frame),
            Expr::List(items) => Value::list(budget, each(items)?),
            Expr::Tuple(items) => Value::tuple(budget, each(items)?),
            Expr::Dict(pairs) => {
                let mut dict = Dict::default();
                for (key, value) in pairs {
                    let key = self.evaluate(key, frame)?;
                    dict.set(budget, key, self.evaluate(value, frame)?)?;
                }
                Ok(Value::Dict(Rc::new(dict)))
            }
            Expr::Attribute(of, name) => attribute(budget, &self.evaluate(of, frame)?, name),
            Expr::Item(of, key) => {
                let of = self.evaluate(of, frame)?;
                item(budget, &of, &self.evaluate(key, frame)?)
            }
            Expr::Slice(of, bounds) => {
                let of = self.evaluate(of, frame)?;
                let mut given = [const { None }; 3];
                for (place, bound) in given.iter_mut().zip(bounds.iter()) {
                    *place = bound.as_ref().map(|bound| self.evaluate(bound, frame)).transpose()?;
                }
                slice(budget, &of, &given)
            }
            Expr::Call(function, arguments) => {
                let function = self.evaluate(function, frame)?;
                let given = self.given(arguments, frame)?;
                self.call(&function, given)
            }
            Expr::Filter(value, name, arguments) => {
                if !is_filter(name) {
                    return Err(Fault::failed(format!("No filter named '{name}'.")));
                }
                let value = self.evaluate(value, frame)?;
                filters::apply(budget, name, value, self.given(arguments, frame)?)
            }
            Expr::Test(value, name, arguments) => {
                if !is_test(name) {
                    return Err(Fault::failed(format!("No test named '{name}'.")));
                }
                let value = self.evaluate(value, frame)?;
                checks::check(budget, name, &value, self.given(arguments, frame)?).map(Value::Bool)
            }
            Expr::Unary(operator, value) => unary(*operator, &self.evaluate(value, frame)?),
            Expr::Binary(operator, left, right) => self.binary(*operator, left, right, frame),
            Expr::Concat(parts) => {
                let mut out = Writer::new(budget);
                for part in each(parts)? {
                    write(&mut out, &part)?;
                }
                Ok(Value::Text(out.finish()))
            }
            Expr::Compare(first, rest) => {
                let mut left = self.evaluate(first, frame)?;
                for (comparison, right) in rest {
                    let right = self.evaluate(right, frame)?;
                    if !holds(budget, *comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::And(left, right) => {
                let left = self.evaluate(left, frame)?;
                if left.is_true() { self.evaluate(right, frame) } else { Ok(left) }
            }
            Expr::Or(left, right) => {
                let left = self.evaluate(left, frame)?;
                if left.is_true() { Ok(left) } else { self.evaluate(right, frame) }
            }
            Expr::Condition { test, then, other } => {
                if self.evaluate(test, frame)?.is_true() {
                    return self.evaluate(then, frame);
                }
                match other {
                    Some(other) => self.evaluate(other, frame),
                    None => Ok(Value::undefined("the inline if-expression")),
                }
            }
        }
    }

    fn binary(&self, operator: Binary, left: &Expr, right: &Expr, frame: &Rc<Frame>) -> Result<Value, Fault> {
        let left = self.evaluate(left, frame)?;
        let right = self.evaluate(right, frame)?;
        binary(self.budget, operator, &left, &right)
    }

    /// The values of a call's arguments.
    pub(super) fn given(&self, arguments: &Arguments, frame: &Rc<Frame>) -> Result<Given, Fault> {
        let mut given = Given::default();
        for value in &arguments.positional {
            given.positional.push(self.evaluate(value, frame)?);
        }
        if let Some(spread) = &arguments.spread {
            given.positional.extend(iterate(self.budget, &self.evaluate(spread, frame)?)?);
        }
        for (name, value) in &arguments.named {
            given.named.push((name.clone(), self.evaluate(value, frame)?));
        }
        if let Some(spread) = &arguments.spread_named {
            let Value::Dict(dict) = self.evaluate(spread, frame)? else {
                return Err(Fault::failed("argument after ** must be a mapping"));
            };
            for (key, value) in dict.entries() {
                let Value::Text(key) = key else { return Err(Fault::failed("keywords must be strings")) };
                given.named.push((key.shared().clone(), value.clone()));
            }
        }
        let twice = |i: usize| given.named[..i].iter().any(|(name, _)| *name == given.named[i].0);
        match (0..given.named.len()).find(|&i| twice(i)) {
            Some(i) => Err(Fault::failed(format!("`{}` is given twice", given.named[i].0))),
            None => Ok(given),
        }
    }

    /// `function(…)`.
    pub(super) fn call(&self, function: &Value, given: Given) -> Result<Value, Fault> {
        match function {
            Value::Call(callable) => match &**callable {
                Callable::Global(name) => globals::call(self.budget, name, given),
                Callable::Method(of, name) => call::method(self.budget, of, name, given),
                Callable::Macro(function, frame) => {
                    let frame = frame.upgrade().ok_or_else(|| Fault::unsupported("a macro outside its block"))?;
                    self.budget.deeper(|| self.run_macro(function, &frame, given))
                }
            },
            Value::Undefined(name) => Err(undefined(name)),
            Value::Loop(_) => Err(Fault::failed("a loop that is not recursive cannot be called")),
            other => Err(Fault::failed(format!("'{}' object is not callable", other.kind()))),
        }
    }
}

fn unary(operator: Unary, value: &Value) -> Result<Value, Fault> {
    if operator == Unary::Not {
        return Ok(Value::Bool(!value.is_true()));
    }
    if let Value::Undefined(name) = value {
        return Err(undefined(name));
    }
    match (operator, number(value)) {
        (_, None) => Err(Fault::failed(format!("bad operand type: '{}'", value.kind()))),
        (Unary::Negative, Some(Number::Int(i))) => {
            i.checked_neg().map(Value::Int).ok_or_else(|| Fault::unsupported("numbers beyond 127 bits"))
        }
        (Unary::Negative, Some(Number::Float(f))) => Ok(Value::Float(-f)),
        (_, Some(Number::Int(i))) => Ok(Value::Int(i)),
        (_, Some(Number::Float(f))) => Ok(Value::Float(f)),
    }
}
