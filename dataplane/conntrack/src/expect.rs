//! Expectations: connections that a helper has read of in another one.

use crate::link::Link;
use crate::nat::Side;
use crate::tuple::Tuple;

/// A connection that is expected. Its parent's zone, mark and label are its own, and its first packet is `rel`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The connection that it was read of ([`crate::Tracked::connection`]).
    pub parent: Link,
    /// Its first packet. A `src_port` of 0 is any.
    pub tuple: Tuple,
    /// Whether the source address is any.
    pub any_source: bool,
    /// What its first packet's source or destination becomes, if it is committed with `nat`.
    pub translation: Option<(Side, u128)>,
}

/// Why an expectation was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Unexpected {
    /// The parent has gone.
    #[error("the connection that expects another has ended")]
    NoParent,
    /// There are as many as there may be.
    #[error("there are as many expected connections as there may be")]
    Full,
    /// The same is expected already.
    #[error("the connection is expected already")]
    Known,
}
