//! A `tokenizer.json` made into tables.

use super::border;
use super::cpu;
use super::line::{MOST_IDS, MOST_MERGES, NONE};
use super::merge::{self, Scratch};
use super::source::{Source, byte_of};
use super::tables::{Head, Tables, WHOLE_ONLY};
use std::collections::HashMap;

/// Reads and compiles.
///
/// # Errors
///
/// What this engine does not know of the tokenizer; another engine may.
pub(super) fn compile(json: &[u8]) -> Result<(Head, Tables), String> {
    let source: Source<'_> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let (pattern, nfc) = source.parts()?;
    let model = &source.model;
    let ids: HashMap<&str, u32> = model.vocab.0.iter().map(|(token, id)| (token.as_ref(), *id)).collect();
    if ids.values().any(|&id| id as usize >= MOST_IDS) || model.merges.len() >= MOST_MERGES {
        return Err("its vocabulary is too large".to_owned());
    }
    let contents = Contents { metaspace: pattern.is_metaspace(), bytes: byte_of() };

    let mut tables = Tables { byte_ids: byte_ids(&ids, contents.metaspace)?, ..Tables::default() };
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
        tables.byte_pairs = pairs.map(|[left, right]| tables.rank(cpu::PLAIN, left, right)).collect();
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
            symbols_of(&ids, &tables.byte_ids, content, &mut scratch.ids);
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
    let head = Head {
        pattern,
        nfc,
        ignore_merges: model.ignore_merges,
        whole_only,
        monotone: monotone(&merges, &tables.merged),
        added: source.added_tokens,
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

fn byte_ids(ids: &HashMap<&str, u32>, metaspace: bool) -> Result<Vec<u32>, String> {
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
    names
        .iter()
        .map(|name| ids.get(name.as_str()).copied().ok_or_else(|| format!("it has no token for the byte {name}")))
        .collect()
}

/// The first symbols of a text without pieces: its characters, or their bytes.
fn symbols_of(ids: &HashMap<&str, u32>, byte_ids: &[u32], content: &[u8], symbols: &mut Vec<u32>) {
    symbols.clear();
    let Ok(text) = std::str::from_utf8(content) else { return symbols.push(NONE) };
    for (at, c) in text.char_indices() {
        let name = &text[at..at + c.len_utf8()];
        match ids.get(name) {
            Some(&id) => symbols.push(id),
            None => symbols.extend(name.bytes().map(|byte| byte_ids[usize::from(byte)])),
        }
    }
}
