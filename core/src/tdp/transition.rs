//! Which change of an entry is legal, which needs a flush, which frees a
//! table: TDP-5 as a table.
use crate::spte::Kind;

/// What a change of an entry calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing: hardware caches neither the old entry nor what it led to.
    Quiet,
    /// The TLB may hold what the entry mapped.
    Flush,
    /// As `Flush`, and the table that was linked is to be removed and freed.
    Unlink,
    /// Both are leaves of the same frames: a flush is due if a permission was
    /// taken away. Another frame is a bug.
    Compare,
    /// Must not happen.
    Illegal,
}

/// What changing an entry of kind `old` into one of kind `new` calls for.
///
/// | from \ to | empty | MMIO | frozen | leaf | table |
/// |---|---|---|---|---|---|
/// | empty | quiet | quiet | quiet | quiet | quiet |
/// | MMIO | quiet | quiet | quiet | quiet | quiet |
/// | frozen | quiet | quiet | illegal | quiet | quiet |
/// | leaf | flush | illegal | flush | compare | quiet |
/// | table | unlink | illegal | unlink | unlink | illegal |
///
/// A leaf becomes a table by a split: the table maps the same frames, so what
/// the TLB holds stays right. A leaf or a table never becomes MMIO at once: it
/// is frozen and flushed first, because hardware may cache the mapping while
/// the fault handler already treats the page as a device. A frozen entry
/// belongs to its remover, who writes it once more.
pub const fn effect(old: Kind, new: Kind) -> Effect {
    match (old, new) {
        (Kind::Frozen, Kind::Frozen) => Effect::Illegal,
        (Kind::Empty | Kind::Mmio | Kind::Frozen, _) => Effect::Quiet,
        (Kind::Leaf, Kind::Empty | Kind::Frozen) => Effect::Flush,
        (Kind::Leaf, Kind::Leaf) => Effect::Compare,
        (Kind::Leaf, Kind::Table) => Effect::Quiet,
        (Kind::Table, Kind::Empty | Kind::Frozen | Kind::Leaf) => Effect::Unlink,
        (Kind::Leaf | Kind::Table, Kind::Mmio) | (Kind::Table, Kind::Table) => Effect::Illegal,
    }
}
