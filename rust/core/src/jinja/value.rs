//! Python's values, as far as chat templates meet them.

use super::ast::Macro;
use super::budget::{Budget, around};
use super::fault::Fault;
use super::text::Text;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// What was looked for and not found.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Text),
    /// What the filter `safe` makes: it prints like any text.
    Safe(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    Range(Range),
    View(View, Rc<Dict>),
    /// What can be gone through once: the result of `map`, `select` and others.
    Once(Rc<RefCell<Once>>),
    Namespace(Rc<RefCell<Entries>>),
    Loop(Rc<Loop>),
    Call(Rc<Callable>),
}

/// The names of a namespace and their values, in the order in which they were set.
pub(super) type Entries = Vec<(Arc<str>, Value)>;

/// Values that are made one by one, and what happens behind the last of them.
#[derive(Debug)]
pub(super) struct Once {
    items: std::vec::IntoIter<Value>,
    fault: Option<Fault>,
}

impl Once {
    pub(super) fn next(&mut self) -> Result<Option<Value>, Fault> {
        match self.items.next() {
            None => self.fault.take().map_or(Ok(None), Err),
            next => Ok(next),
        }
    }
}

/// What can be called.
#[derive(Debug)]
pub(super) enum Callable {
    /// A function that every template has.
    Global(&'static str),
    /// A method of a value.
    Method(Value, Arc<str>),
    Macro(Arc<Macro>, Weak<Frame>),
}

/// What a list or a tuple holds.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) items: Vec<Value>,
    depth: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
    pub(super) length: usize,
}

impl Range {
    pub(super) fn at(self, index: usize) -> Value {
        Value::Int(self.start + self.step * index as i128)
    }

    pub(super) fn iter(self) -> impl DoubleEndedIterator<Item = Value> {
        (0..self.length).map(move |i| self.at(i))
    }
}

/// A loop, seen from inside.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) items: Vec<Value>,
    pub(super) index: std::cell::Cell<usize>,
    pub(super) depth: usize,
    /// What `loop.changed` was called with last.
    pub(super) last: RefCell<Option<Vec<Value>>>,
}

/// Two keys are one where Python's `==` says so: 1, 1.0 and True.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Text(Arc<str>),
    Tuple(Vec<Key>),
    Undefined,
}

impl Key {
    /// # Errors
    ///
    /// The value cannot be a key.
    pub(super) fn of(value: &Value) -> Result<Self, Fault> {
        Ok(match value {
            Value::None => Self::None,
            Value::Bool(b) => Self::Int(i128::from(*b)),
            Value::Int(i) => Self::Int(*i),
            Value::Float(f) if f.fract() == 0.0 && f.abs() < 1e30 => Self::Int(*f as i128),
            Value::Float(f) => Self::Float(f.to_bits()),
            Value::Text(text) | Value::Safe(text) => Self::Text(text.shared().clone()),
            Value::Tuple(items) => Self::Tuple(items.items.iter().map(Self::of).collect::<Result<_, _>>()?),
            Value::Undefined(_) => Self::Undefined,
            Value::List(_) | Value::Dict(_) => {
                return Err(Fault::failed(format!("unhashable type: '{}'", value.kind())));
            }
            _ => return Err(Fault::unsupported(format!("a {} as a key", value.kind()))),
        })
    }
}

/// A dictionary in the order of insertion.
#[derive(Debug, Default)]
pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
    places: HashMap<Key, usize>,
    depth: u32,
}

impl Dict {
    pub(super) fn set(&mut self, budget: &Budget, key: Value, value: Value) -> Result<(), Fault> {
        budget.steps(1)?;
        self.depth = self.depth.max(around(key.depth()?.max(value.depth()?))?);
        match self.places.entry(Key::of(&key)?) {
            std::collections::hash_map::Entry::Occupied(place) => self.entries[*place.get()].1 = value,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(self.entries.len());
                self.entries.push((key, value));
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.places.get(key).map(|&at| &self.entries[at].1)
    }

    pub(super) fn get_text(&self, key: &Arc<str>) -> Option<&Value> {
        if self.entries.len() > 6 {
            return self.get(&Key::Text(key.clone()));
        }
        let found = self.entries.iter().find(|(k, _)| matches!(k, Value::Text(text) if text.as_str() == &**key));
        found.map(|(_, value)| value)
    }

    pub(super) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }
}

impl Value {
    /// A text of the template's own.
    pub(super) fn own(text: impl Into<Arc<str>>) -> Self {
        Self::Text(Text::plain(text))
    }

    pub(super) fn list(budget: &Budget, items: Vec<Value>) -> Result<Self, Fault> {
        Ok(Self::List(Rc::new(Items::new(budget, items)?)))
    }

    pub(super) fn tuple(budget: &Budget, items: Vec<Value>) -> Result<Self, Fault> {
        Ok(Self::Tuple(Rc::new(Items::new(budget, items)?)))
    }

    /// What `make` makes of each item, when it is asked for.
    pub(super) fn once(items: Vec<Value>, mut make: impl FnMut(Value) -> Result<Option<Value>, Fault>) -> Self {
        let mut made = Vec::new();
        let mut fault = None;
        for item in items {
            match make(item) {
                Ok(item) => made.extend(item),
                Err(why) => {
                    fault = Some(why);
                    break;
                }
            }
        }
        Self::Once(Rc::new(RefCell::new(Once { items: made.into_iter(), fault })))
    }

    pub(super) fn undefined(name: &str) -> Self {
        Self::Undefined(name.into())
    }

    /// Python's name of its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Safe(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Range(_) => "range",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Once(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Call(_) => "function",
        }
    }

    /// Python's `bool`.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0,
            Self::Text(text) | Self::Safe(text) => !text.as_str().is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.entries.is_empty(),
            Self::Range(range) => range.length > 0,
            Self::Loop(state) => !state.items.is_empty(),
            Self::Once(_) | Self::Namespace(_) | Self::Call(_) => true,
        }
    }

    /// A text of either kind.
    pub(super) fn as_text(&self) -> Option<&Text> {
        if let Self::Text(text) | Self::Safe(text) = self { Some(text) } else { None }
    }

    /// How deep it nests.
    ///
    /// # Errors
    ///
    /// It cannot be put into another value.
    fn depth(&self) -> Result<u32, Fault> {
        Ok(match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            // They can change later, and so could come to hold themselves.
            Self::Namespace(_) | Self::Loop(_) | Self::Once(_) => {
                return Err(Fault::unsupported(format!("a {} inside another value", self.kind())));
            }
            Self::Call(call) => match &**call {
                Callable::Method(value, _) => around(value.depth()?)?,
                Callable::Global(_) => 0,
                Callable::Macro(..) => return Err(Fault::unsupported("a macro inside another value")),
            },
            _ => 0,
        })
    }

    /// Checks that it may be stored in another value.
    pub(super) fn storable(&self) -> Result<(), Fault> {
        self.depth().map(|_| ())
    }
}

impl Items {
    fn new(budget: &Budget, items: Vec<Value>) -> Result<Self, Fault> {
        budget.steps(items.len())?;
        let mut deepest = 0;
        for item in &items {
            deepest = deepest.max(item.depth()?);
        }
        Ok(Self { items, depth: around(deepest)? })
    }
}

/// The variables of a block: what is set in it is not seen outside.
#[derive(Debug, Default)]
pub(super) struct Frame {
    own: RefCell<Vec<(Arc<str>, Value)>>,
    outer: Option<Rc<Frame>>,
}

impl Frame {
    pub(super) fn inside(outer: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { own: RefCell::default(), outer: Some(outer.clone()) })
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let own = self.own.borrow().iter().rev().find(|(n, _)| **n == *name).map(|(_, value)| value.clone());
        own.or_else(|| self.outer.as_ref()?.get(name))
    }

    pub(super) fn set(&self, name: Arc<str>, value: Value) {
        let mut own = self.own.borrow_mut();
        match own.iter_mut().find(|(n, _)| *n == name) {
            Some(there) => there.1 = value,
            None => own.push((name, value)),
        }
    }
}
