//! Statements → text.

use super::arguments::Given;
use super::ast::{Expr, Filters, For, Macro, Statement, Target};
use super::budget::Budget;
use super::fault::Fault;
use super::filters;
use super::globals::hidden;
use super::operators::iterate;
use super::print::write;
use super::text::{Text, Writer};
use super::value::{Callable, Dict, Frame, Loop, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// One rendering.
pub(super) struct Machine<'b> {
    pub(super) budget: &'b Budget,
}

/// How a list of statements ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Through,
    Break,
    Continue,
}

impl<'b> Machine<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { budget }
    }

    pub(super) fn run(&self, body: &[Statement], frame: &Rc<Frame>, out: &mut Writer<'b>) -> Result<Flow, Fault> {
        for statement in body {
            self.budget.steps(1)?;
            let flow = match statement {
                Statement::Data(text) => {
                    out.own(text)?;
                    Flow::Through
                }
                Statement::Print(expr) => {
                    write(out, &self.evaluate(expr, frame)?)?;
                    Flow::Through
                }
                _ => self.budget.deeper(|| self.block(statement, frame, out))?,
            };
            if flow != Flow::Through {
                return Ok(flow);
            }
        }
        Ok(Flow::Through)
    }

    fn block(&self, statement: &Statement, frame: &Rc<Frame>, out: &mut Writer<'b>) -> Result<Flow, Fault> {
        match statement {
            Statement::Data(_) | Statement::Print(_) => {}
            Statement::If { branches, other } => {
                for (test, body) in branches {
                    if self.evaluate(test, frame)?.is_true() {
                        return self.run(body, frame, out);
                    }
                }
                return self.run(other, frame, out);
            }
            Statement::For(each) => return self.each(each, frame, out),
            Statement::Set(target, value) => {
                let value = self.evaluate(value, frame)?;
                self.assign(target, value, frame)?;
            }
            Statement::SetBlock(target, filters, body) => {
                let text = self.captured(body, &Frame::inside(frame))?;
                let value = self.filtered(Value::Text(text), filters, frame)?;
                self.assign(target, value, frame)?;
            }
            Statement::With(given, body) => {
                let inside = Frame::inside(frame);
                for (target, value) in given {
                    let value = self.evaluate(value, frame)?;
                    self.assign(target, value, &inside)?;
                }
                return self.run(body, &inside, out);
            }
            Statement::Macro(function) => {
                let callable = Callable::Macro(function.clone(), Rc::downgrade(frame));
                frame.set(function.name.clone(), Value::Call(Rc::new(callable)));
            }
            Statement::Call { call: Expr::Call(function, arguments), caller } => {
                let function = self.evaluate(function, frame)?;
                let mut given = self.given(arguments, frame)?;
                let caller = Value::Call(Rc::new(Callable::Macro(caller.clone(), Rc::downgrade(frame))));
                given.named.push(("caller".into(), caller));
                write(out, &self.call(&function, given)?)?;
            }
            Statement::Call { .. } => return Err(Fault::failed("a call block needs a call")),
            Statement::FilterBlock(filters, body) => {
                let text = self.captured(body, &Frame::inside(frame))?;
                write(out, &self.filtered(Value::Text(text), filters, frame)?)?;
            }
            Statement::Scope(body) => return self.run(body, &Frame::inside(frame), out),
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Through)
    }

    fn captured(&self, body: &[Statement], frame: &Rc<Frame>) -> Result<Text, Fault> {
        let mut out = Writer::new(self.budget);
        self.run(body, frame, &mut out)?;
        Ok(out.finish())
    }

    fn filtered(&self, mut value: Value, filters: &Filters, frame: &Rc<Frame>) -> Result<Value, Fault> {
        for (name, arguments) in filters {
            value = filters::apply(self.budget, name, value, self.given(arguments, frame)?)?;
        }
        Ok(value)
    }

    fn each(&self, each: &For, frame: &Rc<Frame>, out: &mut Writer<'b>) -> Result<Flow, Fault> {
        let mut items = iterate(self.budget, &self.evaluate(&each.over, frame)?)?;
        if let Some(test) = &each.only_if {
            let mut kept = Vec::new();
            for item in items {
                let inside = Frame::inside(frame);
                self.assign(&each.target, item.clone(), &inside)?;
                if self.evaluate(test, &inside)?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.run(&each.otherwise, frame, out);
        }
        let state = Rc::new(Loop { items, index: Cell::new(0), depth: 1, last: RefCell::new(None) });
        let mut flow = Ok(Flow::Through);
        for index in 0..state.items.len() {
            state.index.set(index);
            let inside = Frame::inside(frame);
            inside.set("loop".into(), Value::Loop(state.clone()));
            flow = self.assign(&each.target, state.items[index].clone(), &inside);
            flow = flow.and_then(|_| self.run(&each.body, &inside, out));
            if flow != Ok(Flow::Through) && flow != Ok(Flow::Continue) {
                break;
            }
        }
        flow.map(|_| Flow::Through)
    }

    fn assign(&self, target: &Target, value: Value, frame: &Rc<Frame>) -> Result<Flow, Fault> {
        match target {
            Target::Name(name) => frame.set(name.clone(), value),
            Target::Attribute(name, attribute) => {
                let Some(Value::Namespace(entries)) = frame.get(name) else {
                    return Err(Fault::failed("cannot assign attribute on non-namespace object"));
                };
                hidden(attribute)?;
                value.storable()?;
                let mut entries = entries.borrow_mut();
                match entries.iter_mut().find(|(n, _)| n == attribute) {
                    Some(there) => there.1 = value,
                    None => entries.push((attribute.clone(), value)),
                }
            }
            Target::Several(targets) => {
                let values = iterate(self.budget, &value)?;
                if values.len() != targets.len() {
                    return Err(Fault::failed(format!("{} values for {} names", values.len(), targets.len())));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value, frame)?;
                }
            }
        }
        Ok(Flow::Through)
    }

    /// Calls a macro that was defined in `frame`.
    pub(super) fn run_macro(&self, function: &Arc<Macro>, frame: &Rc<Frame>, given: Given) -> Result<Value, Fault> {
        let inside = Frame::inside(frame);
        let Given { positional, named } = given;
        let mut positional = positional.into_iter();
        let mut named = named;
        let mut take = |name: &str| named.iter().position(|(n, _)| **n == *name).map(|at| named.remove(at).1);
        let required = function.parameters.len() - function.defaults.len();
        let mut missing = Vec::new();
        for (i, name) in function.parameters.iter().enumerate() {
            let given = positional.next().or_else(|| take(name));
            if given.is_none() {
                missing.push(i);
            }
            let absent = || Value::undefined(&format!("parameter '{name}' was not provided"));
            inside.set(name.clone(), given.unwrap_or_else(absent));
        }
        // A default sees the other parameters, itself among them.
        for i in missing.into_iter().filter(|i| *i >= required) {
            let value = self.evaluate(&function.defaults[i - required], &inside)?;
            inside.set(function.parameters[i].clone(), value);
        }
        if function.takes_caller {
            let caller = take("caller").unwrap_or_else(|| Value::undefined("No caller defined"));
            inside.set("caller".into(), caller);
        }
        let more: Vec<Value> = positional.collect();
        if function.takes_named {
            let mut dict = Dict::default();
            for (name, value) in std::mem::take(&mut named) {
                dict.set(self.budget, Value::own(name), value)?;
            }
            inside.set("kwargs".into(), Value::Dict(Rc::new(dict)));
        } else if let Some((name, _)) = named.first() {
            return Err(Fault::failed(format!("macro '{}' takes no keyword argument '{name}'", function.name)));
        }
        if function.takes_more {
            inside.set("varargs".into(), Value::tuple(self.budget, more)?);
        } else if !more.is_empty() {
            return Err(Fault::failed(format!("macro '{}' takes fewer arguments", function.name)));
        }
        self.captured(&function.body, &inside).map(Value::Text)
    }
}
