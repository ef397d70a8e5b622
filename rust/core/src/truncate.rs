//! What happens to a sample that is longer than `cutoff_len`.
//!
//! Whatever the rule: at most `cutoff_len` tokens, at least one of them supervised (or the sample is dropped, with a reason), and
//! no end-of-turn token after an answer that was truncated: it would teach the model to stop there.

use crate::conversation::Role;
use crate::encode::{Encoded, Encoder, Piece};
use crate::reasons::Reason;
use crate::template::Turn;
use serde::{Deserialize, Serialize};

/// The rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Whole exchanges as long as they fit, then a truncated answer; the template's own tokens are never truncated.
    #[default]
    Structure,
    /// LLaMA-Factory's: each exchange's budget is shared between prompt and answer, and both are truncated at their ends.
    Llamafactory,
    /// The sample is dropped.
    Drop,
}

/// A sample that was made to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The remaining tokens.
    pub encoded: Encoded,
    /// Turns that were removed entirely.
    pub turns_cut: usize,
}

/// A truncated answer is kept after a whole prompt only if at least this many tokens of it fit.
const SHORTEST_CUT_ANSWER: usize = 64;

/// This many tokens of a question are kept while there is system content to truncate.
const SHORTEST_QUESTION: usize = 64;

/// Shortens a sample of more than `cutoff` tokens to at most `cutoff`. `last_first`: only the last answer is supervised, so the last
/// exchanges are the ones to keep.
///
/// # Errors
///
/// The reason to drop it instead.
pub fn truncate(
    encoder: &Encoder<'_>,
    turns: &[Turn<'_>],
    cutoff: usize,
    rule: Rule,
    last_first: bool,
) -> Result<Cut, Reason> {
    if rule == Rule::Drop {
        return Err(Reason::TooLong);
    }
    let pieces = encoder.encode_apart(turns).map_err(|problem| Reason::Untokenizable(problem.into()))?;
    let turns: Vec<TurnTokens> =
        turns.iter().zip(pieces).map(|(turn, pieces)| TurnTokens { role: turn.role, pieces }).collect();
    let total = turns.len();
    let kept = match rule {
        Rule::Llamafactory => proportional(exchanges(turns), cutoff, last_first),
        Rule::Structure | Rule::Drop => structured(turns, cutoff),
    };
    let cut = joined(&kept, total);
    if cut.encoded.spans.is_empty() { Err(Reason::CutoffLenLeavesNothingToLearn) } else { Ok(cut) }
}

#[derive(Debug, Clone)]
struct TurnTokens {
    role: Role,
    pieces: Vec<Piece>,
}

impl TurnTokens {
    fn len(&self) -> usize {
        self.pieces.iter().map(|p| p.ids.len()).sum()
    }
}

/// Prompts and usually the answer to them.
type Exchange = Vec<TurnTokens>;

fn size(turns: &[TurnTokens]) -> usize {
    turns.iter().map(TurnTokens::len).sum()
}

fn is_learned(turns: &[TurnTokens]) -> bool {
    turns.iter().flat_map(|t| &t.pieces).any(|p| p.learned && !p.ids.is_empty())
}

fn exchanges(turns: Vec<TurnTokens>) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = vec![Vec::new()];
    for turn in turns {
        let answer = turn.role == Role::Assistant;
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

fn joined(turns: &[TurnTokens], total: usize) -> Cut {
    let mut encoded = Encoded::default();
    turns.iter().flat_map(|t| &t.pieces).for_each(|p| encoded.append(p));
    let kept = turns.iter().filter(|t| t.len() > 0).count();
    Cut { encoded, turns_cut: total - kept }
}

/// The default rule. What comes before the first exchange (bos, system) is always kept.
fn structured(mut turns: Vec<TurnTokens>, cutoff: usize) -> Vec<TurnTokens> {
    let begin = turns.iter().take_while(|t| t.role == Role::System).count();
    let rest = turns.split_off(begin);
    let (head, exchanges) = (turns, exchanges(rest));
    let kept = first_exchanges(head.clone(), &exchanges, cutoff);
    if is_learned(&kept) { kept } else { last_exchanges(head, &exchanges, cutoff) }
}

/// Whole exchanges from the first one on, then a truncated answer.
fn first_exchanges(mut kept: Vec<TurnTokens>, exchanges: &[Exchange], cutoff: usize) -> Vec<TurnTokens> {
    for (i, exchange) in exchanges.iter().enumerate() {
        let room = cutoff.saturating_sub(size(&kept));
        if size(exchange) <= room {
            kept.extend_from_slice(exchange);
            continue;
        }
        let Some((answer, prompt)) = exchange.split_last().filter(|(t, _)| t.role == Role::Assistant) else {
            break;
        };
        let shortest = answer.len().min(header(answer) + SHORTEST_CUT_ANSWER);
        if size(prompt) + shortest <= room {
            if is_learned(std::slice::from_ref(answer)) {
                let budget = room - size(prompt);
                kept.extend_from_slice(prompt);
                kept.push(beginning(answer, budget));
            }
        } else if i == 0 {
            return squeezed(kept, exchange, cutoff);
        }
        break;
    }
    kept
}

/// If nothing of the first exchanges is supervised: as many whole exchanges as fit before the last one that is.
fn last_exchanges(head: Vec<TurnTokens>, exchanges: &[Exchange], cutoff: usize) -> Vec<TurnTokens> {
    let Some(last) = exchanges.iter().rposition(|e| is_learned(e)) else {
        return Vec::new();
    };
    let mut room = cutoff.saturating_sub(size(&head));
    let mut first = last + 1;
    while first > 0 && size(&exchanges[first - 1]) <= room {
        first -= 1;
        room -= size(&exchanges[first]);
    }
    if first > last {
        return squeezed(head, &exchanges[last], cutoff);
    }
    let mut kept = head;
    kept.extend(exchanges[first..=last].iter().flatten().cloned());
    kept
}

/// One exchange that does not fit: half of the room for its answer, more if the prompt leaves it; the prompt's content is
/// truncated, the template's tokens never are. Empty if the latter alone are too many.
fn squeezed(mut kept: Vec<TurnTokens>, exchange: &[TurnTokens], cutoff: usize) -> Vec<TurnTokens> {
    let Some((answer, prompt)) = exchange.split_last().filter(|(t, _)| t.role == Role::Assistant) else {
        return Vec::new();
    };
    kept.extend_from_slice(prompt);
    let prompt = size(&kept);
    let frame: usize = kept.iter().flat_map(|t| &t.pieces).filter(|p| !p.content).map(|p| p.ids.len()).sum();
    let Some(room) = cutoff.checked_sub(frame) else {
        return Vec::new();
    };
    let budget = answer.len().min((room / 2).max(cutoff.saturating_sub(prompt)));
    shorten_content(&mut kept, (prompt + budget).saturating_sub(cutoff));
    kept.push(beginning(answer, budget));
    kept
}

/// Tokens of an answer's turn before its content.
fn header(answer: &TurnTokens) -> usize {
    answer.pieces.iter().take_while(|p| !p.content).map(|p| p.ids.len()).sum()
}

/// The first `budget` tokens of an answer; what the template puts after it is included only if all of the answer fits.
fn beginning(answer: &TurnTokens, mut budget: usize) -> TurnTokens {
    let mut pieces = Vec::with_capacity(answer.pieces.len());
    for piece in &answer.pieces {
        if piece.ids.len() <= budget {
            budget -= piece.ids.len();
            pieces.push(piece.clone());
            continue;
        }
        if piece.content {
            pieces.push(Piece { ids: piece.ids[..budget].to_vec(), ..*piece });
        }
        break;
    }
    TurnTokens { role: answer.role, pieces }
}

/// Cuts `excess` tokens of content: of the questions, the last first, but not all of them while there is system
/// content to cut; then of that; then the rest.
fn shorten_content(turns: &mut [TurnTokens], mut excess: usize) {
    for (system, floor) in [(false, SHORTEST_QUESTION), (true, 0), (false, 0)] {
        let chosen = turns.iter_mut().rev().filter(|t| (t.role == Role::System) == system);
        for piece in chosen.flat_map(|t| t.pieces.iter_mut().rev()).filter(|p| p.content) {
            let cut = excess.min(piece.ids.len().saturating_sub(floor));
            piece.ids.truncate(piece.ids.len() - cut);
            excess -= cut;
        }
    }
}

/// LLaMA-Factory's rule, exchange after exchange until the room is used up.
fn proportional(mut exchanges: Vec<Exchange>, cutoff: usize, last_first: bool) -> Vec<TurnTokens> {
    let mut room = cutoff;
    let mut order: Vec<usize> = (0..exchanges.len()).collect();
    if last_first {
        order.reverse();
    }
    for i in order {
        share(&mut exchanges[i], room);
        room -= size(&exchanges[i]);
    }
    exchanges.into_iter().flatten().collect()
}

/// Shares `room` between the prompt (with the answer's header) and the answer, and cuts both at their ends.
fn share(exchange: &mut [TurnTokens], room: usize) {
    let Some((answer, prompt)) = exchange.split_last().filter(|(t, _)| t.role == Role::Assistant) else {
        exchange.iter_mut().for_each(|t| t.pieces.clear());
        return;
    };
    let headers = answer.pieces.iter().take_while(|p| !p.content).count();
    let source = size(prompt) + header(answer);
    let (mut source_left, mut target_left) = infer_seqlen(source, answer.len() - header(answer), room);
    let last = exchange.len() - 1;
    for (i, turn) in exchange.iter_mut().enumerate() {
        for (j, piece) in turn.pieces.iter_mut().enumerate() {
            let left = if i == last && j >= headers { &mut target_left } else { &mut source_left };
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
            role: if answer { Role::Assistant } else { Role::User },
            pieces: vec![
                piece(vec![1, 2, 3], false, false),
                piece((first..first + n as u32).collect(), answer, true),
                piece(vec![4], answer, false),
                piece(vec![5], answer, false),
            ],
        }
    }

    fn cut(turns: Vec<TurnTokens>, cutoff: usize, rule: Rule) -> Cut {
        let total = turns.len();
        let kept = match rule {
            Rule::Llamafactory => proportional(exchanges(turns), cutoff, false),
            _ => structured(turns, cutoff),
        };
        joined(&kept, total)
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
            assert!(
                cut(vec![turn(false, 50, 100), turn(true, 50, 200)], cutoff, Rule::Structure).encoded.spans.is_empty()
            );
        }
    }

    #[test]
    fn where_only_the_last_answer_is_learned_the_last_exchanges_stay() {
        let mut first = turn(true, 40, 200);
        first.pieces.iter_mut().for_each(|p| p.learned = false);
        let mut system = turn(false, 5, 50);
        system.role = Role::System;
        let dialogue = vec![
            system,
            turn(false, 5, 100),
            first.clone(),
            turn(false, 5, 300),
            first,
            turn(false, 5, 500),
            turn(true, 5, 600),
        ];
        let whole = cut(dialogue.clone(), 85, Rule::Structure);
        assert_eq!((whole.encoded.ids.len(), whole.turns_cut), (85, 2));
        assert_eq!(whole.encoded.spans, [(78, 85)]);
        assert_eq!((whole.encoded.ids[3], whole.encoded.ids[13]), (50, 300));
        let tight = cut(dialogue, 29, Rule::Structure);
        assert_eq!(tight.turns_cut, 4);
        assert_eq!(tight.encoded.supervised(), 6);
    }

    #[test]
    fn a_question_is_not_wiped_out_by_a_long_system_prompt() {
        let mut system = turn(false, 500, 10_000);
        system.role = Role::System;
        let cut = cut(vec![system, turn(false, 20, 300), turn(true, 10, 600)], 100, Rule::Structure);
        assert_eq!(cut.encoded.ids.len(), 100);
        assert!(cut.encoded.ids.windows(2).any(|w| w == [318, 319]));
    }

    #[test]
    fn llamafactorys_rule_cuts_prompt_and_answer_at_their_ends() {
        // 38 tokens up to the answer's content, 42 from there: 24 and 26 of them for a room of 50.
        let exchange = || vec![turn(false, 30, 100), turn(true, 40, 200)];
        let shortened = cut(exchange(), 50, Rule::Llamafactory);
        let expected: Vec<u32> = [1, 2, 3].into_iter().chain(100..121).chain(200..226).collect();
        assert_eq!(shortened.encoded.ids, expected);
        assert_eq!(shortened.encoded.spans, [(24, 50)]);
        // What has no answer is removed, and counted.
        let mut dialogue = exchange();
        dialogue.push(turn(false, 5, 300));
        assert_eq!(cut(dialogue, 1000, Rule::Llamafactory).turns_cut, 1);
        let both = |last_first| {
            let kept = proportional(exchanges([exchange(), exchange()].concat()), 80, last_first);
            (size(&kept[..2]), size(&kept[2..]))
        };
        assert_eq!((both(false), both(true)), ((80, 0), (0, 80)));
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
