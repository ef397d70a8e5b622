//! A `tokenizer.json` made into tables.

use super::border;
use super::cpu;
use super::line::{MOST_IDS, MOST_MERGES, NONE};
use super::merge::{self, Scratch};
use super::source::{Model, Parts, Source, byte_of};
use super::tables::{Head, Tables, WHOLE_ONLY};
use super::unknown::{Unknown, by_byte};
use crate::tokenizer::added::assign;
use std::collections::HashMap;

/// Reads and compiles.
///
/// # Errors
///
/// What this engine does not know of the tokenizer; another engine may.
pub(super) fn compile(json: &[u8]) -> Result<(Head, Tables), String> {
    let source: Source<'_> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let Parts { pattern, splits, nfc } = source.parts()?;
    let model = &source.model;
    let ids: HashMap<&str, u32> = model.vocab.0.iter().map(|(token, id)| (token.as_ref(), *id)).collect();
    if ids.values().any(|&id| id as usize >= MOST_IDS) || model.merges.len() >= MOST_MERGES {
        return Err("its vocabulary is too large".to_owned());
    }
    let contents = Contents { metaspace: pattern.is_metaspace(), bytes: byte_of() };

    let mut tables = Tables { byte_ids: byte_ids(&ids, contents.metaspace, model.byte_fallback), ..Tables::default() };
    let unknown = unknown(model, &ids, contents.metaspace, &tables.byte_ids)?;
    let mut merges = Vec::with_capacity(model.merges.len());
    let mut joined = String::new();
    for merge in &model.merges {
        let (left, right) = merge.parts().ok_or("a merge is not two tokens")?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id =
            |token: &str| ids.get(token).copied().ok_or_else(|| format!("a merge names {token:?}, which is no token"));
        merges.push((id(left)?, id(right)?));
        tables.merged.push(id(&joined)?);
    }
    tables.set_pairs(&merges);
    if !contents.metaspace {
        let pairs = (0..=u16::MAX).map(|pair| pair.to_be_bytes().map(|byte| tables.byte_ids[usize::from(byte)]));
        let rank = |[left, right]: [u32; 2]| match left == NONE || right == NONE {
            true => NONE,
            false => tables.rank(cpu::PLAIN, left, right),
        };
        tables.byte_pairs = pairs.map(rank).collect();
    }

    tables.borders = vec![0; border::WORDS];
    let mut scratch = Scratch::default();
    let mut whole_only = false;
    let decoded: Vec<(Vec<u8>, u32)> =
        model.vocab.0.iter().filter_map(|(token, id)| Some((contents.of(token)?, *id))).collect();
    let mut tokens: Vec<(&[u8], u32)> = Vec::with_capacity(decoded.len());
    for (content, id) in &decoded {
        border::note(&mut tables.borders, content);
        if contents.metaspace {
            symbols_of(unknown, &ids, &tables.byte_ids, content, &mut scratch.ids);
            merge::merge(&tables, &mut scratch);
        } else if content.iter().any(|&byte| tables.byte_ids[usize::from(byte)] == NONE) {
            unknown.symbols(by_byte(content, &tables.byte_ids), &[], &mut scratch.ids);
            merge::merge(&tables, &mut scratch);
        } else {
            merge::merge_bytes(&tables, content, &mut scratch);
        }
        if scratch.ids == [*id] {
            tokens.push((content, *id));
        } else if model.ignore_merges {
            whole_only = true;
            tokens.push((content, id | WHOLE_ONLY));
        }
    }
    tables.set_tokens(&tokens);
    tables.characters = (0..1 << 16).map(|code| tables.character(code)).collect();
    let mut added = source.added_tokens;
    assign(&mut added, ids.len(), |token| ids.get(token).copied());
    let head = Head {
        pattern,
        splits,
        unknown,
        nfc,
        ignore_merges: model.ignore_merges,
        whole_only,
        monotone: monotone(&merges, &tables.merged),
        largest: ids.values().copied().max().unwrap_or_default(),
        added,
    };
    Ok((head, tables))
}

/// Whether no merge ranks before one that makes a part of it.
fn monotone(merges: &[(u32, u32)], merged: &[u32]) -> bool {
    // The last rank that makes each token.
    let mut made = HashMap::with_capacity(merged.len());
    for (rank, id) in merged.iter().enumerate() {
        made.insert(*id, rank);
    }
    let after = |rank: usize, part: u32| made.get(&part).is_none_or(|&made| made < rank);
    merges.iter().enumerate().all(|(rank, &(left, right))| after(rank, left) && after(rank, right))
}

/// How a token's name says its content.
struct Contents {
    metaspace: bool,
    bytes: [Option<u8>; 324],
}

impl Contents {
    /// The bytes of a token, or nothing for one that no text can give.
    fn of(&self, token: &str) -> Option<Vec<u8>> {
        if token.is_empty() {
            None
        } else if self.metaspace {
            Some(token.as_bytes().to_vec())
        } else {
            token.chars().map(|c| self.bytes.get(c as usize).copied().flatten()).collect()
        }
    }
}

/// The id of each byte, or [`NONE`]; with marked blanks, of what stands in for it.
fn byte_ids(ids: &HashMap<&str, u32>, metaspace: bool, fallback: bool) -> Vec<u32> {
    if metaspace && !fallback {
        return vec![NONE; 256];
    }
    let mut names = vec![String::new(); 256];
    if metaspace {
        names = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    } else {
        for (code, byte) in byte_of().into_iter().enumerate() {
            if let (Some(byte), Some(c)) = (byte, char::from_u32(code as u32)) {
                names[usize::from(byte)] = c.to_string();
            }
        }
    }
    names.iter().map(|name| ids.get(name.as_str()).copied().unwrap_or(NONE)).collect()
}

/// What happens to characters that are no tokens. A byte that no text has may be missing without harm.
fn unknown(model: &Model<'_>, ids: &HashMap<&str, u32>, metaspace: bool, byte_ids: &[u32]) -> Result<Unknown, String> {
    let by_bytes = metaspace && model.byte_fallback;
    let in_text = |byte: &usize| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
    let lacking = (0..256).filter(in_text).any(|byte| byte_ids[byte] == NONE);
    let token = model.unk_token.as_deref();
    let id = token.and_then(|token| ids.get(token).copied());
    if lacking && token.is_some() && id.is_none() {
        return Err("its token for unknown characters is not in its vocabulary".to_owned());
    }
    Ok(Unknown { lacking, by_bytes, token: id, fused: model.fuse_unk })
}

/// The first symbols of a text without pieces: its characters, or what stands in for them.
fn symbols_of(unknown: Unknown, ids: &HashMap<&str, u32>, byte_ids: &[u32], content: &[u8], symbols: &mut Vec<u32>) {
    let text = std::str::from_utf8(content).unwrap_or_default();
    let characters = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
    let known = characters.map(|c| (ids.get(c).copied().unwrap_or(NONE), c.as_bytes()));
    unknown.symbols(known, byte_ids, symbols);
}
