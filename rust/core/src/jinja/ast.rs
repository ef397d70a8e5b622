//! What a template is, once it is read.

use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
}

#[derive(Debug)]
pub(super) enum Expr {
    Const(Const),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Arguments),
    Filter(Box<Expr>, Arc<str>, Arguments),
    Test(Box<Expr>, Arc<str>, Arguments),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `a ~ b ~ c`.
    Concat(Vec<Expr>),
    /// `a < b <= c`.
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// `then if test else other`.
    Condition {
        test: Box<Expr>,
        then: Box<Expr>,
        other: Option<Box<Expr>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Negative,
    Positive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// What stands between the parentheses of a call.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(Arc<str>, Expr)>,
    /// `*list`.
    pub(super) spread: Option<Box<Expr>>,
    /// `**dict`.
    pub(super) spread_named: Option<Box<Expr>>,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    /// `{% set namespace.attribute = … %}`.
    Attribute(Arc<str>, Arc<str>),
    Several(Vec<Target>),
}

#[derive(Debug)]
pub(super) enum Statement {
    /// Text of the template.
    Data(Arc<str>),
    Print(Expr),
    If {
        branches: Vec<(Expr, Vec<Statement>)>,
        other: Vec<Statement>,
    },
    For(Box<For>),
    Set(Target, Expr),
    /// `{% set name %}…{% endset %}`; the filters are applied to a hole.
    SetBlock(Target, Filters, Vec<Statement>),
    With(Vec<(Target, Expr)>, Vec<Statement>),
    Macro(Arc<Macro>),
    /// `{% call(parameters) function() %}…{% endcall %}`.
    Call {
        call: Expr,
        caller: Arc<Macro>,
    },
    /// `{% filter name %}…{% endfilter %}`.
    FilterBlock(Filters, Vec<Statement>),
    /// `{% generation %}…{% endgeneration %}`: transformers' mark of an answer; it is a scope and nothing else.
    Scope(Vec<Statement>),
    Break,
    Continue,
}

/// Filters of a block, in order.
pub(super) type Filters = Vec<(Arc<str>, Arguments)>;

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Expr,
    pub(super) only_if: Option<Expr>,
    pub(super) body: Vec<Statement>,
    pub(super) otherwise: Vec<Statement>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Arc<str>,
    /// Parameters; the last of them may have defaults.
    pub(super) parameters: Vec<Arc<str>>,
    pub(super) defaults: Vec<Expr>,
    pub(super) body: Vec<Statement>,
    /// Whether its body names `varargs`, `kwargs`, `caller`: only then it takes them.
    pub(super) takes_more: bool,
    pub(super) takes_named: bool,
    pub(super) takes_caller: bool,
}
