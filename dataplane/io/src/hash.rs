//! The step that weft's hashes are made of.

/// The two halves of the product, together: each bit of a factor reaches bits all over the result.
#[inline(always)]
pub const fn folded_product(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}
