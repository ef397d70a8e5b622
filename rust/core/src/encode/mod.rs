//! Turns → token ids and supervised spans.

mod own_texts;

use crate::conversation::{Conversation, Role};
use crate::error::{Error, Result};
use crate::reasons::Reason;
use crate::template::{self, Controls, Kind, Learn, Rendered, Segment, Source, Tags, Template, Turn};
use crate::tokenizer::{AddedToken, Content, Tokenizer};
use own_texts::OwnTexts;
use std::borrow::Cow;
use std::sync::Arc;

/// A half-open range of supervised token positions.
pub type Span = (u32, u32);

/// Token ids and the supervised spans among them: ascending, disjoint, not touching, never with position 0 (nothing
/// predicts the first token).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The supervised spans.
    pub spans: Vec<Span>,
}

/// A segment and its turn.
#[derive(Clone, Copy)]
struct Placed<'s, 'a> {
    segment: &'s Segment<'a>,
    turn: usize,
    /// A supervised part of an answer: no token reaches over its borders, or the prompt would have other ids.
    answer: bool,
}

/// Takes all ids up to the end of a run of segments, where its own begin, the segments, and whether text stood before them.
type Emit<'e> = dyn FnMut(&[u32], usize, &[Placed<'_, '_>], bool) -> std::result::Result<(), String> + 'e;

impl Encoded {
    /// How many tokens are supervised.
    #[must_use]
    pub fn supervised(&self) -> usize {
        self.spans.iter().map(|(start, end)| (end - start) as usize).sum()
    }

    pub(crate) fn append(&mut self, piece: &Piece) {
        let start = self.ids.len();
        self.ids.extend_from_slice(&piece.ids);
        if piece.learned {
            supervise(&mut self.spans, start, self.ids.len());
        }
    }
}

/// Adds the tokens from `start` to `end` to the spans, which end before them.
fn supervise(spans: &mut Vec<Span>, start: usize, end: usize) {
    // A sample is far below 2³² tokens: a record is at most 64 MiB.
    let (start, end) = (start.max(1) as u32, end as u32);
    if start >= end {
        return;
    }
    match spans.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => spans.push((start, end)),
    }
}

/// Tokens of one run of segments, for truncation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether they are supervised.
    pub learned: bool,
    /// Whether they may be truncated.
    pub content: bool,
}

/// Buffers that a thread keeps, so that a row allocates none of its own.
#[derive(Default)]
pub struct Scratch {
    joined: String,
    own: OwnTexts,
    /// The next text continues the one before it and must not get a leading blank.
    goes_on: bool,
}

/// A template bound to a tokenizer.
pub struct Encoder<'t> {
    /// The template.
    pub template: &'t Template,
    /// The tokenizer.
    pub tokenizer: &'t Tokenizer,
    binding: Arc<Binding>,
}

/// What an [`Encoder`] works out of its template and its tokenizer. Who cannot keep an encoder, which borrows them, keeps this.
pub struct Binding {
    content: Arc<Content>,
    eos: Option<u32>,
    eos_token: Option<String>,
    controls: Controls,
    edge: Option<Edge>,
    /// Whether white space beside some token belongs to it.
    strips: bool,
}

impl<'t> Encoder<'t> {
    /// Checks that the tokenizer has every control token of the template.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] naming the token, and the templates that would fit.
    pub fn new(template: &'t Template, tokenizer: &'t Tokenizer, eos_token: Option<&str>) -> Result<Self> {
        let eos = eos_token.and_then(|token| tokenizer.control(token));
        let known = |token: Option<&str>| match token {
            Some(token) => tokenizer.control(token).is_some(),
            None => eos.is_some(),
        };
        if let Some(missing) = template.lacks(known) {
            let fits = |name: &&str| {
                let other = Template::new(&Source::named(name), None, eos_token);
                other.is_ok_and(|other| other.lacks(known).is_none())
            };
            let fitting: Vec<_> = template::names().into_iter().filter(fits).collect();
            return Err(Error::Tokenizer {
                path: None,
                problem: format!(
                    "template `{}` needs the token `{}`, which this tokenizer does not have",
                    template.name(),
                    missing.unwrap_or("eos_token")
                ),
                hint: if fitting.is_empty() {
                    "no built-in template fits this tokenizer".to_owned()
                } else {
                    format!("templates that fit: {}", fitting.join(", "))
                },
            });
        }
        let added = tokenizer.added();
        let tags = Tags::of(added);
        let content =
            tokenizer.content(|token| Some(token.content.as_str()) == eos_token || template.controls(token, &tags))?;
        let binding = Binding {
            edge: Edge::of(&content),
            content,
            eos,
            eos_token: eos_token.map(str::to_owned),
            controls: Controls::of(template, added),
            strips: added.iter().any(|token| token.lstrip || token.rstrip),
        };
        Ok(Self::bound(template, tokenizer, Arc::new(binding)))
    }

    /// An encoder of the template and the tokenizer for which another one was made, whose [`binding`](Self::binding) this is.
    #[must_use]
    pub fn bound(template: &'t Template, tokenizer: &'t Tokenizer, binding: Arc<Binding>) -> Self {
        Self { template, tokenizer, binding }
    }

    /// What was worked out when it was made.
    #[must_use]
    pub fn binding(&self) -> Arc<Binding> {
        self.binding.clone()
    }

    /// Renders a repaired conversation; `system` is the system prompt of rows that have none.
    ///
    /// # Errors
    ///
    /// The reason to drop the row.
    pub fn render<'a>(
        &'a self,
        conversation: &'a Conversation<'_>,
        system: Option<&'a str>,
        learn: Learn,
    ) -> std::result::Result<Rendered<'a>, Reason> {
        self.template.render(conversation, system, learn, &self.binding.controls)
    }

    /// The samples of a repaired conversation; see [`Template::samples`].
    ///
    /// # Errors
    ///
    /// The reason to drop the row.
    pub fn samples<'a>(
        &'a self,
        conversation: &'a Conversation<'_>,
        system: Option<&'a str>,
        learn: Learn,
    ) -> std::result::Result<Vec<Rendered<'a>>, Reason> {
        self.template.samples(conversation, system, learn, &self.binding.controls)
    }

    /// Renders a conversation that the model is to answer.
    ///
    /// # Errors
    ///
    /// The reason it cannot be rendered.
    pub fn prompt<'a>(
        &'a self,
        conversation: &'a Conversation<'_>,
        system: Option<&'a str>,
        enable_thinking: bool,
    ) -> std::result::Result<Rendered<'a>, Reason> {
        self.template.prompt(conversation, system, enable_thinking, &self.binding.controls)
    }

    /// The ids that end an answer.
    #[must_use]
    pub fn stops(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .template
            .stops(&self.binding.controls)
            .iter()
            .filter_map(|stop| self.control(stop))
            .chain(self.binding.eos)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The control tokens that are looked for in the output of a model's own template.
    #[must_use]
    pub fn controls(&self) -> &Controls {
        &self.binding.controls
    }

    /// How the text of a conversation is encoded.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.binding.content
    }

    /// The id of a token of the template; an empty name is the end of the sequence.
    #[must_use]
    pub fn control(&self, token: &str) -> Option<u32> {
        if token.is_empty() { self.binding.eos } else { self.tokenizer.control(token) }
    }

    /// Encodes whole turns. Text is encoded together with the text beside it, also over the border of a turn, so that the
    /// ids are those of the whole text; only where a supervised answer begins or ends they are encoded apart.
    ///
    /// # Errors
    ///
    /// The tokenizer's message if it refuses a text.
    pub fn encode(&self, turns: &[Turn<'_>]) -> std::result::Result<Encoded, String> {
        let mut encoded = Encoded::default();
        self.encode_into(turns, &mut Scratch::default(), &mut encoded)?;
        Ok(encoded)
    }

    /// [`encode`](Self::encode) into buffers that are used again: `encoded` is cleared first.
    ///
    /// # Errors
    ///
    /// A message, should the tokenizer refuse a text.
    pub fn encode_into(
        &self,
        turns: &[Turn<'_>],
        scratch: &mut Scratch,
        encoded: &mut Encoded,
    ) -> std::result::Result<(), String> {
        let Encoded { ids, spans } = encoded;
        ids.clear();
        spans.clear();
        self.runs(&placed(&self.stripped(turns)), scratch, ids, &mut |ids, mut start, run, goes_on| {
            let own = &ids[start..];
            let mut learn = |n: usize, learned: bool| {
                if learned {
                    supervise(spans, start, start + n);
                }
                start += n;
            };
            let learned = run[0].segment.learned;
            if run.iter().any(|s| s.segment.learned != learned) {
                let same = |a: Placed<'_, '_>, b: Placed<'_, '_>| a.segment.learned == b.segment.learned;
                return self.parted(own, run, goes_on, same, |_, piece| learn(piece.ids.len(), piece.learned));
            }
            learn(own.len(), learned);
            Ok(())
        })
    }

    /// Encodes whole turns as [`encode`](Self::encode) does, in pieces of content and of the template: one behind the
    /// other they are the same ids, so what is left of a turn that is cut is what stands in a whole one.
    ///
    /// # Errors
    ///
    /// A message, should the tokenizer refuse a text.
    pub fn encode_apart(&self, turns: &[Turn<'_>]) -> std::result::Result<Vec<Vec<Piece>>, String> {
        let mut apart: Vec<Vec<Piece>> = turns.iter().map(|turn| Vec::with_capacity(turn.segments.len())).collect();
        let same = |a: Placed<'_, '_>, b: Placed<'_, '_>| {
            (a.turn, a.segment.content, a.segment.learned) == (b.turn, b.segment.content, b.segment.learned)
        };
        let (scratch, ids) = (&mut Scratch::default(), &mut Vec::new());
        self.runs(&placed(&self.stripped(turns)), scratch, ids, &mut |ids, start, run, goes_on| {
            self.parted(&ids[start..], run, goes_on, same, |turn, piece| apart[turn].push(piece))
        })?;
        Ok(apart)
    }

    /// The turns without the white space that belongs to a control token beside it (`lstrip`, `rstrip`: those of Phi-3).
    fn stripped<'s, 'a>(&self, turns: &'s [Turn<'a>]) -> Cow<'s, [Turn<'a>]> {
        if !self.binding.strips {
            return Cow::Borrowed(turns);
        }
        let mut turns = turns.to_vec();
        let mut segments: Vec<&mut Segment<'a>> = turns.iter_mut().flat_map(|turn| &mut turn.segments).collect();
        self.strip(&mut segments.iter_mut().map(|s| &mut **s), |t| t.rstrip, str::trim_start);
        self.strip(&mut segments.iter_mut().rev().map(|s| &mut **s), |t| t.lstrip, str::trim_end);
        for turn in &mut turns {
            turn.segments.retain(|s| s.kind != Kind::Text || !s.text.is_empty());
        }
        Cow::Owned(turns)
    }

    /// Trims what comes after each token for which `strips` holds, up to the first text that is more than white space.
    fn strip<'s, 'a: 's>(
        &self,
        segments: &mut dyn Iterator<Item = &'s mut Segment<'a>>,
        strips: fn(&AddedToken) -> bool,
        trim: fn(&str) -> &str,
    ) {
        let mut open = false;
        for segment in segments {
            if !self.is_text(segment) {
                let name = if segment.text.is_empty() {
                    self.binding.eos_token.as_deref()
                } else {
                    Some(segment.text.as_ref())
                };
                open = name.and_then(|name| self.tokenizer.token(name)).is_some_and(strips);
            } else if open {
                let kept = trim(&segment.text);
                open = kept.is_empty();
                segment.text = Cow::Owned(kept.to_owned());
            }
        }
    }

    /// Cuts the ids of a run where neighbours are not the `same`. A token that stands on both sides is the template's.
    fn parted(
        &self,
        ids: &[u32],
        run: &[Placed<'_, '_>],
        goes_on: bool,
        same: impl Fn(Placed<'_, '_>, Placed<'_, '_>) -> bool,
        mut push: impl FnMut(usize, Piece),
    ) -> std::result::Result<(), String> {
        let mut from = 0;
        let mut end = 0;
        let (mut scratch, mut before) = (Scratch::default(), Vec::new());
        while end < run.len() {
            let first = run[end];
            end += run[end..].iter().take_while(|s| same(first, **s)).count();
            let (learned, content) = (first.segment.learned, first.segment.content);
            let mut to = ids.len();
            if end < run.len() {
                scratch.goes_on = goes_on;
                before.clear();
                self.encode_run(&run[..end], &mut scratch, &mut before)?;
                let equal = before.iter().zip(ids).take_while(|(a, b)| a == b).count();
                let straddles = equal < before.len();
                to = (equal + usize::from(straddles && !content)).clamp(from, ids.len());
            }
            if to > from {
                push(first.turn, Piece { ids: ids[from..to].to_vec(), learned, content });
            }
            from = to;
        }
        Ok(())
    }

    /// Appends the ids of each run of segments that are encoded together, and tells `emit` of it.
    fn runs(
        &self,
        segments: &[Placed<'_, '_>],
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
        emit: &mut Emit<'_>,
    ) -> std::result::Result<(), String> {
        scratch.goes_on = false;
        let mut rest = segments;
        while let Some((first, behind)) = rest.split_first() {
            let token = match first.segment.kind {
                Kind::Control | Kind::Marker => self.control(&first.segment.text),
                Kind::Text => None,
            };
            let start = ids.len();
            if let Some(token) = token {
                ids.push(token);
                emit(ids, start, &rest[..1], scratch.goes_on)?;
                scratch.goes_on = self.tokenizer.blank_is_first_only();
                rest = behind;
                continue;
            }
            let goes_with = |s: &&Placed<'_, '_>| s.answer == first.answer && self.is_text(s.segment);
            let run = 1 + behind.iter().take_while(goes_with).count();
            let goes_on = scratch.goes_on;
            self.encode_run(&rest[..run], scratch, ids)?;
            scratch.goes_on = true;
            emit(ids, start, &rest[..run], goes_on)?;
            rest = &rest[run..];
        }
        Ok(())
    }

    /// Appends the ids of the segments' text.
    fn encode_run(
        &self,
        run: &[Placed<'_, '_>],
        Scratch { joined, own, goes_on }: &mut Scratch,
        ids: &mut Vec<u32>,
    ) -> std::result::Result<(), String> {
        let edge = self.binding.edge.as_ref().filter(|_| *goes_on);
        if let ([Placed { segment: Segment { text, content: false, .. }, .. }], None) = (run, edge) {
            return own.encode(&self.binding.content, text, ids);
        }
        let text = match run {
            [only] if edge.is_none() => only.segment.text.as_ref(),
            run => {
                joined.clear();
                joined.extend(edge.map(|edge| edge.text));
                run.iter().for_each(|s| joined.push_str(&s.segment.text));
                joined.as_str()
            }
        };
        let start = ids.len();
        self.binding.content.encode(text, ids)?;
        if let Some(edge) = edge {
            if ids[start..].starts_with(&edge.ids) {
                ids.drain(start..start + edge.ids.len());
            } else {
                ids.truncate(start);
                self.binding.content.encode(&text[edge.text.len_utf8()..], ids)?;
            }
        }
        Ok(())
    }

    fn is_text(&self, segment: &Segment<'_>) -> bool {
        match segment.kind {
            Kind::Text => true,
            Kind::Marker => self.tokenizer.control(&segment.text).is_none(),
            Kind::Control => false,
        }
    }
}

/// A text that can be encoded in front of another and removed again.
struct Edge {
    text: char,
    ids: Vec<u32>,
}

impl Edge {
    /// For a tokenizer that begins every text with a blank (SentencePiece's dummy prefix). A text that only continues, where supervision
    /// begins or ends within a line, must not get one, nor, with some tokenizers, a text after a control token: it is
    /// encoded after an edge, which merges with nothing and whose ids are removed again.
    fn of(content: &Content) -> Option<Self> {
        let encode = |text: &str| {
            let mut ids = Vec::new();
            content.encode(text, &mut ids).ok().map(|()| ids)
        };
        let alone = encode("a")?;
        // Line breaks stand in some tokens, zeros in none; but some normalizers drop those.
        ['\0', '\n'].into_iter().find_map(|text| {
            let (ids, behind) = (encode(&text.to_string())?, encode(&format!("{text}a"))?);
            // Two would be one if they merged, or if they were unknown, as which all neighbours are one.
            let two = [ids.as_slice(), &ids[ids.len().checked_sub(1)?..]].concat();
            let apart = encode(&format!("{text}{text}"))? == two;
            (apart && behind.strip_prefix(ids.as_slice())? != alone).then_some(Self { text, ids })
        })
    }
}

/// The segments of all turns, in order.
fn placed<'s, 'a>(turns: &'s [Turn<'a>]) -> Vec<Placed<'s, 'a>> {
    let mut placed = Vec::with_capacity(turns.iter().map(|turn| turn.segments.len()).sum());
    for (turn, t) in turns.iter().enumerate() {
        let answers = t.role == Role::Assistant;
        placed.extend(t.segments.iter().map(|segment| Placed { segment, turn, answer: answers && segment.learned }));
    }
    placed
}
