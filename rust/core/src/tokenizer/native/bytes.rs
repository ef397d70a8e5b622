//! Loads of several bytes of a text.

/// Sixteen bytes from `at`, with zeros behind the end of the text.
#[inline(always)]
pub(super) fn load(text: &[u8], at: usize) -> u128 {
    if let Some(&bytes) = text.get(at..).and_then(|rest| rest.first_chunk()) {
        return u128::from_le_bytes(bytes);
    }
    // The last sixteen, without those before `at`: a copy of so many as there are would be waited for.
    if let Some(&bytes) = text.last_chunk::<16>() {
        let before = (at + 16 - text.len()).min(16);
        return u128::from_le_bytes(bytes).checked_shr(8 * before as u32).unwrap_or(0);
    }
    let mut bytes = [0; 16];
    let rest = text.get(at..).unwrap_or_default();
    bytes[..rest.len()].copy_from_slice(rest);
    u128::from_le_bytes(bytes)
}

/// Eight bytes from `at`, with zeros behind the end of the text.
#[inline(always)]
pub(super) fn load_half(text: &[u8], at: usize) -> u64 {
    match text.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(&bytes) => u64::from_le_bytes(bytes),
        None => load(text, at) as u64,
    }
}
