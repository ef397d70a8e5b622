//! Chat templates in Jinja, rendered as transformers renders them: Jinja2's language in its immutable sandbox, with the
//! block rules, functions and filters that transformers adds.
//!
//! It is an interpreter of its own for two reasons. Every text knows where each of its bytes came from ([`Text`]), so
//! what of the output is data is known and not guessed; and every difference from Jinja2 is ours to find: a differential
//! test holds the two equal, and what is not implemented stops the template by name ([`Fault::Unsupported`]).
//!
//! ```text
//!  source ─▶ lexer ─▶ parser, expression ─▶ ast ─▶ execute, evaluate ─▶ Text
//!                                                    │ operators, attributes, filters, checks, strings, …
//!                                                    ▼
//!                                                  value, text, budget
//! ```
//!
//! A template comes with a model, so it is not trusted: nothing in it reaches outside, and a [`budget`] bounds its steps,
//! its text and its nesting.

mod arguments;
mod ast;
mod attributes;
mod budget;
mod call;
mod case;
mod checks;
mod classes;
mod evaluate;
mod execute;
mod expression;
mod fault;
mod filters;
mod format;
mod globals;
mod json;
mod lexer;
mod markup;
mod markup_methods;
mod names;
mod numbers;
mod numeric;
mod operators;
mod parser;
mod print;
mod sequences;
mod sorted;
mod strings;
mod text;
mod value;
mod variable;

pub use fault::Fault;
pub use globals::FIXED_DATE;
pub use text::{Origin, TEMPLATE, Text};
pub use variable::Variable;

use ast::Statement;
use budget::Budget;
use execute::Machine;
use std::collections::BTreeSet;
use std::sync::Arc;
use text::Writer;
use value::Frame;

/// A template that was read.
#[derive(Debug)]
pub struct Program {
    body: Vec<Statement>,
    /// The names and texts in its expressions.
    pub(crate) words: Arc<BTreeSet<Box<str>>>,
}

impl Program {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// [`Fault::Syntax`] with the line, [`Fault::Unsupported`], [`Fault::Budget`].
    pub fn new(source: &str) -> Result<Self, Fault> {
        let tokens = lexer::tokens(source)?;
        let words = Arc::new(tokens.iter().filter_map(|(token, _)| token.word().map(Box::from)).collect());
        Ok(Self { body: parser::parse(tokens)?, words })
    }

    /// Renders it with these variables, of about `size` bytes: the budget goes by that.
    ///
    /// # Errors
    ///
    /// Why it does not render.
    pub fn render(&self, variables: &[(&str, Variable)], size: usize) -> Result<Text, Fault> {
        let budget = Budget::of(size);
        let frame = std::rc::Rc::new(Frame::default());
        for (name, value) in variables {
            frame.set((*name).into(), value.value(&budget)?);
        }
        let mut out = Writer::new(&budget);
        Machine::new(&budget).run(&self.body, &frame, &mut out)?;
        Ok(out.finish())
    }
}
