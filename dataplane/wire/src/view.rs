//! What all header views have in common: a header is a reference to an array of exactly its length, so that reading
//! a field needs no bounds check and can't panic, without one line of `unsafe`.
//!
//! Each header's file has the same six parts: the head with its RFC, `mod field` with the octet where each field
//! begins, `Header` (the fixed part) made by [`header_view`], its getters, its setters, and tests. Where a header has a
//! variable part or states a length, `Packet::new_checked` holds the octets to it.

/// Copies the `LEN` octets that begin at octet `AT`. A field outside of the header does not compile.
#[inline(always)]
pub(crate) fn get<const AT: usize, const LEN: usize, const N: usize>(bytes: &[u8; N]) -> [u8; LEN] {
    const { assert!(AT + LEN <= N, "the field lies outside of its header") };
    let mut out = [0; LEN];
    out.copy_from_slice(&bytes[AT..AT + LEN]);
    out
}

/// Writes the `LEN` octets that begin at octet `AT`. A field outside of the header does not compile.
#[inline(always)]
pub(crate) fn put<const AT: usize, const LEN: usize, const N: usize>(bytes: &mut [u8; N], value: [u8; LEN]) {
    const { assert!(AT + LEN <= N, "the field lies outside of its header") };
    bytes[AT..AT + LEN].copy_from_slice(&value);
}

/// Defines `LEN` and `Header<B>`, a view of the first `LEN` octets of a header: over a `&[u8; LEN]` it reads, over a
/// `&mut [u8; LEN]` or an array of its own it writes too.
macro_rules! header_view {
    ($(#[$doc:meta])+ $len:expr) => {
        /// The length of the fixed part in octets.
        pub const LEN: usize = $len;

        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Header<B>(B);

        /// A header that is read where it lies.
        pub type View<'a> = Header<&'a [u8; LEN]>;

        impl<'a> View<'a> {
            /// The header at the start of `buffer`, and all that follows it. Nothing but the length is checked.
            ///
            /// # Errors
            /// [`Malformed::Truncated`] when `buffer` is shorter than [`LEN`].
            #[inline]
            pub fn split(buffer: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
                match buffer.split_first_chunk() {
                    Some((bytes, rest)) => Ok((Header(bytes), rest)),
                    None => Err(Malformed::truncated(LEN, buffer.len())),
                }
            }
        }

        impl<'a> Header<&'a mut [u8; LEN]> {
            /// As `split`, to write.
            ///
            /// # Errors
            /// [`Malformed::Truncated`] when `buffer` is shorter than [`LEN`].
            #[inline]
            pub fn split_mut(buffer: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), Malformed> {
                let have = buffer.len();
                match buffer.split_first_chunk_mut() {
                    Some((bytes, rest)) => Ok((Header(bytes), rest)),
                    None => Err(Malformed::truncated(LEN, have)),
                }
            }
        }

        impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
            /// A view of octets that have the right length by their type.
            #[inline]
            pub const fn new(bytes: B) -> Self {
                Header(bytes)
            }

            /// The octets.
            #[inline]
            pub fn as_bytes(&self) -> &[u8; LEN] {
                self.0.borrow()
            }
        }

        impl<B: std::borrow::BorrowMut<[u8; LEN]>> Header<B> {
            /// The octets, to write.
            #[inline]
            pub fn as_bytes_mut(&mut self) -> &mut [u8; LEN] {
                self.0.borrow_mut()
            }
        }
    };
}
pub(crate) use header_view;
