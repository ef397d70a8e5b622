//! What happens to a sample that is longer than `cutoff_len`.
//!
//! Whatever the rule: at most `cutoff_len` tokens, at least one of them learned (or the sample is dropped, by name), and
//! no end-of-turn token behind an answer that was cut: it would teach the model to stop there.

use crate::conversation::Role;
use crate::encode::{Encoded, Encoder, Piece};
use crate::template::Turn;
use serde::{Deserialize, Serialize};

/// The rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Whole exchanges as long as they fit, then a cut answer; the template is never broken.
    #[default]
    Structure,
    /// LLaMA-Factory's: each exchange's budget is shared between prompt and answer, and both are cut at their ends.
    Llamafactory,
    /// The sample is dropped.
    Drop,
}

/// A sample that was made to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// What is left.
    pub encoded: Encoded,
    /// Turns of which nothing is left.
    pub turns_cut: usize,
}

/// An answer that begins behind a whole prompt is kept from this many tokens on.
const SHORTEST_CUT_ANSWER: usize = 64;

/// Makes a sample fit that has more than `cutoff` tokens.
///
/// # Errors
///
/// The reason to drop it instead.
pub fn truncate(encoder: &Encoder<'_>, turns: &[Turn<'_>], cutoff: usize, rule: Rule) -> Result<Cut, String> {
    if rule == Rule::Drop {
        return Err("too_long".to_owned());
    }
    let turns: Vec<TurnTokens> = turns
        .iter()
        .map(|turn| Ok(TurnTokens { answer: turn.role == Role::Assistant, pieces: encoder.encode_apart(turn)? }))
        .collect::<Result<_, String>>()?;
    let cut = cut(turns, cutoff, rule);
    if cut.encoded.spans.is_empty() { Err("cutoff_len_leaves_nothing_to_learn".to_owned()) } else { Ok(cut) }
}

#[derive(Debug, Clone)]
struct TurnTokens {
    answer: bool,
    pieces: Vec<Piece>,
}

impl TurnTokens {
    fn len(&self) -> usize {
        self.pieces.iter().map(|p| p.ids.len()).sum()
    }
}

/// Prompts and the answer to them. The system turn belongs to the first.
fn exchanges(turns: Vec<TurnTokens>) -> Vec<Vec<TurnTokens>> {
    let mut exchanges = vec![Vec::new()];
    for turn in turns {
        let answer = turn.answer;
        if let Some(last) = exchanges.last_mut() {
            last.push(turn);
        }
        if answer {
            exchanges.push(Vec::new());
        }
    }
    exchanges.retain(|e| !e.is_empty());
    exchanges
}

fn cut(turns: Vec<TurnTokens>, cutoff: usize, rule: Rule) -> Cut {
    let total = turns.len();
    let mut encoded = Encoded::default();
    let mut kept = 0;
    for mut exchange in exchanges(turns) {
        let room = cutoff - encoded.ids.len();
        if room == 0 {
            break;
        }
        let size: usize = exchange.iter().map(TurnTokens::len).sum();
        let fits = match rule {
            Rule::Llamafactory => {
                llamafactory(&mut exchange, room);
                true
            }
            Rule::Structure | Rule::Drop => size <= room,
        };
        if fits {
            kept += exchange.iter().filter(|t| t.len() > 0).count();
            exchange.iter().flat_map(|t| &t.pieces).for_each(|p| encoded.append(p));
            continue;
        }
        let answer = exchange.pop().filter(|t| t.answer);
        let Some(answer) = answer else { break };
        let prompt: usize = exchange.iter().map(TurnTokens::len).sum();
        if encoded.spans.is_empty() {
            // Half of the room for the answer, more if the prompt leaves it; the prompt's content gives way.
            let budget = answer.len().min((room / 2).max(room.saturating_sub(prompt)));
            let stuck = shorten_content(&mut exchange, (prompt + budget).saturating_sub(room));
            kept += exchange.len() + 1;
            exchange.iter().flat_map(|t| &t.pieces).for_each(|p| encoded.append(p));
            append_beginning(&mut encoded, &answer, budget.saturating_sub(stuck));
            // The template alone may be longer than the room.
            if encoded.ids.len() > cutoff {
                encoded = Encoded::default();
            }
        } else if prompt + answer.len().min(SHORTEST_CUT_ANSWER + header(&answer)) <= room {
            kept += exchange.len() + 1;
            exchange.iter().flat_map(|t| &t.pieces).for_each(|p| encoded.append(p));
            append_beginning(&mut encoded, &answer, room - prompt);
        }
        break;
    }
    Cut { encoded, turns_cut: total - kept.min(total) }
}

/// Tokens of an answer's turn before its content.
fn header(answer: &TurnTokens) -> usize {
    answer.pieces.iter().take_while(|p| !p.content).map(|p| p.ids.len()).sum()
}

/// The first `budget` tokens of an answer; what the template puts behind it comes only if all of it fits.
fn append_beginning(encoded: &mut Encoded, answer: &TurnTokens, mut budget: usize) {
    for piece in &answer.pieces {
        if piece.ids.len() <= budget {
            budget -= piece.ids.len();
            encoded.append(piece);
            continue;
        }
        if piece.content {
            let ids = piece.ids[..budget].to_vec();
            encoded.append(&Piece { ids, ..*piece });
        }
        return;
    }
}

/// Cuts `excess` tokens of content from the tails of the turns, the last turn first; what could not be cut.
fn shorten_content(turns: &mut [TurnTokens], mut excess: usize) -> usize {
    for piece in turns.iter_mut().rev().flat_map(|t| t.pieces.iter_mut().rev()).filter(|p| p.content) {
        let cut = excess.min(piece.ids.len());
        piece.ids.truncate(piece.ids.len() - cut);
        excess -= cut;
    }
    excess
}

/// Shares `room` between the prompt (with the answer's header) and the answer, and cuts both at their ends.
fn llamafactory(exchange: &mut [TurnTokens], room: usize) {
    let Some(answer) = exchange.last() else { return };
    let source_turns: usize = exchange[..exchange.len() - 1].iter().map(TurnTokens::len).sum();
    let source = source_turns + header(answer);
    let target = answer.len() - header(answer);
    let (mut source_left, mut target_left) = infer_seqlen(source, target, room);
    let header_pieces = answer.pieces.iter().take_while(|p| !p.content).count();
    let last = exchange.len() - 1;
    for (i, turn) in exchange.iter_mut().enumerate() {
        for (j, piece) in turn.pieces.iter_mut().enumerate() {
            let left = if i == last && j >= header_pieces { &mut target_left } else { &mut source_left };
            let keep = piece.ids.len().min(*left);
            piece.ids.truncate(keep);
            *left -= keep;
        }
    }
}

/// LLaMA-Factory's `infer_seqlen` (`data/processor/processor_utils.py`): tokens that prompt and answer keep.
#[must_use]
pub fn infer_seqlen(source: usize, target: usize, cutoff: usize) -> (usize, usize) {
    let largest_target = if target * 2 < cutoff {
        cutoff
    } else if source * 2 < cutoff {
        cutoff - source
    } else {
        // In floating point and in this order, as the original computes it.
        (cutoff as f64 * (target as f64 / (source + target) as f64)) as usize
    };
    let target = target.min(largest_target);
    (source.min(cutoff.saturating_sub(target)), target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn llamafactorys_values() {
        for ((p, r, c), expected) in [
            ((3000, 100, 2048), (1948, 100)),
            ((100, 3000, 2048), (100, 1948)),
            ((3000, 3000, 2048), (1024, 1024)),
            ((500, 1023, 1024), (500, 524)),
            ((5000, 600, 1024), (915, 109)),
            ((100_000, 1024, 2048), (2028, 20)),
        ] {
            assert_eq!(infer_seqlen(p, r, c), expected, "{p} {r} {c}");
        }
    }

    /// A ChatML-like turn: 3 template tokens, content, 2 template tokens. Content tokens are numbered from `first`.
    fn turn(answer: bool, n: usize, first: u32) -> TurnTokens {
        let piece = |ids: Vec<u32>, learned, content| Piece { ids, learned, content };
        TurnTokens {
            answer,
            pieces: vec![
                piece(vec![1, 2, 3], false, false),
                piece((first..first + n as u32).collect(), answer, true),
                piece(vec![4], answer, false),
                piece(vec![5], answer, false),
            ],
        }
    }

    #[test]
    fn whole_exchanges_come_first_then_a_cut_answer_without_an_end() {
        let dialogue = vec![turn(false, 5, 100), turn(true, 5, 200), turn(false, 5, 300), turn(true, 500, 400)];
        let cut = cut(dialogue, 110, Rule::Structure);
        assert_eq!(cut.encoded.ids.len(), 110);
        assert_eq!(cut.turns_cut, 0);
        assert_eq!(cut.encoded.spans, [(13, 20), (33, 110)]);
        assert_eq!(*cut.encoded.ids.last().unwrap(), 400 + 76);
    }

    #[test]
    fn an_exchange_that_does_not_fit_goes_whole() {
        let dialogue = vec![turn(false, 5, 100), turn(true, 5, 200), turn(false, 90, 300), turn(true, 50, 400)];
        let cut = cut(dialogue, 100, Rule::Structure);
        assert_eq!((cut.encoded.ids.len(), cut.turns_cut), (20, 2));
    }

    #[test]
    fn a_long_first_prompt_gives_way_and_keeps_its_frame() {
        let cut = cut(vec![turn(false, 1000, 10_000), turn(true, 20, 200)], 100, Rule::Structure);
        let ids = &cut.encoded.ids;
        assert_eq!(ids.len(), 100);
        // 75 = 100 − the whole answer turn of 25: 70 tokens of content between the frame.
        assert_eq!((&ids[..3], ids[3], ids[72], &ids[73..75]), (&[1, 2, 3][..], 10_000, 10_069, &[4, 5][..]));
        assert_eq!(&ids[98..], [4, 5]);
    }

    #[test]
    fn a_cutoff_below_the_template_leaves_nothing() {
        for cutoff in 1..9 {
            assert!(cut(vec![turn(false, 50, 100), turn(true, 50, 200)], cutoff, Rule::Structure).encoded.spans.is_empty());
        }
    }

    proptest! {
        #[test]
        fn the_promises_hold(sizes in proptest::collection::vec((0_usize..300, 1_usize..300), 1..8), cutoff in 1_usize..600, lf: bool) {
            let turns: Vec<_> = sizes.iter().flat_map(|&(p, a)| [turn(false, p, 1000), turn(true, a, 2000)]).collect();
            let total: usize = turns.iter().map(TurnTokens::len).sum();
            prop_assume!(total > cutoff);
            let rule = if lf { Rule::Llamafactory } else { Rule::Structure };
            let Cut { encoded, turns_cut } = cut(turns, cutoff, rule);
            prop_assert!(encoded.ids.len() <= cutoff);
            prop_assert!(turns_cut <= sizes.len() * 2);
            let mut before = 1;
            for &(start, end) in &encoded.spans {
                prop_assert!(before <= start && start < end && end as usize <= encoded.ids.len());
                before = end + 1;
            }
            if rule == Rule::Structure && cutoff >= 24 {
                prop_assert!(encoded.supervised() > 0);
                // The frame of every kept turn is whole, but for the end of a cut answer.
                let begins = encoded.ids.windows(3).filter(|w| *w == [1, 2, 3]).count();
                let ends = encoded.ids.windows(2).filter(|w| *w == [4, 5]).count();
                prop_assert!(begins - ends <= 1);
            }
        }
    }
}
